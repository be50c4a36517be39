"""``GET /``: llama.cpp's chat UI out of a running backend, or else a page to start one."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

import structlog
import trio
from quart import Blueprint, Response, request
from quart.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from ... import __version__
from ...backends.backend import Backend
from ...backends.client import Answer, ask
from ...core.access.gate import Scope
from ...errors.backends import UpstreamError
from ...errors.requests import RequestError
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer, open_to
from .start_page import start_page
from .ui_hosts import ASSET, PASSED_ON, Host, Hosts, Wants, frame_policy, is_chat_ui, wants

log = structlog.get_logger()

#: How long a backend may take for a file, in seconds; then another one is asked.
ASK_TIMEOUT_S: Final = 5.0

#: Longest file, in bytes, packed and unpacked.
_MAX_BYTES: Final = 32 * 1024 * 1024
_MAX_UNPACKED_BYTES: Final = 128 * 1024 * 1024

#: What is sent at a time, in bytes.
_PIECE_BYTES: Final = 64 * 1024

#: `zlib` reads gzip with this window size, and nothing else.
_GZIP: Final = 16 + zlib.MAX_WBITS


class NoUserInterfaceError(RequestError):
    """No running backend has this file of a chat UI."""

    code = "no_ui"
    status = HTTPStatus.NOT_FOUND


class AssetPath(BaseConverter):
    """Matches the files of the UI; see `core.web_ui.ASSET`."""

    regex = ASSET
    part_isolating = False


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes. They are open: what they serve is the same for everybody.

    The UI, and the start page, ask for an API key when they get no models without one.
    """
    routes = Blueprint("web_ui", __name__)
    routes.record_once(_add_converter)
    server = _Server(context)

    @routes.get("/")
    @open_to(Scope.OPEN)
    async def root() -> Response:
        wanted = wants(
            request.headers.get("accept") or "", request.headers.get("sec-fetch-mode") or ""
        )
        if wanted is Wants.DATA:
            return _varying(answer(_about()))
        if (page := await server.page()) is not None:
            return _varying(page)
        if wanted is Wants.PAGE:
            return _varying(start_page())
        raise NoUserInterfaceError("no running backend has a chat UI")

    @routes.get("/<ui_asset:path>")
    @open_to(Scope.OPEN)
    async def asset(path: str) -> Response:
        return await server.asset(path)

    return routes


def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters["ui_asset"] = AssetPath


def _varying(response: Response) -> Response:
    # So browsers do not take the copy that the UI's service worker keeps for what a person
    # asks for, and there is the start page again once no model runs.
    response.headers["vary"] = "accept, accept-encoding, sec-fetch-mode"
    return response


def _about() -> dict[str, object]:
    return {
        "name": "llama-router",
        "version": __version__,
        "links": {"models": "/v1/models", "health": "/health", "admin": "/admin/openapi.json"},
    }


class _Server:
    """Serves the UI's files out of the backends of *context*."""

    def __init__(self, context: ControlContext) -> None:
        self._dispatcher = context.dispatcher
        self._hosts = Hosts()

    async def page(self) -> Response | None:
        """Return the UI's page, if a running backend has one."""
        for host, backend in self._candidates():
            found = await _ask(backend, "")
            if found is None:
                continue
            server, kind = found.get(b"server") or b"", found.get(b"content-type") or b""
            if is_chat_ui(found.status, server, kind):
                self._hosts.has_ui(host)
                return await self._response(found)
            self._hosts.has_none(host)
        return None

    async def asset(self, path: str) -> Response:
        """Return a file of the UI.

        Raises:
            NoUserInterfaceError: if no running backend has it.
        """
        for _, backend in self._candidates():
            found = await _ask(backend, path)
            if found is not None and found.status in (HTTPStatus.OK, HTTPStatus.NOT_MODIFIED):
                return await self._response(found)
        raise NoUserInterfaceError(f"no running backend has a chat UI with the file {path!r}")

    async def _response(self, found: Answer) -> Response:
        response = await _response(found)
        policy = frame_policy(self._dispatcher.config.router.cors_origins)
        response.headers.add("content-security-policy", policy)
        return response

    def _candidates(self) -> list[tuple[Host, Backend]]:
        ready = {Host(b.model, b.pid): b for b in self._dispatcher.ready_backends()}
        return [(host, ready[host]) for host in self._hosts.candidates(list(ready))]


async def _ask(backend: Backend, path: str) -> Answer | None:
    """Return what *backend* answers, if it does."""
    # llama-server has its files packed only, and refuses who does not say that it can unpack.
    fields = [(b"accept", b"*/*"), (b"accept-encoding", b"gzip")]
    if known := request.headers.get("if-none-match"):
        fields.append((b"if-none-match", known.encode("latin-1")))
    with trio.move_on_after(ASK_TIMEOUT_S):
        try:
            return await ask(backend, f"/{path}".encode(), fields=fields, max_bytes=_MAX_BYTES)
        except UpstreamError as exc:
            log.debug("ui.unavailable", model=backend.model, path=path, reason=str(exc))
    return None


async def _response(found: Answer) -> Response:
    """Return *found* as the answer, unpacked for who cannot do that."""
    body, fields = found.body, [field for field in found.fields if field[0] in PASSED_ON]
    packed = found.get(b"content-encoding") == b"gzip"
    if packed and body and request.accept_encodings.quality("gzip") <= 0:
        body = await in_thread(_unpacked, body)
        fields = [f for f in fields if f[0] not in (b"content-encoding", b"etag")]
    # In pieces: each has a deadline of its own, and a slow client may take long for all of them.
    whole = body if len(body) <= _PIECE_BYTES else _pieces(body)
    response = Response(whole, found.status, content_type=None)
    response.headers["content-length"] = str(len(body))
    for name, value in fields:
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    response.headers["vary"] = "accept-encoding"
    return response


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), _PIECE_BYTES):
        yield body[at : at + _PIECE_BYTES]


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP).decompress(body, _MAX_UNPACKED_BYTES)
    except zlib.error as exc:
        raise UpstreamError(f"a backend sent a file that is not gzip, as it says: {exc}") from exc
