"""Ollama's API: the routes that need a model, and those that list models.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import trio
from quart import Blueprint, Response, request

from ...core.access.gate import Scope
from ...core.config.config import Config
from ...core.config.specs import ModelSpec
from ...core.requests.body_overrides import without_notices
from ...dispatch.request_log import log_early_refusal
from ...errors.base import RouterError
from ...threads import in_thread
from ..admin.model_rows import memory_mib_of
from ..llama_cpp.model_facts import Reported
from ..web.context import ControlContext
from ..web.guard import answer, caller, open_to, raw_body
from ..web.server import without_deadline
from . import bodies, listing, requests
from .exchange import OllamaExchange
from .files import FileReader
from .requests import TranslatedRequest

Body = TypeVar("Body", bound=bodies.Named)

#: Longer bodies are parsed in a thread: that takes a millisecond per megabyte, and more.
_LARGE_BYTES: Final = 256 * 1024


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/api/``."""
    dispatcher = context.dispatcher
    routes = Blueprint("ollama", __name__, url_prefix="/api")

    async def serve(type_: type[Body], translate: Callable[[Body], TranslatedRequest]) -> Response:
        without_deadline()  # each of its waits has a deadline
        try:
            translated, body = await _translate(dispatcher.config, type_, translate)
        except RouterError as exc:
            log_early_refusal(exc, request.method, request.path)
            raise
        return await OllamaExchange(context, translated, body, caller()).answer()

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

    _add_lists(routes, context)
    return routes


def _add_lists(routes: Blueprint, context: ControlContext) -> None:
    """Add the routes that list models; they never load one."""
    dispatcher = context.dispatcher
    files = FileReader()

    def reported(spec: ModelSpec) -> Reported:
        info = context.model_info.get(spec.id)
        return {} if info is None else info.fields

    @routes.get("/tags")
    @open_to(Scope.MODELS)
    async def tags() -> Response:
        models = dispatcher.config.models.values()
        specs = [spec for spec in models if caller().may_use(spec) and not spec.unlisted]
        pairs = zip(specs, await files.read(specs), strict=True)
        entries = [
            entry
            for spec, file in pairs
            for entry in listing.tags_entries(spec, file, reported(spec))
        ]
        return answer({"models": entries})

    @routes.get("/ps")
    @open_to(Scope.MODELS)
    async def ps() -> Response:
        specs = [
            spec
            for spec in dispatcher.config.models.values()
            if caller().may_use(spec) and dispatcher.backend(spec.id) is not None
        ]
        model_files = await files.read(specs)
        backends = [backend for spec in specs if (backend := dispatcher.backend(spec.id))]
        memory_mib = await in_thread(
            lambda: {backend.model: memory_mib_of(backend) for backend in backends},
            abandon_on_cancel=True,
        )
        now_s, epoch_s = trio.current_time(), time.time()
        models = []
        for spec, file in zip(specs, model_files, strict=True):
            statistics = dispatcher.statistics_of(spec.id)
            if statistics is None or spec.id not in memory_mib:
                continue  # it was unloaded meanwhile
            since_s = now_s if statistics.idle_since_s is None else statistics.idle_since_s
            residency = listing.Residency(
                memory_bytes=round(memory_mib[spec.id] * 2**20),
                expires_s=epoch_s - now_s + since_s + statistics.stays_s,
            )
            entry = listing.ps_entry(spec, file, residency, now_s=epoch_s, reported=reported(spec))
            models.append(entry)
        return answer({"models": models})

    @routes.post("/show")
    @open_to(Scope.MODELS)
    async def show() -> Response:
        body = bodies.decode(await raw_body(), bodies.ShowRequest)
        spec = listing.find_model(dispatcher.config, body.named, caller())
        (file,) = await files.read([spec])
        return answer(listing.show_answer(spec, file, reported(spec)))

    @routes.get("/version")
    @open_to(Scope.MODELS)
    async def version() -> Response:
        await trio.lowlevel.checkpoint()
        return answer({"version": listing.API_VERSION})


async def _translate(
    config: Config, type_: type[Body], translate: Callable[[Body], TranslatedRequest]
) -> tuple[TranslatedRequest, bytes]:
    """Return the current request, translated, and the body for its backend."""
    data = await raw_body()
    default_model = caller().default_model(config)

    def parse() -> tuple[TranslatedRequest, bytes]:
        body = bodies.decode(without_notices(data), type_, default_model=default_model)
        translated = translate(body)
        resolved = listing.resolve_request(config, translated.model)
        return translated, translated.body(None if resolved is None else resolved.overrides)

    if len(data) < _LARGE_BYTES:
        return parse()
    return await in_thread(parse, abandon_on_cancel=True)
