"""llama.cpp's INI presets (``llama-server --models-preset``) as a draft of ``router.toml``. Pure.

Source: llama.cpp's preset reader (common/preset.cpp), October 2026: a key is an option without
its dashes, or its environment variable; ``[*]`` applies to all models; "#" or ";" ends a value.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

from ..core.config import placeholders
from ..errors.config import ConfigError, Problem
from . import llama_options
from .draft import Draft, DraftModel, Note, Value
from .verify import verify

_HEADER: Final = re.compile(r"\[([^\]]+)\][ \t]*(?:[;#].*)?")
_ENTRY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*([^;#]*)([;#].*)?")
_COMMENT: Final = re.compile(r"[ \t]*(?:[;#].*)?")

#: The section for all models.
_GLOBAL: Final = "*"

#: The section of keys before the first header.
_DEFAULT: Final = "default"

#: Of a model without a file here: its arguments name it. No other command may lack ``$path``,
#: because llama-server without a model starts as a router of its own.
_COMMAND: Final = ["llama-server", "--port", "$port", "--host", "$host"]

_COMMAND_WITH_FILE: Final = ["llama-server", "--model", "$path", *_COMMAND[1:]]

#: Options that the router sets itself or replaces, by their usual name, each with the reason.
_ROUTER_OPTIONS: Final = {
    "--host": "the router sets the address of each backend",
    "--port": "the router sets the address of each backend",
    "--reuse-port": "the router sets the address of each backend",
    "--api-key": "only the router connects to backends",
    "--api-key-file": "only the router connects to backends",
    "--ssl-cert-file": "only the router connects to backends",
    "--ssl-key-file": "only the router connects to backends",
    "--models-dir": "use models_dirs of [router]",
    "--models-preset": "import that file, too",
    "--models-max": "groups define which models run side by side",
    "--models-autoload": "use autoload of [router]",
}

#: Keys that only a preset may have, by their variables. Source: llama.cpp, common/arg.h.
_PRESET_ONLY: Final = {
    "__PRESET_LOAD_ON_STARTUP": "load-on-startup",
    "__PRESET_STOP_TIMEOUT": "stop-timeout",
    "__PRESET_DEDUP_CACHE_MODELS": "dedup-cache-models",
}
_PRESET_ONLY_PREFIX: Final = "__PRESET_"

#: Those of them that have no counterpart, each with the reason.
_WITHOUT_COUNTERPART: Final = {
    "dedup-cache-models": "a found model with the file of another table is never listed twice",
}

#: Options that name the model.
_SOURCES: Final = frozenset({"--model", "--hf-repo", "--model-url", "--docker-repo"})

#: Options with secrets: their values are not quoted.
_SECRET: Final = frozenset({"--api-key", "--hf-token"})

_FALSE: Final = frozenset({"off", "disabled", "false", "0"})


@attrs.frozen
class _Setting:
    """One line of a section.

    Attributes:
        key: The key as written.
        value: The value as written.
        line: Its line.
        lost: What follows the value behind a "#" or ";", if it looks like a part of it.
        option: The option of `llama-server`; None for an unknown one.
    """

    key: str
    value: str
    line: int
    lost: str = ""

    @property
    def option(self) -> llama_options.Option | None:
        return llama_options.find(self.key)

    @property
    def identity(self) -> str:
        """A name that is equal for two settings if the later one replaces the other."""
        if self.option is None:
            return _PRESET_ONLY.get(self.key, self.key)
        return self.option.names[-1]

    @property
    def reason_to_omit(self) -> str | None:
        """The reason why it is left out; None if it is not."""
        if self.identity.startswith(_PRESET_ONLY_PREFIX):
            return "it is for llama-server's own router, and is not known here"
        return (_ROUTER_OPTIONS | _WITHOUT_COUNTERPART).get(self.identity)

    @property
    def is_variable(self) -> bool:
        """Whether the key is an environment variable of llama-server without a known option."""
        return self.option is None and self.key.startswith("LLAMA_")

    @property
    def truth(self) -> bool:
        return self.value.lower() not in _FALSE

    def words(self) -> list[str]:
        """Return it as arguments."""
        option = self.option
        if option is None:
            return [f"--{self.key}", placeholders.escape(self.value)]
        if option.takes_value:
            return [_spelling(self.key, option.names), placeholders.escape(self.value)]
        negated = self.key in {name.lstrip("-") for name in option.negations}
        if self.truth is not negated:
            return [_spelling(self.key, option.names)]
        return [_spelling(self.key, option.negations)] if option.negations else []


def _spelling(key: str, names: tuple[str, ...]) -> str:
    """Return the spelling among *names* that is *key* with dashes, or the usual one."""
    return next((name for name in names if name.lstrip("-") == key), names[-1])


@attrs.define
class _Section:
    name: str
    line: int
    settings: dict[str, _Setting] = attrs.field(factory=dict[str, _Setting])


def translate(text: str, *, source: str) -> Draft:
    """Return the presets in *text* as a draft.

    Args:
        text: A whole INI file.
        source: Its name, for the first line of the result.

    Raises:
        ConfigError: with all problems, each with its line.
    """
    sections = _parse(text)
    draft = Draft(source)
    draft.spawn["command"] = list(_COMMAND_WITH_FILE)
    shared = sections.pop(_GLOBAL, None)
    common = {} if shared is None else _for_all(shared, draft)
    for section in sections.values():
        if (model := _model(section, common, draft)) is not None:
            draft.models[section.name] = model
    if words := _arguments(common):
        draft.spawn["args"] = words
    verify(draft)
    return draft


def _parse(text: str) -> dict[str, _Section]:
    """Return the sections by name. A section replaces an earlier one of the same name.

    Raises:
        ConfigError: with every line that is not a header, setting or comment.
    """
    section = _Section(_DEFAULT, 1)
    sections: dict[str, _Section] = {}
    problems: list[Problem] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if header := _HEADER.fullmatch(line):
            section = _Section(header[1].strip(" \t"), number)
            sections[section.name] = section
        elif entry := _ENTRY.fullmatch(line):
            setting = _Setting(entry[1], entry[2].rstrip(" \t"), number, _cut_off(entry))
            if setting.key == "version":
                continue
            section.settings[setting.identity] = setting
            sections.setdefault(section.name, section)
        elif not _COMMENT.fullmatch(line):
            message = "expected [section], 'key = value', or a comment"
            problems.append(Problem((), message, number))
    if problems:
        raise ConfigError(tuple(problems))
    return sections


def _cut_off(entry: re.Match[str]) -> str:
    """Return what ``#`` or ``;`` cut off a value, if it is hardly meant as a comment."""
    value, rest = entry[2], entry[3] or ""
    is_quoted = any(value.count(quote) % 2 for quote in "\"'")
    is_joined = bool(value) and not value[-1].isspace() and bool(rest[1:].strip())
    return rest if is_quoted or is_joined else ""


def _for_all(section: _Section, draft: Draft) -> dict[str, _Setting]:
    """Return the settings of ``[*]`` that become arguments; translate the others."""
    common: dict[str, _Setting] = {}
    for identity, setting in section.settings.items():
        draft.notes += _cut_note(setting)
        if (reason := setting.reason_to_omit) is not None:
            draft.notes.append(_note(setting, reason))
        elif identity == "stop-timeout":
            draft.spawn["stop_timeout_s"] = _seconds(setting)
        elif setting.is_variable:
            _set_variable(draft.spawn, setting)
        elif identity in {"load-on-startup", "--model", "--mmproj", "--alias"}:
            draft.notes.append(_note(setting, "set it for each model"))
        else:
            common[identity] = setting
            draft.notes += _warnings(setting)
    return common


def _model(section: _Section, common: dict[str, _Setting], draft: Draft) -> DraftModel | None:
    """Return the table of a model; None if the section names no model file."""
    words: list[str] = []
    if not any(map(_names_a_model, section.settings)):
        if "/" not in section.name:
            settings = ", ".join(f"{each.key} = {each.value}" for each in section.settings.values())
            reason = "it names no model file; write [models.NAME] with a path"
            draft.notes.append(Note(f"[{section.name}]", reason, settings, section.line))
            return None
        # The name of a model in the cache.
        words = ["--hf-repo", placeholders.escape(section.name)]
    model = DraftModel(section.name, section.line)
    own: dict[str, _Setting] = {}
    for identity, setting in section.settings.items():
        model.notes += _cut_note(setting)
        match identity:
            case "--model":
                model.fields["path"] = setting.value
            case "--mmproj":
                model.fields["mmproj"] = setting.value
                words += ["--mmproj", "$mmproj"]
            case _ if not _translate_setting(identity, setting, model, draft):
                own[identity] = setting
                model.notes += _warnings(setting)
            case _:
                pass
    if "path" not in model.fields:
        model.spawn["command"] = list(_COMMAND)
        model.spawn["args"] = [*words, *_arguments(common | own)]
    elif own.keys() & common.keys():  # an option must not appear twice
        model.spawn["args"] = [*words, *_arguments(common | own)]
    elif words := [*words, *_arguments(own)]:
        model.fields["args"] = words
    return model


def _names_a_model(identity: str) -> bool:
    """Return whether an option names the model. Without one, llama-server loads nothing."""
    ready_made = identity.endswith("-default") and identity != "--spec-default"
    return identity in _SOURCES or ready_made


def _translate_setting(identity: str, setting: _Setting, model: DraftModel, draft: Draft) -> bool:
    """Translate a setting that does not become an argument; return False if it does."""
    match identity:
        case "--alias":
            names = [name.strip() for name in setting.value.split(",")]
            if names := [name for name in names if name and name != model.name]:
                model.fields["aliases"] = list(dict.fromkeys(names))
        case "stop-timeout":
            model.spawn["stop_timeout_s"] = _seconds(setting)
        case "load-on-startup":
            _load_on_startup(setting, model, draft)
        case _ if setting.is_variable:
            _set_variable(model.spawn, setting)
        case _ if (reason := setting.reason_to_omit) is not None:
            model.notes.append(_note(setting, reason))
        case _:
            return False
    return True


def _set_variable(spawn: dict[str, Value], setting: _Setting) -> None:
    env = spawn.setdefault("env", {})
    assert isinstance(env, dict)
    env[setting.key] = placeholders.escape(setting.value)


def _load_on_startup(setting: _Setting, model: DraftModel, draft: Draft) -> None:
    if not setting.truth:
        return
    if "startup_model" in draft.router:
        reason = "only one model is loaded at start (startup_model)"
        model.notes.append(_note(setting, reason))
    else:
        draft.router["startup_model"] = model.name


def _arguments(settings: dict[str, _Setting]) -> list[str]:
    return [word for setting in settings.values() for word in setting.words()]


def _cut_note(setting: _Setting) -> list[Note]:
    """Return a note on a value that ends at a comment sign, as llama.cpp reads it."""
    if not setting.lost:
        return []
    sign = setting.lost[0]
    return [_note(setting, f"the value ends at {sign!r}, as in llama.cpp", taken=True)]


def _warnings(setting: _Setting) -> list[Note]:
    """Return notes on a setting that became an argument which may be wrong."""
    option = setting.option
    if option is None:
        reason = f"unknown option; it is passed on as --{setting.key}"
        return [_note(setting, reason, taken=True)]
    if option.names[-1] in {"--mmap", "--mlock"}:
        return [_note(setting, "newer versions of llama-server call it --load-mode", taken=True)]
    if not option.takes_value and not setting.words():
        return [_note(setting, "it can only be switched on, so it is left out")]
    return []


def _seconds(setting: _Setting) -> Value:
    try:
        return int(setting.value)
    except ValueError:
        message = f"{setting.key}: expected a whole number of seconds, got {setting.value!r}"
        raise ConfigError((Problem((), message, setting.line),)) from None


def _note(setting: _Setting, reason: str, *, taken: bool = False) -> Note:
    value = None if setting.identity in _SECRET else setting.value
    return Note(setting.key, reason, value, setting.line, taken)
