"""``GET /`` and ``/index.html``: the dashboard, and llama.cpp's chat UI from a running backend."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

from quart import Blueprint, Response, request
from quart.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from ... import __version__
from ...backends.backend import Backend
from ...backends.client import BackendResponse, fetch
from ...core.access.gate import Gate, Scope
from ...errors.backends import UpstreamError
from ...errors.base import RouterError
from ...errors.requests import RequestError
from ...logs.events import log
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer, header_fields, open_to
from .ui_backends import (
    ASSET,
    PASSED_ON_FIELDS,
    RootContent,
    UiBackend,
    UiBackends,
    frame_policy,
    is_chat_ui,
    root_content,
)

#: Time limit for a file, in seconds; then the next backend is tried.
REQUEST_TIMEOUT_S: Final = 5.0

#: Largest file, in bytes, compressed and uncompressed.
_MAX_BYTES: Final = 32 * 1024 * 1024
_MAX_DECOMPRESSED_BYTES: Final = 128 * 1024 * 1024

#: Size of one write to the client, in bytes.
_CHUNK_BYTES: Final = 64 * 1024

#: With this window size `zlib` decodes gzip only.
_GZIP: Final = 16 + zlib.MAX_WBITS


#: Where the UI is, with `RouterSpec.pages_origin`.
_AT_ORIGIN: Final = "the chat UI is at {}/index.html (see router.pages_origin)"


class NoUserInterfaceError(RequestError):
    """No running backend has this file of a chat UI."""

    code = "no_ui"
    status = HTTPStatus.NOT_FOUND


class AssetPath(BaseConverter):
    """Matches paths of the UI's files; see `ui_backends.ASSET`."""

    regex = ASSET
    part_isolating = False


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes. They need no key: the files are the same for every caller.

    The UI prompts for an API key if the list of models needs one.
    """
    routes = Blueprint("web_ui", __name__)
    routes.record_once(_add_converter)
    files = _UiFiles(context)
    gate = context.gate

    @routes.get("/")
    @open_to(Scope.OPEN)
    async def root() -> Response:
        wanted = _wanted()
        if wanted is RootContent.DATA:
            about = _about()
            if "chat" in request.args:
                about["chat_ui"] = await files.page() is not None
                about["pages_origin"] = gate.pages_origin
            return _varying(answer(about))
        # The UI has addresses with a query, for a first message, say; the dashboard has none.
        is_plain = wanted is RootContent.PAGE and not request.query_string
        if is_plain and not gate.is_for_pages(header_fields()):
            return _redirect("ui/")
        return await _chat(files, gate, wanted)

    @routes.get("/index.html")
    @open_to(Scope.OPEN)
    async def index() -> Response:
        return await _chat(files, gate, _wanted())

    @routes.get("/<ui_asset:path>")
    @open_to(Scope.OPEN)
    async def asset(path: str) -> Response:
        if (origin := _elsewhere(gate)) is not None:
            raise NoUserInterfaceError(_AT_ORIGIN.format(origin))
        return await files.asset(path)

    return routes


async def _chat(files: _UiFiles, gate: Gate, wanted: RootContent) -> Response:
    """Return the UI's page, or a redirect to where it is, or can be had."""
    if (origin := _elsewhere(gate)) is not None:
        if wanted is RootContent.PAGE:
            return _redirect(origin + request.full_path.removesuffix("?"))
        raise NoUserInterfaceError(_AT_ORIGIN.format(origin))
    if (page := await files.page()) is not None:
        return _varying(page)
    if wanted is RootContent.PAGE and gate.pages_origin is None:
        return _redirect("ui/#/chat")
    raise NoUserInterfaceError(
        "no running backend has a chat UI: load a model in the dashboard, then reload this page"
    )


def _elsewhere(gate: Gate) -> str | None:
    """Return the origin at which the UI is, if it is not the one that was asked."""
    return None if gate.is_for_pages(header_fields()) else gate.pages_origin


def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["ui_asset"] = AssetPath


def _wanted() -> RootContent:
    return root_content(
        request.headers.get("accept") or "", request.headers.get("sec-fetch-mode") or ""
    )


def _redirect(place: str) -> Response:
    """Return a redirect to *place*, which is relative within the router.

    A proxy may show it below another path.
    """
    fields = {"location": place, "cache-control": "no-store"}
    return _varying(Response(b"", HTTPStatus.FOUND, headers=fields))


def _varying(response: Response) -> Response:
    # So a browser does not use the copy in the cache of the UI's service worker for a tab.
    response.headers["vary"] = "accept, accept-encoding, sec-fetch-mode"
    return response


def _about() -> dict[str, object]:
    return {
        "name": "llama-router",
        "version": __version__,
        "links": {"models": "/v1/models", "health": "/health", "admin": "/admin/openapi.json"},
    }


class _UiFiles:
    """Serves the UI's files from the backends of *context*."""

    def __init__(self, context: ControlContext) -> None:
        self._dispatcher = context.dispatcher
        self._backends = UiBackends()

    async def page(self) -> Response | None:
        """Return the UI's page, if a running backend has one."""
        for key, backend in self._candidates():
            found = await _fetch(backend, "")
            if found is None:
                continue
            server, kind = found.get(b"server") or b"", found.get(b"content-type") or b""
            if is_chat_ui(found.status, server, kind):
                self._backends.note_ui(key)
                return await self._response(found)
            self._backends.note_no_ui(key)
        return None

    async def asset(self, path: str) -> Response:
        """Return a file of the UI.

        Raises:
            NoUserInterfaceError: if no running backend has it.
        """
        for _, backend in self._candidates():
            found = await _fetch(backend, path)
            if found is not None and found.status in (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED):
                return await self._response(found)
        raise NoUserInterfaceError(f"no running backend has a chat UI with the file {path!r}")

    async def _response(self, found: BackendResponse) -> Response:
        response = await _response(found)
        policy = frame_policy(self._dispatcher.config.router.cors_origins)
        response.headers.add("content-security-policy", policy)
        return response

    def _candidates(self) -> list[tuple[UiBackend, Backend]]:
        ready = {UiBackend(b.model, b.pid): b for b in self._dispatcher.ready_backends()}
        return [(key, ready[key]) for key in self._backends.candidates(list(ready))]


async def _fetch(backend: Backend, path: str) -> BackendResponse | None:
    """Return the answer of *backend*; None if it gives none in time."""
    # llama-server has compressed files only, and refuses clients that do not accept gzip.
    fields = [(b"accept", b"*/*"), (b"accept-encoding", b"gzip")]
    if known := request.headers.get("if-none-match"):
        fields.append((b"if-none-match", known.encode("latin-1")))
    try:
        return await fetch(
            backend, f"/{path}", fields=fields, max_bytes=_MAX_BYTES, timeout_s=REQUEST_TIMEOUT_S
        )
    except RouterError as exc:
        log.debug("ui.unavailable", model=backend.model, path=path, reason=str(exc))
    return None


async def _response(found: BackendResponse) -> Response:
    """Return *found* as a response, decompressed for a client that does not accept gzip."""
    body, fields = found.body, [field for field in found.fields if field[0] in PASSED_ON_FIELDS]
    compressed = found.get(b"content-encoding") == b"gzip"
    if compressed and body and request.accept_encodings.quality("gzip") <= 0:
        body = await in_thread(_decompressed, body)
        fields = [f for f in fields if f[0] not in (b"content-encoding", b"etag")]
    # In chunks: the deadline holds for each, so a slow client may take longer for the whole file.
    content = body if len(body) <= _CHUNK_BYTES else _chunks(body)
    response = Response(content, found.status, content_type=None)
    response.headers["content-length"] = str(len(body))
    for name, value in fields:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    response.headers["vary"] = "accept-encoding"
    return response


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]


def _decompressed(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP).decompress(body, _MAX_DECOMPRESSED_BYTES)
    except zlib.error as exc:
        raise UpstreamError(f"a backend sent a file that is not gzip, as it says: {exc}") from exc
