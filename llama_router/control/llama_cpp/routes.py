"""llama.cpp's router API, as its web UI uses it: load, unload, fetch, delete, follow.

Source: llama.cpp, tools/server/server-models.cpp (router mode), at 0c1e570.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
import structlog
import trio
from msgspec import Meta
from quart import Blueprint, Response, request

from ...config.reload_report import Verdict
from ...core.access.gate import Caller, Scope
from ...core.apis.notices import SIGN_OF_LIFE_S
from ...core.config.names import ModelId
from ...core.scheduling.events import Unload
from ...core.scheduling.lifecycle import Phase
from ...errors.backends import BackendExitedError
from ...errors.requests import (
    ModelExistsError,
    ModelLoadedError,
    ModelNotLoadedError,
    RequestError,
)
from ...event_feed import FeedEvent
from ...hub.downloads import DownloadStatus
from ...hub.names import parse_reference
from ..admin.downloads import check_whole, delete_model
from ..web.context import ControlContext
from ..web.guard import answer, asker, check_unlimited, json_body, open_to
from ..web.server import without_deadline
from .entries import (
    RUNNING,
    Json,
    Told,
    download_event,
    is_awaited,
    plain_event,
    progress_event,
    status_event,
)
from .listing import Listing, named

log = structlog.get_logger()

#: How long the event of a loaded model waits for what its backend says about it, in seconds.
_INFO_TIMEOUT_S = 1.0


class ModelBody(msgspec.Struct):
    """Which model; further fields are for other versions of llama.cpp."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/models``."""
    routes = Blueprint("models_api", __name__, url_prefix="/models")
    _add_loads(routes, context)
    _add_downloads(routes, context)
    listing = Listing(context)

    @routes.get("/sse")
    @open_to(Scope.MODELS)
    async def sse() -> Response:
        without_deadline()
        return Response(
            _stream(context, listing, asker()),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    return routes


def _add_loads(routes: Blueprint, context: ControlContext) -> None:
    dispatcher = context.dispatcher

    @routes.post("/load")
    @open_to(Scope.CHANGES)
    async def load() -> Response:
        spec = named(context, (await json_body(ModelBody)).model)
        phase = dispatcher.phase(spec.id)
        if phase in (Phase.STARTING, Phase.READY) or context.loads.is_under_way(spec.id):
            raise ModelLoadedError(f"model {str(spec.id)!r} is already {phase}", param="model")
        context.loads.start(spec.id)
        return _success()

    @routes.post("/unload")
    @open_to(Scope.CHANGES)
    async def unload() -> Response:
        name = (await json_body(ModelBody)).model
        if dispatcher.config.resolve(name) is None and (found := _download(context, name)):
            context.downloads.cancel(found.id)
            return _success()
        spec = named(context, name)
        loading = context.loads.is_under_way(spec.id)
        context.loads.cancel(spec.id)
        if dispatcher.phase(spec.id) not in {*RUNNING, Phase.BACKOFF} and not loading:
            raise ModelNotLoadedError(f"model {str(spec.id)!r} is not loaded", param="model")
        dispatcher.submit(Unload(spec.id, False))  # its requests may take as long as they like
        return _success()


def _add_downloads(routes: Blueprint, context: ControlContext) -> None:
    dispatcher = context.dispatcher

    @routes.post("")
    @open_to(Scope.CHANGES)
    async def download() -> Response:
        check_unlimited()
        name = (await json_body(ModelBody)).model
        if dispatcher.config.resolve(name) is not None:
            raise ModelExistsError(f"model {name!r} already exists", param="model")
        status = context.downloads.start(parse_reference(name))
        log.info("download.started", id=status.id, model=str(status.reference))
        return _success()

    @routes.delete("")
    @open_to(Scope.CHANGES)
    async def delete() -> Response:
        check_unlimited()
        name = request.args.get("model")
        if not name:
            raise RequestError("'?model=' must name a model", param="model")
        if dispatcher.config.resolve(name) is None and (found := _download(context, name)):
            context.downloads.cancel(found.id)
            return _success()
        without_deadline()  # requests to it may take as long as they like
        spec = named(context, name)
        check_whole(dispatcher.config.find(name))
        await delete_model(context, spec)
        return _success()


def _success() -> Response:
    return answer({"success": True})


def _download(context: ControlContext, name: str) -> DownloadStatus | None:
    """Return the download under way that was asked for by *name*."""
    for status in context.downloads.statuses():
        if name in (str(status.reference), status.model) and not status.state.is_over:
            return status
    return None


async def _stream(context: ControlContext, listing: Listing, who: Caller) -> AsyncIterator[bytes]:
    """Yield what happens from now on to models that *who* may use."""
    news = context.dispatcher.news
    number, told = news.last, _told(context)
    yield b": models\n\n"
    while True:
        with trio.move_on_after(SIGN_OF_LIFE_S) as quiet:
            await news.wait_after(number)
        if quiet.cancelled_caught:
            yield b": still here\n\n"
            continue
        items = news.after(number)
        number = news.last
        if items is None:  # too far behind: the list says what has become of them
            told = _told(context)
            yield _encoded(plain_event("models_reload"))
            continue
        for item in items:
            status = _news(context, told, item) if item.kind == "model" else ""
            if status is not None:
                for event in await _events(context, listing, who, item, status):
                    yield _encoded(event)
            if item.kind == "router":
                return  # it stops


def _told(context: ControlContext) -> Told:
    """Return what the list of models says now."""
    models = context.dispatcher.config.models
    return Told(
        {
            model: (each.phase, is_awaited(models[model], each))
            for model, each in context.dispatcher.statistics().items()
        }
    )


def _news(context: ControlContext, told: Told, item: FeedEvent) -> str | None:
    """Return the status to tell because of *item*, if it is to be told."""
    model, phase = ModelId(item.data["id"]), Phase(item.data["phase"])
    now = context.dispatcher.statistics_of(model)
    spec = context.dispatcher.config.models.get(model)
    if now is None or spec is None:
        return told.news(model, phase, None, awaited=False)
    return told.news(model, phase, now.phase, awaited=is_awaited(spec, now))


async def _events(
    context: ControlContext, listing: Listing, who: Caller, item: FeedEvent, status: str
) -> list[Json]:
    """Return what *item* means to *who*: of a model, and of its presets as well.

    *status* is what to tell, if it is about a change of a model's.
    """
    event = await _event(context, listing, who, item, status)
    if event is None:
        return []
    spec = context.dispatcher.config.models.get(ModelId(event["model"]))
    if item.kind not in ("model", "progress") or spec is None:
        return [event]
    data = event["data"]
    return [event] + [
        event
        | {
            "model": f"{spec.id}:{preset}",
            "data": data | {"info": listing.entry(spec, preset)} if "info" in data else data,
        }
        for preset in spec.presets
    ]


async def _event(
    context: ControlContext, listing: Listing, who: Caller, item: FeedEvent, status: str
) -> Json | None:
    match item.kind:
        case "model":
            return await _status_event(context, listing, who, item, status)
        case "progress" if _is_loading(context, who, ModelId(item.data["id"])):
            return progress_event(item.data["id"], item.data["progress"])
        case "download" if who.models is None:
            return download_event(item.data)
        case "removed" if who.models is None:
            return plain_event("model_remove", item.data["id"])
        case "config" if item.data["status"] == Verdict.APPLIED.value:
            return plain_event("models_reload")
        case _:
            return None


def _is_loading(context: ControlContext, who: Caller, model: ModelId) -> bool:
    """Say whether *model*, of which *who* may know, is being loaded now."""
    spec = context.dispatcher.config.models.get(model)
    loading = context.dispatcher.phase(model) is Phase.STARTING
    return loading and spec is not None and who.may_use(spec)


async def _status_event(
    context: ControlContext, listing: Listing, who: Caller, item: FeedEvent, status: str
) -> Json | None:
    model, phase = ModelId(item.data["id"]), Phase(item.data["phase"])
    spec = context.dispatcher.config.models.get(model)
    if spec is None or not who.may_use(spec):
        return None
    if phase is Phase.READY:
        with trio.move_on_after(_INFO_TIMEOUT_S):
            await context.model_info.settled(model)
        if (spec := context.dispatcher.config.models.get(model)) is None:
            return None
        return status_event(str(model), status, phase, None, listing.entry(spec))
    statistics = context.dispatcher.statistics_of(model)
    error = None if statistics is None else statistics.last_error
    exit_code = error.returncode if isinstance(error, BackendExitedError) else None
    return status_event(str(model), status, phase, exit_code, None)


def _encoded(event: Json) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(event)
