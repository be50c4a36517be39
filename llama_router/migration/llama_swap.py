"""llama-swap's ``config.yaml`` as a draft of ``router.toml``. Pure.

Source: llama-swap's annotated example configuration and its JSON schema, August 2026.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ..core.config.specs import DEFAULT_ENDPOINTS
from ..errors.config import ConfigError, Problem
from .draft import Draft, Note
from .fields import Fields
from .llama_swap_groups import take_groups
from .llama_swap_model import UNKNOWN, ModelTranslation, read_macros
from .macros import Macros
from .verify import verify
from .yaml_tree import Node, parse

#: llama-swap's defaults, where they differ from the router's.
READY_TIMEOUT_S: Final = 120
MIN_READY_TIMEOUT_S: Final = 15
STOP_TIMEOUT_S: Final = 10

#: The paths that llama-swap forwards to models.
PROXY_ENDPOINTS: Final = (*DEFAULT_ENDPOINTS, "/sdapi/")

_LOG_LEVELS: Final = {"debug": "debug", "info": "info", "warn": "warning", "error": "error"}

#: Settings without a counterpart, each with the consequence.
_NOTES: Final = {
    "logTimeFormat": "log records have UTC times in ISO 8601",
    "logToStdout": "the router logs to standard error, and each backend to a file of its own",
    "metricsMaxInMemory": "the last 1000 requests are kept",
    "captureBuffer": "router.capture_mib keeps bodies of requests and answers, if you want that",
    "performance": "GET /metrics has figures for Prometheus",
    "peers": "requests are not forwarded to other machines",
    "profiles": "names are not rewritten; use aliases",
    "store": "of a request, only a log record is stored",
    "ui": "the dashboard at /ui/ has no settings",
    "upstream": "every request below /upstream/MODEL/ loads the model and is forwarded to it",
}

#: Settings that may contain secrets: their values are not quoted.
_SECRET: Final = frozenset({"peers"})


def translate(text: str, *, source: str, environ: Mapping[str, str]) -> Draft:
    """Return the configuration in *text* as a draft.

    Args:
        text: A whole ``config.yaml``.
        source: Its name, for the first line of the result.
        environ: The environment, for ``${env.NAME}``.

    Raises:
        ConfigError: with all problems, each with its line.
    """
    run = _Translation(Draft(source), environ)
    run.file(Fields(parse(text)))
    return run.draft


@attrs.define
class _Translation:
    draft: Draft
    environ: Mapping[str, str]
    problems: list[Problem] = attrs.field(init=False, factory=list[Problem])

    def file(self, root: Fields) -> None:
        models = root.named("models")
        macros = read_macros(root.named("macros"))
        self.settings(root)
        self.api_keys(root.texts("apiKeys"), macros)
        if ttl_s := root.whole("globalTTL"):
            self.draft.router["ttl_s"] = ttl_s
        for name, node in models.items():
            try:
                self.model(name, node, macros)
            except ConfigError as exc:
                self.problems += exc.problems
        if self.problems:
            raise ConfigError(tuple(self.problems))
        take_groups(root, self.draft)
        self.preload(root.map("hooks"))
        for setting, left in root.rest():
            self.note(setting, left, _NOTES.get(setting, UNKNOWN))
        verify(self.draft)

    def note(self, setting: str, node: Node, reason: str) -> None:
        value = None if setting in _SECRET else node.plain()
        if node.plain() not in {"", "[]", "{}"}:
            self.draft.notes.append(Note(setting, reason, value, node.line))

    def settings(self, root: Fields) -> None:
        """Translate the settings for all models."""
        router, spawn = self.draft.router, self.draft.spawn
        written, port = root.peek("startPort"), root.whole("startPort")
        if port is not None and 1024 <= port <= 65000:
            router["base_port"] = port
        elif written is not None:
            self.note("startPort", written, "base_port must be from 1024 to 65000")
        if (level := root.text("logLevel")) is not None:
            if level.text not in _LOG_LEVELS:
                raise level.refuse(f"must be one of {', '.join(_LOG_LEVELS)}")
            router["log_level"] = _LOG_LEVELS[level.text]
        if root.boolean("includeAliasesInList"):
            router["aliases_in_list"] = True
        if root.boolean("sendLoadingState"):
            router["notify_model_swap"] = True
        ready_s = root.whole("healthCheckTimeout") or READY_TIMEOUT_S
        spawn["ready_timeout_s"] = max(ready_s, MIN_READY_TIMEOUT_S)
        spawn["stop_timeout_s"] = root.whole("unloadTimeout") or STOP_TIMEOUT_S
        spawn["proxy_endpoints"] = list(PROXY_ENDPOINTS)

    def api_keys(self, keys: Iterable[Node], macros: Mapping[str, Node]) -> None:
        """Take over the keys of clients, as digests, so that the new file has no secrets."""
        usable = Macros(macros, "", self.environ)
        digests = (hashlib.sha256(usable.expand(key).encode()).hexdigest() for key in keys)
        for number, digest in enumerate(dict.fromkeys(digests), start=1):
            self.draft.api_keys[f"llama-swap-{number}"] = digest

    def model(self, name: str, node: Node, macros: Mapping[str, Node]) -> None:
        fields = Fields(node)
        own = read_macros(fields.named("macros"))
        usable = Macros({**macros, **own}, name, self.environ)
        self.draft.models[name] = ModelTranslation(name, node, usable).run(fields)
        self.draft.variables |= usable.used_variables

    def preload(self, hooks: Fields) -> None:
        """Translate the list of models that are loaded at start: the first, and kept ones."""
        on_startup = hooks.map("on_startup")
        for node in on_startup.texts("preload"):
            known = {
                alias: name for name, model in self.draft.models.items() for alias in model.names()
            }
            model = self.draft.models.get(known.get(node.text, ""))
            if model is None:
                reason = "there is no such model (any more)"
                self.note("hooks.on_startup.preload", node, reason)
            elif "keep_loaded" in model.fields:
                continue  # it is loaded at the start in any case
            elif "startup_model" not in self.draft.router:
                self.draft.router["startup_model"] = node.text
            else:
                reason = "only one model is loaded at start (startup_model); see keep_loaded"
                model.notes.append(Note("hooks.on_startup.preload", reason, node.text, node.line))
        for place, fields in (("hooks.on_startup", on_startup), ("hooks", hooks)):
            for setting, left in fields.rest():
                self.note(f"{place}.{setting}", left, UNKNOWN)
