"""Routes under ``/admin/``: state, reload, rescan, load and unload. All need the admin token."""

from __future__ import annotations

import msgspec
from quart import Blueprint

from ..core.config import ModelSpec
from ..errors import UnknownModelError
from .context import ControlContext
from .guard import json_body
from .status import model_status, report_status, router_status


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model to load."""

    model: str


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model to unload, and whether to cut the requests that it serves."""

    model: str
    force: bool = False


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("admin", __name__, url_prefix="/admin")
    dispatcher = context.dispatcher

    def spec_of(name: str) -> ModelSpec:
        model = dispatcher.config.resolve(name)
        if model is None:
            raise UnknownModelError(f"no model or alias is named {name!r}")
        return dispatcher.config.models[model]

    @routes.get("/status")
    async def status() -> dict[str, object]:
        return await router_status(context)

    @routes.post("/reload")
    async def reload() -> tuple[dict[str, object], int]:
        await json_body(dict[str, object])
        report = await context.reload()
        return report_status(report), 422 if report.problems else 200

    @routes.post("/rescan")
    async def rescan() -> dict[str, object]:
        await json_body(dict[str, object])
        scanned = await context.rescan()
        new, removed = len(scanned.new), len(scanned.removed)
        return {"status": "rescanned", "new_models": new, "removed": removed}

    @routes.post("/models/load")
    async def load() -> dict[str, object]:
        spec = spec_of((await json_body(LoadBody)).model)
        with dispatcher.lease(str(spec.id)) as lease:
            await lease.granted()
        return model_status(context, spec)

    @routes.post("/models/unload")
    async def unload() -> dict[str, object]:
        body = await json_body(UnloadBody)
        spec = spec_of(body.model)
        await dispatcher.unload(spec.id, force=body.force)
        return model_status(context, spec)

    return routes
