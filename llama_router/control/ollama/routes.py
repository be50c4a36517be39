"""Ollama's API: what its clients ask for, asked of backends in the way that these understand.

The translation is in `core.ollama`. Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from quart import Blueprint, Response, request

from ...core.access.gate import Scope
from ...core.config.config import Config
from ...errors.base import RouterError
from ...logs.output import log_info
from ...threads import in_thread
from ..admin.status import memory_mib_of
from ..web.context import ControlContext
from ..web.guard import answer, caller, open_to, raw_body
from ..web.server import without_deadline
from . import bodies, listing, requests
from .exchange import Exchange
from .files import Files
from .requests import Wanted

Body = TypeVar("Body", bound=bodies.Named)

#: Bodies above this are taken apart in a thread: it takes a millisecond per megabyte and more.
_LARGE_BYTES: Final = 256 * 1024


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/api/``."""
    dispatcher = context.dispatcher
    routes = Blueprint("ollama", __name__, url_prefix="/api")

    async def serve(shape: type[Body], translate: Callable[[Body], Wanted]) -> Response:
        without_deadline()  # each wait in it has its own
        try:
            wanted, body = await _translated(dispatcher.config, shape, translate)
        except RouterError as exc:
            _log_refusal(exc)
            raise
        return await Exchange(context, wanted, body, caller()).answer()

    @routes.post("/chat")
    @open_to(Scope.MODELS)
    async def chat() -> Response:
        return await serve(bodies.ChatRequest, requests.chat)

    @routes.post("/generate")
    @open_to(Scope.MODELS)
    async def generate() -> Response:
        return await serve(bodies.GenerateRequest, requests.generate)

    @routes.post("/embed")
    @open_to(Scope.MODELS)
    async def embed() -> Response:
        return await serve(bodies.EmbedRequest, requests.embed)

    @routes.post("/embeddings")
    @open_to(Scope.MODELS)
    async def embeddings() -> Response:
        return await serve(bodies.EmbeddingsRequest, requests.embeddings)

    _list(routes, context)
    return routes


def _list(routes: Blueprint, context: ControlContext) -> None:
    """Add the routes that say which models there are."""
    dispatcher = context.dispatcher
    files = Files()

    @routes.get("/tags")
    @open_to(Scope.MODELS)
    async def tags() -> Response:
        specs = [spec for spec in dispatcher.config.models.values() if caller().may_use(spec)]
        found = zip(specs, await files.look(specs), strict=True)
        models = [entry for spec, file in found for entry in listing.listed(spec, file)]
        return answer({"models": models})

    @routes.get("/ps")
    @open_to(Scope.MODELS)
    async def ps() -> Response:
        specs = [
            spec
            for spec in dispatcher.config.models.values()
            if caller().may_use(spec) and dispatcher.backend(spec.id) is not None
        ]
        found = await files.look(specs)
        backends = [backend for spec in specs if (backend := dispatcher.backend(spec.id))]
        memory_mib = await in_thread(
            lambda: {backend.model: memory_mib_of(backend) for backend in backends},
            abandon_on_cancel=True,
        )
        now_s, epoch_s = trio.current_time(), time.time()
        models = []
        for spec, file in zip(specs, found, strict=True):
            statistics = dispatcher.statistics_of(spec.id)
            if statistics is None or spec.id not in memory_mib:
                continue  # it went meanwhile
            since_s = now_s if statistics.idle_since_s is None else statistics.idle_since_s
            running = listing.Running(
                memory_bytes=round(memory_mib[spec.id] * 2**20),
                expires_s=epoch_s - now_s + since_s + statistics.stays_s,
            )
            models.append(listing.running(spec, file, running, now_s=epoch_s))
        return answer({"models": models})

    @routes.post("/show")
    @open_to(Scope.MODELS)
    async def show() -> Response:
        wanted = bodies.decoded(await raw_body(), bodies.ShowRequest)
        spec = listing.find(dispatcher.config, wanted.named, caller())
        (file,) = await files.look([spec], whole=True)
        return answer(listing.shown(spec, file))

    @routes.get("/version")
    @open_to(Scope.MODELS)
    async def version() -> Response:
        await trio.lowlevel.checkpoint()
        return answer({"version": listing.API_VERSION})


async def _translated(
    config: Config, shape: type[Body], translate: Callable[[Body], Wanted]
) -> tuple[Wanted, bytes]:
    """Return what the current request wants, and what to ask the backend for it."""
    data = await raw_body()

    def take_apart() -> tuple[Wanted, bytes]:
        wanted = translate(bodies.decoded(data, shape, default=config.router.default_model))
        meaning = listing.meant_by(config, wanted.model)
        return wanted, wanted.body(None if meaning is None else meaning.shape)

    if len(data) < _LARGE_BYTES:
        return take_apart()
    return await in_thread(take_apart, abandon_on_cancel=True)


def _log_refusal(error: RouterError) -> None:
    """Log a request that did not come as far as a model, as the data plane does."""
    log_info(
        "request.refused",
        {
            "model": None,
            "method": request.method,
            "path": request.path,
            "code": error.code,
            "reason": str(error),
            "status": int(error.status),
        },
    )
