"""``/ui/``: the dashboard's page and its files. They contain no data, and need no key."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Final

from quart import Blueprint, Response, abort, request

from ...core.access.gate import Scope
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import keep_from_pages, open_to
from .static_files import StaticFile, StaticFiles

#: What the page may do: load scripts, styles and fonts of the router, show images that the user
#: chose, show llama.cpp's chat UI in a frame, and talk to the router. Nothing inline, no other
#: host, in no frame itself.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_FIELDS: Final = {
    "cache-control": "no-cache",  # asked for again each time, and answered with 304
    "content-security-policy": _POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # Over plain HTTP, only Referer says that a page of the router reads; see Gate.check_load.
    "referrer-policy": "same-origin",
    "vary": "accept-encoding",
}


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("dashboard", __name__, url_prefix="/ui")
    keep_from_pages(routes, context.gate)
    files = StaticFiles(Path(__file__).with_name("static"))

    @routes.get("")
    @open_to(Scope.OPEN)
    async def without_slash() -> Response:
        # Relative, because a proxy may show the router below another path.
        return Response(b"", HTTPStatus.PERMANENT_REDIRECT, headers={"location": "ui/"})

    @routes.get("/", defaults={"path": "index.html"})
    @routes.get("/<path:path>")
    @open_to(Scope.OPEN)
    async def file(path: str) -> Response:
        found = await in_thread(files.read, path, abandon_on_cancel=True)
        if found is None:
            abort(HTTPStatus.NOT_FOUND)
        return _response(found)

    return routes


def _response(file: StaticFile) -> Response:
    packed = file.packed if request.accept_encodings.quality("gzip") > 0 else None
    tag = file.tag if packed is None else f"{file.tag}-gz"
    if request.if_none_match.contains_weak(tag):
        response = Response(b"", HTTPStatus.NOT_MODIFIED, content_type=None)
    else:
        content = file.content if packed is None else packed
        response = Response(content, content_type=file.media_type)
        if packed is not None:
            response.headers["content-encoding"] = "gzip"
    response.headers["etag"] = f'"{tag}"'
    for name, value in _FIELDS.items():
        response.headers[name] = value
    return response
