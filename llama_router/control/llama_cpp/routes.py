"""Routes of llama.cpp's router: load, unload, download, delete, events, ``/props``, ``/tools``.

Source: llama.cpp, tools/server/server-models.cpp (router mode), at 0c1e570.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request

from ... import __version__
from ...core.access.gate import Scope
from ...core.scheduling.events import Unload
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.placement import most_instances
from ...errors.requests import (
    ModelExistsError,
    ModelLoadedError,
    ModelNotLoadedError,
    RequestError,
)
from ...hub.downloads import DownloadStatus
from ...hub.references import parse_reference
from ...logs.events import log
from ..admin.downloads import check_not_preset, delete_model
from ..web.context import ControlContext
from ..web.guard import answer, caller, check_unrestricted, json_body, open_to
from ..web.server import without_deadline
from .entries import RUNNING, router_props
from .event_stream import ModelEventStream
from .listing import named


class ModelBody(msgspec.Struct):
    """A body that names a model; further fields, of other versions of llama.cpp, are ignored."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes; `listing` has the list of models."""
    routes = Blueprint("models_api", __name__)
    _add_loads(routes, context)
    _add_downloads(routes, context)
    _add_events(routes, context)
    _add_server_routes(routes, context)
    return routes


def _add_server_routes(routes: Blueprint, context: ControlContext) -> None:
    """Add routes by which llama.cpp's UI recognizes a router."""

    @routes.get("/props")
    @open_to(Scope.MODELS)
    async def props() -> Response:
        config = context.dispatcher.config
        most = most_instances(config.models.values())
        props = router_props(__version__, max_instances=most, autoload=config.router.autoload)
        return answer(props)

    # llama.cpp's UI asks for both when it opens. llama-server without tools refuses them with 403,
    # which browsers write to the console as an error; one with tools says that one fails like this.
    @routes.get("/tools")
    @open_to(Scope.OPEN)
    async def tools() -> Response:
        return answer([])

    @routes.post("/tools")
    @open_to(Scope.OPEN)
    async def use_tool() -> Response:
        return answer(
            {
                "error": "the router has no tools of its own; those of a backend are used below "
                "/upstream/NAME/tools"
            }
        )


def _add_events(routes: Blueprint, context: ControlContext) -> None:
    stream = ModelEventStream(context)

    @routes.get("/models/sse")
    @open_to(Scope.MODELS)
    async def sse() -> Response:
        without_deadline()
        return Response(
            stream.encoded(caller()),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )


def _add_loads(routes: Blueprint, context: ControlContext) -> None:
    dispatcher = context.dispatcher

    @routes.post("/models/load")
    @open_to(Scope.CHANGES)
    async def load() -> Response:
        spec = named(context, (await json_body(ModelBody)).model)
        phase = dispatcher.phase(spec.id)
        if phase in (Phase.STARTING, Phase.READY) or context.loads.is_under_way(spec.id):
            raise ModelLoadedError(f"model {str(spec.id)!r} is already {phase}", param="model")
        context.loads.start(spec.id)
        return _success()

    @routes.post("/models/unload")
    @open_to(Scope.CHANGES)
    async def unload() -> Response:
        name = (await json_body(ModelBody)).model
        is_new = dispatcher.config.resolve(name) is None and caller().models is None
        if is_new and (found := _download(context, name)):
            context.downloads.cancel(found.id)
            return _success()
        spec = named(context, name)
        loading = context.loads.is_under_way(spec.id)
        context.loads.cancel(spec.id)
        statistics = dispatcher.statistics_of(spec.id)
        wanted = statistics is not None and statistics.queued > 0
        if dispatcher.phase(spec.id) not in {*RUNNING, Phase.BACKOFF} and not (loading or wanted):
            raise ModelNotLoadedError(f"model {str(spec.id)!r} is not loaded", param="model")
        dispatcher.submit(Unload(spec.id, force=False))  # requests in flight are completed
        return _success()


def _add_downloads(routes: Blueprint, context: ControlContext) -> None:
    dispatcher = context.dispatcher

    @routes.post("/models")
    @open_to(Scope.CHANGES)
    async def download() -> Response:
        check_unrestricted()
        name = (await json_body(ModelBody)).model
        if dispatcher.config.resolve(name) is not None:
            raise ModelExistsError(f"model {name!r} already exists", param="model")
        status = context.downloads.start(parse_reference(name))
        log.info("download.started", id=status.id, model=str(status.reference))
        return _success()

    @routes.delete("/models")
    @open_to(Scope.CHANGES)
    async def delete() -> Response:
        check_unrestricted()
        name = request.args.get("model")
        if not name:
            raise RequestError("'?model=' must name a model", param="model")
        if dispatcher.config.resolve(name) is None and (found := _download(context, name)):
            context.downloads.cancel(found.id)
            return _success()
        without_deadline()  # requests in flight have no time limit
        spec = named(context, name)
        check_not_preset(dispatcher.config.lookup(name))
        await delete_model(context, spec)
        return _success()


def _success() -> Response:
    return answer({"success": True})


def _download(context: ControlContext, name: str) -> DownloadStatus | None:
    """Return the running download of the model *name*."""
    for status in context.downloads.statuses():
        if name in (str(status.reference), status.model) and not status.state.is_over:
            return status
    return None
