"""``/v1/models``: OpenAI's list of models, with the additional fields of llama.cpp's router.

The two APIs share the path, so they share the list; `entries` has the format of an entry. A
client of Anthropic's API, which has the path, too, is recognised by a header field.

Sources: https://platform.openai.com/docs/api-reference/models; llama.cpp, tools/server
(router mode), at 0c1e570.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from quart import Blueprint, Response, request

from ...core.access.caller import UNRESTRICTED, Caller
from ...core.access.gate import Scope
from ...core.config.names import ModelId
from ...core.config.redaction import redacted_command
from ...core.config.specs import ModelSpec, ModelState
from ...core.scheduling.model_entry import ModelStatistics
from ...hub.downloads import DownloadState
from ..web.context import ControlContext
from ..web.guard import answer, caller, check, open_to
from .entries import (
    SLEEPING,
    Json,
    alias_entries,
    anthropic_entry,
    anthropic_list,
    downloading_entry,
    model_entry,
)

#: Header field that each request of Anthropic's API has, and no other.
_ANTHROPIC_FIELD: Final = "anthropic-version"


class Listing:
    """Makes the entries of the models of *context*."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._args: dict[ModelId, tuple[ModelSpec, list[str]]] = {}

    def entries(self, caller: Caller) -> list[Json]:
        """Return the entries of the models that *caller* may use, and of running downloads.

        A caller that may use some models only gets no downloads.
        """
        dispatcher = self._context.dispatcher
        statistics = dispatcher.statistics()
        models = dispatcher.config.models
        found: list[Json] = []
        for model, spec in models.items():
            if not caller.may_use(spec) or spec.unlisted:
                continue
            for preset in (None, *spec.presets):
                entry = self._entry(spec, statistics[model], preset, caller)
                found.append(entry)
                if spec.aliases_in_list:
                    found += alias_entries(entry)
        return found if caller.models is not None else [*found, *self._downloading()]

    def entry(
        self, spec: ModelSpec, preset: str | None = None, caller: Caller = UNRESTRICTED
    ) -> Json:
        """Return the entry of one model, or of one of its presets, for *caller*."""
        statistics = self._context.dispatcher.statistics_of(spec.id)
        assert statistics is not None, "a model of the configuration in force"
        return self._entry(spec, statistics, preset, caller)

    def can_remove(self, spec: ModelSpec) -> bool:
        """Return whether a model may be deleted: it is in the hub cache, its files unused."""
        in_use = self._context.dispatcher.config.in_use
        if spec.state is not ModelState.AUTO or spec.path is None or spec.id in in_use:
            return False
        return any(Path(spec.path).is_relative_to(root) for root in self._context.hub_caches)

    def _entry(
        self, spec: ModelSpec, statistics: ModelStatistics, preset: str | None, caller: Caller
    ) -> Json:
        known = self._args.get(spec.id)
        if known is None or known[0] is not spec:
            args = redacted_command((*spec.spawn.command, *spec.spawn.args))
            known = self._args[spec.id] = (spec, args)
        info = self._context.model_info.get(spec.id)
        entry = model_entry(
            spec,
            statistics,
            info,
            args=known[1],
            created_s=int(self._context.started_s),
            can_remove=caller.models is None and self.can_remove(spec),
            preset=preset,
        )
        if info is None or "architecture" not in info.fields:
            outputs = self._context.model_info.outputs(spec)
            entry["architecture"]["output_modalities"] = list(outputs)
        backend = self._context.dispatcher.backend(spec.id)
        if backend is not None and backend.sleeping and entry["status"]["value"] == "loaded":
            entry["status"]["value"] = SLEEPING
        return entry

    def _downloading(self) -> Iterable[Json]:
        resolve = self._context.dispatcher.config.resolve
        for status in self._context.downloads.statuses():
            name = str(status.reference)
            running = status.state in (DownloadState.QUEUED, DownloadState.RUNNING)
            if running and resolve(name) is None:
                yield downloading_entry(
                    name,
                    status.done_bytes,
                    status.total_bytes,
                    created_s=int(self._context.started_s),
                )


def named(context: ControlContext, name: str) -> ModelSpec:
    """Return the model with that name or alias, if the caller may use it.

    Raises:
        UnknownModelError: if there is no such model for the caller.
    """
    return named_with_preset(context, name)[0]


def named_with_preset(context: ControlContext, name: str) -> tuple[ModelSpec, str | None]:
    """Return the same, and the model's preset if *name* is the name of one.

    Raises:
        UnknownModelError: as `named`.
    """
    config = context.dispatcher.config
    resolved = config.lookup(name)
    if resolved is None:
        raise caller().unknown(name, config)
    spec = config.models[resolved.model]
    caller().check_model(spec, name, config)
    return spec, resolved.preset


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes of the list; `routes` has the other ones of llama.cpp's router."""
    routes = Blueprint("models", __name__)
    listing = Listing(context)

    @routes.get("/v1/models")
    @routes.get("/models")
    @open_to(Scope.MODELS)
    async def list_models() -> Response:
        if request.args.get("reload"):
            check(context.gate, Scope.CHANGES)
            await context.rescan()
        entries = listing.entries(caller())
        if _ANTHROPIC_FIELD in request.headers:
            return answer(anthropic_list(entries))
        return answer({"object": "list", "data": entries})

    @routes.get("/v1/models/<path:name>")
    @open_to(Scope.MODELS)
    async def retrieve_model(name: str) -> Response:
        entry = listing.entry(*named_with_preset(context, name), caller())
        return answer(anthropic_entry(entry) if _ANTHROPIC_FIELD in request.headers else entry)

    return routes
