"""llama.cpp's INI presets (``llama-server --models-preset``) as a draft of ``router.toml``. Pure.

Source: llama.cpp's preset reader (common/preset.cpp), October 2026: a key is an option without
its dashes, or the variable for it; ``[*]`` is for all models; a "#" or ";" ends a value.
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
_ENTRY: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_.-]*)[ \t]*=[ \t]*([^;#]*)(?:[;#].*)?")
_COMMENT: Final = re.compile(r"[ \t]*(?:[;#].*)?")

#: For every model.
_GLOBAL: Final = "*"

#: What keys before the first section belong to.
_DEFAULT: Final = "default"

_COMMAND: Final = ["llama-server", "--port", "$port", "--host", "$host"]

#: The router's own affair, by the usual name of the option.
_ROUTERS: Final = {
    "--host": "the router says where backends listen",
    "--port": "the router says where backends listen",
    "--reuse-port": "the router says where backends listen",
    "--api-key": "only the router reaches a backend",
    "--api-key-file": "only the router reaches a backend",
    "--ssl-cert-file": "only the router reaches a backend",
    "--ssl-key-file": "only the router reaches a backend",
    "--models-dir": "list the models",
    "--models-preset": "list the models",
    "--models-max": "groups say which models run side by side",
    "--models-autoload": "a model is loaded when a request names it",
}

#: Options that say where the model is.
_SOURCES: Final = frozenset({"--model", "--hf-repo", "--model-url", "--docker-repo"})

_SECRET: Final = frozenset({"--api-key", "--hf-token"})

_FALSE: Final = frozenset({"off", "disabled", "false", "0"})


@attrs.frozen
class _Setting:
    """One line of a section.

    Attributes:
        key: As it was written.
        value: The same.
        line: Its line.
        option: What it means, as far as that is known.
    """

    key: str
    value: str
    line: int

    @property
    def option(self) -> llama_options.Option | None:
        return llama_options.find(self.key)

    @property
    def identity(self) -> str:
        """What two settings share exactly if one replaces the other."""
        return self.key if self.option is None else self.option.names[-1]

    @property
    def is_variable(self) -> bool:
        """Whether it is a variable of a llama-server that we know no option for."""
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
    """Return the one of *names* that *key* is, or the usual one."""
    return next((name for name in names if name.lstrip("-") == key), names[-1])


@attrs.define
class _Section:
    name: str
    line: int
    settings: dict[str, _Setting] = attrs.field(factory=dict[str, _Setting])


def translate(text: str, *, source: str) -> Draft:
    """Return what the presets in *text* are here.

    Args:
        text: A whole INI file.
        source: How to call it in the first line of the result.

    Raises:
        ConfigError: with every problem that was found, each with its line.
    """
    sections = _parse(text)
    draft = Draft(source)
    draft.spawn["command"] = list(_COMMAND)
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
    """Return the sections by name. A second one of a name replaces the first.

    Raises:
        ConfigError: with every line that is no header, setting or comment.
    """
    section = _Section(_DEFAULT, 1)
    sections: dict[str, _Section] = {}
    problems: list[Problem] = []
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        if header := _HEADER.fullmatch(line):
            section = _Section(header[1].strip(" \t"), number)
            sections[section.name] = section
        elif entry := _ENTRY.fullmatch(line):
            setting = _Setting(entry[1], entry[2].rstrip(" \t"), number)
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


def _for_all(section: _Section, draft: Draft) -> dict[str, _Setting]:
    """Return the settings of ``[*]`` that are arguments; take over the others."""
    common: dict[str, _Setting] = {}
    for identity, setting in section.settings.items():
        if identity in _ROUTERS:
            draft.notes.append(_note(setting, _ROUTERS[identity]))
        elif identity == "stop-timeout":
            draft.spawn["stop_timeout_s"] = _seconds(setting)
        elif setting.is_variable:
            _set_variable(draft.spawn, setting)
        elif identity in {"load-on-startup", "--model", "--mmproj", "--alias"}:
            draft.notes.append(_note(setting, "say it for each model"))
        else:
            common[identity] = setting
            draft.notes += _doubts(setting)
    return common


def _model(section: _Section, common: dict[str, _Setting], draft: Draft) -> DraftModel | None:
    """Return the table of a model; None if the section does not say which file it is."""
    words: list[str] = []
    if not any(map(_names_a_model, section.settings)):
        if "/" not in section.name:
            settings = ", ".join(f"{each.key} = {each.value}" for each in section.settings.values())
            reason = "it does not say which file; write [models.NAME] with its path"
            draft.notes.append(Note(f"[{section.name}]", reason, settings, section.line))
            return None
        # The name of a model in the cache.
        words = ["--hf-repo", placeholders.escape(section.name)]
    model = DraftModel(section.name, section.line)
    own: dict[str, _Setting] = {}
    for identity, setting in section.settings.items():
        match identity:
            case "--model":
                model.fields["path"] = setting.value
                words = ["--model", "$path", *words]
            case "--mmproj":
                model.fields["mmproj"] = setting.value
                words += ["--mmproj", "$mmproj"]
            case _ if not _is_taken(identity, setting, model, draft):
                own[identity] = setting
                model.notes += _doubts(setting)
            case _:
                pass
    if own.keys() & common.keys():  # an option must not be there twice
        model.spawn["args"] = [*words, *_arguments(common | own)]
    elif words := [*words, *_arguments(own)]:
        model.fields["args"] = words
    return model


def _names_a_model(identity: str) -> bool:
    """Return whether an option says what is loaded. Without one, a llama-server loads nothing."""
    ready_made = identity.endswith("-default") and identity != "--spec-default"
    return identity in _SOURCES or ready_made


def _is_taken(identity: str, setting: _Setting, model: DraftModel, draft: Draft) -> bool:
    """Take over a setting that is no argument of a backend here; return whether it is one."""
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
        case _ if identity in _ROUTERS:
            model.notes.append(_note(setting, _ROUTERS[identity]))
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


def _doubts(setting: _Setting) -> list[Note]:
    """Say so if a setting became an argument that may be wrong."""
    option = setting.option
    if option is None:
        reason = f"no such option is known here; it is passed on as --{setting.key}"
        return [_note(setting, reason, taken=True)]
    if option.names[-1] in {"--mmap", "--mlock"}:
        return [_note(setting, "newer llama-servers call this --load-mode", taken=True)]
    if not option.takes_value and not setting.words():
        return [_note(setting, "the option can only be switched on, so it is left out")]
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
