"""Ollama's API: what changes which models there are, and what of it is not done here.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

from http import HTTPStatus

from quart import Blueprint, Response

from ...core.access.gate import Scope
from ...errors.requests import RequestError
from ..admin.downloads import check_not_preset, delete_model
from ..web.context import ControlContext
from ..web.guard import caller, check_unrestricted, open_to, raw_body
from ..web.server import without_deadline
from . import bodies, listing
from .pull import pull


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/api/``. Those that change something are open as llama.cpp's."""
    routes = Blueprint("ollama_store", __name__, url_prefix="/api")

    @routes.post("/pull")
    @open_to(Scope.CHANGES)
    async def pull_model() -> Response:
        check_unrestricted()
        without_deadline()
        return await pull(context, bodies.decoded(await raw_body(), bodies.PullRequest))

    @routes.delete("/delete")
    @open_to(Scope.CHANGES)
    async def delete() -> Response:
        check_unrestricted()
        name = bodies.decoded(await raw_body(), bodies.DeleteRequest).named
        config = context.dispatcher.config
        spec = listing.find(config, name, caller())
        check_not_preset(listing.meaning_of(config, name))
        without_deadline()  # requests to it may take as long as they like
        await delete_model(context, spec)
        return Response(b"")

    @routes.post("/create")
    @open_to(Scope.MODELS)
    async def create() -> Response:
        raise _not_done(
            "models are not made here: add one to router.toml, or fetch it with /api/pull; "
            "parameters that are always the same can be a preset in router.toml"
        )

    @routes.post("/copy")
    @open_to(Scope.MODELS)
    async def copy() -> Response:
        raise _not_done("models are not copied here: give one another name in its 'aliases'")

    @routes.post("/push")
    @open_to(Scope.MODELS)
    async def push() -> Response:
        raise _not_done("models are not uploaded from here: use the tools of the hub")

    @routes.route("/blobs/<path:_digest>", methods=["HEAD", "POST"])
    @open_to(Scope.MODELS)
    async def blobs(_digest: str) -> Response:
        raise _not_done("models are not made here, so there is no place for their parts")

    return routes


def _not_done(reason: str) -> RequestError:
    return RequestError(reason, status=HTTPStatus.NOT_IMPLEMENTED)
