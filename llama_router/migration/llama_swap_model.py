"""One model of llama-swap's ``config.yaml`` as a table of ``router.toml``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs

from ..core.config.overrides import PROTECTED
from . import command
from .draft import DraftModel, Note
from .fields import Fields, scalar
from .macros import PORT, Macros
from .yaml_tree import Kind, Node

#: ``http://localhost:8999``, with `PORT` in place of the number for ``${PORT}``.
_PROXY: Final = re.compile(rf"https?://(?:localhost|127\.0\.0\.1|\[::1\]):(\d+|{PORT})/?")

_LISTING: Final = "/v1/models shows only the id"
_SETS: Final = "write it as set_params of the model"
_PRESETS: Final = "write each set of parameters as a preset of the model"

#: Settings without a counterpart, each with the consequence.
_NOTES: Final = {
    "name": _LISTING,
    "description": _LISTING,
    "metadata": _LISTING,
    "capabilities": _LISTING,
    "cmdStop": "a backend is stopped by SIGTERM to all its processes, and after stop_timeout_s "
    "by SIGKILL",
    "timeouts": "connection_timeout_s and read_timeout_s of [router] apply to all models",
}

UNKNOWN: Final = "unknown setting"


@attrs.define
class ModelTranslation:
    """The translation of one model.

    Attributes:
        name: The model's name.
        node: Its settings.
        macros: The macros that they may use.
        draft: The result.
    """

    name: str
    node: Node
    macros: Macros
    draft: DraftModel = attrs.field(init=False)

    @draft.default
    def _empty(self) -> DraftModel:
        return DraftModel(self.name, self.node.line)

    def run(self, fields: Fields) -> DraftModel:
        """Return the table.

        Raises:
            ConfigError: for the first setting that is not valid.
        """
        self._aliases(fields)
        if limit := fields.whole("concurrencyLimit"):
            self.draft.fields["max_in_flight"] = limit
        if (upstream := fields.text("useModelName")) is not None and upstream.text:
            self.draft.fields["upstream_model"] = self.macros.expand(upstream)
        if (notify := fields.boolean("sendLoadingState")) is not None:
            self.draft.fields["notify_model_swap"] = notify
        self._ttl(fields)
        self._command(fields)
        self._environment(fields)
        self._health(fields)
        if stop_s := fields.whole("unloadTimeout"):
            self.draft.spawn["stop_timeout_s"] = stop_s
        if (unlisted := fields.peek("unlisted")) and fields.boolean("unlisted"):
            self._note("unlisted", unlisted, "every model is listed in /v1/models")
        for setting, node in fields.rest():
            self._note(setting, node, _NOTES.get(setting, UNKNOWN))
        return self.draft

    def _note(self, setting: str, node: Node, reason: str, *, taken: bool = False) -> None:
        if node.plain() not in {"", "[]", "{}"}:  # empty counts as absent
            self.draft.notes.append(Note(setting, reason, node.plain(), node.line, taken))

    def _aliases(self, fields: Fields) -> None:
        """Translate aliases, including those that ``filters.setParamsByID`` adds."""
        names: list[str] = []
        for item in fields.list("aliases"):
            if item.kind is Kind.MAP:
                alias = Fields(item)
                if (found := alias.text("id")) is None:
                    raise item.refuse("an alias needs an id")
                names.append(self.macros.expand(found))
                for setting, node in alias.rest():
                    self._note(f"aliases.{setting}", node, _LISTING)
            else:
                names.append(self.macros.expand(scalar(item)))
        filters = fields.map("filters")
        by_id = filters.peek("setParamsByID")
        for name, node in filters.named("setParamsByID").items():
            names.append(self.macros.expand(attrs.evolve(node, text=name)))
        if by_id is not None and by_id.fields:
            self._note("filters.setParamsByID", by_id, _PRESETS)
        self._filters(filters)
        if names := [name for name in dict.fromkeys(names) if name != self.name]:
            self.draft.fields["aliases"] = names

    def _filters(self, filters: Fields) -> None:
        if (stripped := filters.text("stripParams")) is not None:
            named = (name.strip() for name in self.macros.expand(stripped).split(","))
            # Like llama-swap, never drop the model's name.
            if drop := [name for name in dict.fromkeys(named) if name and name not in PROTECTED]:
                self.draft.fields["drop_params"] = drop
        for setting, node in filters.rest():
            self._note(f"filters.{setting}", node, _SETS if setting == "setParams" else UNKNOWN)

    def _ttl(self, fields: Fields) -> None:
        ttl_s = fields.whole("ttl", minimum=-1)
        if ttl_s is not None and ttl_s >= 0:  # -1 means the global value
            self.draft.fields["ttl_s"] = ttl_s

    def _command(self, fields: Fields) -> None:
        """Translate ``cmd`` and ``proxy``, which together name the port of the program."""
        node = fields.text("cmd")
        if node is None:
            raise self.node.refuse("cmd is missing")
        proxy = fields.text("proxy")
        url = f"http://localhost:{PORT}" if proxy is None else self.macros.expand(proxy)
        found = _PROXY.fullmatch(url)
        fixed_port = found[1] if found and found[1] != PORT else None
        try:
            # Before macros are replaced: a macro of several lines may stand in a comment.
            bare = attrs.evolve(node, text=command.without_comments(node.text))
            words = command.split(self.macros.expand(bare))
            if not words:
                raise node.refuse("the command is empty")
            translated = command.translate(words, fixed_port)
        except ValueError as exc:
            raise node.refuse(f"cannot be split into words: {exc}") from exc
        self.draft.spawn["command"] = list(translated.words)
        if translated.path is not None:
            self.draft.fields["path"] = translated.path
        if translated.in_container:
            self.draft.spawn["check_port_owner"] = False
        if proxy is not None and found is None:
            reason = "a backend must listen on 127.0.0.1, on the port $port"
            self._note("proxy", proxy, reason)
        elif fixed_port is not None and translated.uses_port:
            reason = "the port became $port, which is chosen at each start"
            self._note("proxy", proxy or node, reason, taken=True)
        elif not translated.uses_port:
            reason = "the program must listen on $port, which the command does not contain"
            self._note("proxy" if proxy else "cmd", proxy or node, reason, taken=proxy is None)

    def _environment(self, fields: Fields) -> None:
        env: dict[str, str] = {}
        for item in fields.texts("env"):
            name, equals, value = self.macros.expand(item).partition("=")
            if not equals:
                raise item.refuse(f"expected NAME=value, got {item.text!r}")
            try:
                env[name] = command.template(value)
            except ValueError as exc:
                raise item.refuse(str(exc)) from exc
        if env:
            self.draft.spawn["env"] = env

    def _health(self, fields: Fields) -> None:
        if (node := fields.text("checkEndpoint")) is None or not node.text:
            return
        endpoint = self.macros.expand(node)
        if endpoint == "none":
            reason = "a backend is ready once health_endpoint (/health) answers 200; set a path "
            self._note("checkEndpoint", node, f"{reason}that does")
        elif endpoint != "/health":
            self.draft.spawn["health_endpoint"] = endpoint


def read_macros(entries: Mapping[str, Node]) -> dict[str, Node]:
    """Return the macros in a map; each must be a scalar.

    Raises:
        ConfigError: if one is not.
    """
    return {name: scalar(node) for name, node in entries.items()}
