"""``GET /metrics``: the metrics of the router, for Prometheus."""

from __future__ import annotations

from quart import Blueprint, Response, request

from ...core.access.gate import Scope
from ...errors.requests import RequestError
from ..web.context import ControlContext
from ..web.guard import open_to
from .exposition import CONTENT_TYPE


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    @open_to(Scope.METRICS)
    async def metrics() -> Response:
        wanted = request.args.get("backends", "0")
        if wanted not in ("0", "1"):
            raise RequestError("'backends' must be 0 or 1", param="backends")
        page = await context.metrics.page(backends=wanted == "1")
        return Response(page, content_type=CONTENT_TYPE, headers={"cache-control": "no-store"})

    return routes
