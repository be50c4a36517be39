"""The routes of models: running ones, unload, requests, events."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import trio
from quart import Blueprint, Response

from ...core.access.gate import Scope
from ...core.config.names import ModelId
from ..llama_cpp.entries import RUNNING
from ..llama_cpp.listing import named
from ..web.context import ControlContext
from ..web.guard import answer, caller, check_load, json_body, open_to
from ..web.server import without_deadline
from .events import SwapEvents
from .shapes import running_model


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("llama_swap", __name__)
    dispatcher = context.dispatcher

    @routes.get("/running")
    @open_to(Scope.MODELS)
    async def running() -> Response:
        entries = []
        for model in _loaded(context):
            phase, backend = dispatcher.phase(model), dispatcher.backend(model)
            assert phase is not None, "a model of the configuration in force"
            port = None if backend is None else backend.port
            entries.append(running_model(dispatcher.config.models[model], phase, port))
        return answer({"running": entries})

    @routes.get("/unload")
    @open_to(Scope.CHANGES)
    async def unload() -> Response:
        check_load(context.gate)  # any page could have an image of this address
        await _unload(context, _loaded(context))
        return _ok()

    @routes.post("/api/models/unload")
    @open_to(Scope.CHANGES)
    async def unload_all() -> Response:
        await json_body(dict)
        await _unload(context, _loaded(context))
        return answer({"msg": "ok"})

    @routes.post("/api/models/unload/<path:name>")
    @open_to(Scope.CHANGES)
    async def unload_one(name: str) -> Response:
        await json_body(dict)
        await _unload(context, [named(context, name).id])
        return _ok()

    @routes.get("/api/metrics")
    @open_to(Scope.MODELS)
    async def activity() -> Response:
        ended = list(dispatcher.activity.ended)
        return answer(SwapEvents(dispatcher, caller()).activity(ended))

    @routes.get("/api/events")
    @open_to(Scope.MODELS)
    async def events() -> Response:
        without_deadline()
        return Response(
            SwapEvents(dispatcher, caller()).encoded(),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    return routes


def _ok() -> Response:
    return Response("OK", content_type="text/plain; charset=utf-8")


def _loaded(context: ControlContext) -> list[ModelId]:
    """Return the models with a process that the caller may use, sorted by id."""
    dispatcher, sender = context.dispatcher, caller()
    return sorted(
        model
        for model, spec in dispatcher.config.models.items()
        if dispatcher.phase(model) in RUNNING and sender.may_use(spec)
    )


async def _unload(context: ControlContext, models: Iterable[ModelId]) -> None:
    """Unload *models* after their requests; return when their memory is free."""
    without_deadline()  # requests in flight have no time limit
    async with trio.open_nursery() as nursery:
        for model in models:
            context.loads.cancel(model)
            nursery.start_soon(partial(context.dispatcher.unload, model, force=False))
