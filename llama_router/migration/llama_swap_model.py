"""One model of llama-swap's ``config.yaml`` as a table of ``router.toml``. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Final

import attrs

from ..core.config.kinds import CONTROL, name_fault
from ..core.config.overrides import PROTECTED
from ..core.config.specs import Capability
from . import command
from .draft import DraftModel, Note, Value
from .fields import Fields, scalar
from .macros import PORT, Macros
from .yaml_tree import Node, NodeKind

#: ``http://localhost:8999``, with `PORT` in place of the number for ``${PORT}``.
_PROXY: Final = re.compile(rf"https?://(?:localhost|127\.0\.0\.1|\[::1\]):(\d+|{PORT})/?")

_NO_NAME: Final = "only a model has a name for display, and not one of its names"
_NO_DESCRIPTION: Final = "only a model has a description, and not one of its names"
_NO_OUTPUT: Final = "lists of models do not name this output"
_ALSO_OTHERS: Final = "it became set_params, which also count for the other names of the model"
#: Abilities by llama-swap's inputs and outputs; text is that of every chat model.
_INPUTS: Final = {"image": Capability.VISION, "audio": Capability.AUDIO}
_OUTPUTS: Final = {"text": Capability.COMPLETION, "image": Capability.IMAGE}

_NO_VALUE: Final = "TOML has no such value; write it as set_params or a preset of the model"

#: Settings without a counterpart, each with the consequence.
_NOTES: Final = {
    "cmdStop": "a backend is stopped by SIGTERM to all its processes, and after stop_timeout_s "
    "by SIGKILL; if it needs its own command, write it as spawn.stop_command, with $pid",
    "timeouts": "connection_timeout_s and read_timeout_s of [router] apply to all models",
}

#: The same for an alias.
_ALIAS_NOTES: Final = {"name": _NO_NAME, "description": _NO_DESCRIPTION}

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
        self._listing(fields)
        for setting, node in fields.rest():
            self._note(setting, node, _NOTES.get(setting, UNKNOWN))
        return self.draft

    def _note(self, setting: str, node: Node, reason: str, *, taken: bool = False) -> None:
        if node.plain() not in {"", "[]", "{}"}:  # empty counts as absent
            self.draft.notes.append(Note(setting, reason, node.plain(), node.line, taken))

    def _aliases(self, fields: Fields) -> None:
        """Translate aliases and filters, whose ``setParamsByID`` adds names with parameters."""
        names: list[str] = []
        for item in fields.list("aliases"):
            if item.kind is NodeKind.MAP:
                alias = Fields(item)
                if (found := alias.text("id")) is None:
                    raise item.refuse("an alias needs an id")
                names.append(self.macros.expand(found))
                for setting, node in alias.rest():
                    reason = _ALIAS_NOTES.get(setting, UNKNOWN)
                    self._note(f"aliases.{setting}", node, reason)
            else:
                names.append(self.macros.expand(scalar(item)))
        if names := [name for name in dict.fromkeys(names) if name != self.name]:
            self.draft.fields["aliases"] = [*names]
        self._filters(fields.map("filters"), {self.name, *names})

    def _filters(self, filters: Fields, names: Collection[str]) -> None:
        for setting in ("stripParams", "strip_params"):
            if (stripped := filters.text(setting)) is None:
                continue
            named = (name.strip() for name in self.macros.expand(stripped).split(","))
            # Like llama-swap, never drop the model's name.
            if drop := [name for name in dict.fromkeys(named) if name and name not in PROTECTED]:
                self.draft.fields["drop_params"] = [*drop]
        self._set_params(filters, names)
        for setting, node in filters.rest():
            self._note(f"filters.{setting}", node, UNKNOWN)

    def _set_params(self, filters: Fields, names: Collection[str]) -> None:
        """Translate the parameters that are set, for all *names* of the model or for one."""
        sets = self._params("filters.setParams", filters.named("setParams"))
        presets: dict[str, Value] = {}
        for written, node in filters.named("setParamsByID").items():
            name = self.macros.expand(attrs.evolve(node, text=written))
            setting = f"filters.setParamsByID.{name}"
            params = self._params(setting, dict(Fields(node).rest()))
            before, colon, after = name.partition(":")
            if name in names:
                sets |= params
                if len(names) > 1:
                    self._note(setting, node, _ALSO_OTHERS, taken=True)
            elif colon and after and before in names:
                presets[after] = params
            else:
                presets[name] = params
                reason = f"it became a preset: clients must ask for {self.name}:{name}"
                self._note(setting, node, reason, taken=True)
        if sets:
            self.draft.fields["set_params"] = sets
        if presets:
            self.draft.fields["presets"] = presets

    def _params(self, setting: str, written: Mapping[str, Node]) -> dict[str, Value]:
        """Return parameters of requests; like llama-swap, never the model's name."""
        params: dict[str, Value] = {}
        for name, node in written.items():
            if name in PROTECTED:
                continue
            try:
                params[name] = self._json(node)
            except ValueError:
                self._note(f"{setting}.{name}", node, _NO_VALUE)
        return params

    def _json(self, node: Node) -> Value:
        """Return the value of *node*, as JSON has it.

        Raises:
            ValueError: if TOML cannot hold it: null, an infinite number.
        """
        match node.kind:
            case NodeKind.MAP:
                return {name: self._json(each) for name, each in node.fields.items()}
            case NodeKind.LIST:
                return [self._json(each) for each in node.items]
            case NodeKind.WHOLE:
                return int(node.text)
            case NodeKind.NUMBER if math.isfinite(number := float(node.text)):
                return number
            case NodeKind.BOOLEAN:
                return node.text.lower() in {"true", "yes", "on"}
            case NodeKind.TEXT:
                return self.macros.expand(node)
            case _:
                raise ValueError(node.kind)

    def _listing(self, fields: Fields) -> None:
        """Translate what lists of models say about the model."""
        if fields.boolean("unlisted"):
            self.draft.fields["unlisted"] = True
        # A description has one line here, and several in many files.
        for setting in ("name", "description"):
            if (text := fields.text(setting)) is not None:
                words = CONTROL.sub(" ", self.macros.expand(text)).split()
                if words:
                    self.draft.fields[setting] = " ".join(words)
        metadata: dict[str, Value] = {}
        for name, node in fields.named("metadata").items():
            try:
                value = self._json(node)
            except ValueError:
                self._note(f"metadata.{name}", node, _NO_VALUE)
                continue
            if fault := name_fault(name):
                self._note(f"metadata.{name}", node, fault)
            else:
                metadata[name] = value
        if metadata:
            self.draft.fields["metadata"] = metadata
        self._capabilities(fields.map("capabilities"))

    def _capabilities(self, fields: Fields) -> None:
        """Translate inputs, outputs and further abilities to one list, and the context."""
        inputs, outputs = fields.texts("in"), fields.texts("out")
        found = [_INPUTS[node.text] for node in inputs if node.text in _INPUTS]
        for node in outputs:
            if node.text in _OUTPUTS:
                found.append(_OUTPUTS[node.text])
            else:
                self._note("capabilities.out", node, _NO_OUTPUT)
        if fields.boolean("tools"):
            found.append(Capability.TOOLS)
        if fields.boolean("reranker"):
            found = [Capability.RERANK]
        elif found or inputs:
            found.insert(0, Capability.COMPLETION)
        if found:
            self.draft.fields["capabilities"] = [str(each) for each in dict.fromkeys(found)]
        if context := fields.whole("context"):
            self.draft.fields["context_length"] = context
        for setting, node in fields.rest():
            self._note(f"capabilities.{setting}", node, UNKNOWN)

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
        self.draft.spawn["command"] = [*translated.words]
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
