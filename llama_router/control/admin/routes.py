"""Routes under ``/admin/``: status, reload, rescan, load, unload, cancel; all need the token."""

from __future__ import annotations

from quart import Blueprint, Response, current_app, request

from ...core.config.specs import ModelSpec
from ...errors.admission import UnknownModelError
from ...errors.requests import RequestError, RequestNotFoundError
from ..web.context import ControlContext
from ..web.guard import answer, json_body
from ..web.server import without_deadline
from . import config_schemas, download_schemas, model_schemas, schemas
from .openapi import Query, describe, document
from .status import StatusPage, describe_reload


def spec_of(context: ControlContext, name: str) -> ModelSpec:
    """Return the model with the id or alias *name*.

    Raises:
        UnknownModelError: if there is none.
    """
    config = context.dispatcher.config
    model = config.resolve(name)
    if model is None:
        raise UnknownModelError(f"no model or alias is named {name!r}")
    return config.models[model]


def _configured_or_stopping(context: ControlContext, name: str) -> ModelSpec:
    """Return the model *name*, even one that was removed while its process still runs.

    Raises:
        UnknownModelError: if there is no such model.
    """
    if context.dispatcher.config.resolve(name) is None:
        for spec in context.dispatcher.leaving():
            if name == spec.id or name in spec.aliases:
                return spec
    return spec_of(context, name)


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("admin", __name__, url_prefix="/admin")
    dispatcher = context.dispatcher
    page = StatusPage(context)

    @routes.get("/openapi.json")
    @describe("This document.", answer=dict)
    async def openapi() -> Response:
        return answer(document(current_app))

    @routes.get("/status")
    @describe(
        "The router and all its models.",
        answer=model_schemas.Status,
        query=[
            Query(
                name="configuration",
                schema={"type": "string", "enum": ["0", "1"], "default": "1"},
                about="Leave out the configuration in force with 0.",
            )
        ],
    )
    async def status() -> Response:
        wanted = request.args.get("configuration", "1")
        if wanted not in ("0", "1"):
            raise RequestError("'configuration' must be 0 or 1", param="configuration")
        return answer(await page.router(with_configuration=wanted == "1"))

    @routes.post("/reload")
    @describe(
        "Reload the configuration; answers when that is done.",
        body=schemas.Empty,
        answer=config_schemas.Reload,
        also=[(422, config_schemas.Reload)],
    )
    async def reload() -> Response:
        await json_body(schemas.Empty)
        report = await context.reload()
        return answer(describe_reload(report), 422 if report.problems else 200)

    @routes.post("/rescan")
    @describe(
        "Scan for models; answers when the scan is done.",
        body=schemas.Empty,
        answer=download_schemas.Rescanned,
        errors=(500,),
    )
    async def rescan() -> Response:
        await json_body(schemas.Empty)
        without_deadline()  # a large collection on a slow disk takes minutes
        scanned = await context.rescan()
        return answer(
            download_schemas.Rescanned(
                status="rescanned", new_models=len(scanned.new), removed=len(scanned.removed)
            )
        )

    @routes.post("/models/load")
    @describe(
        "Load a model; answers when it is ready.",
        body=model_schemas.LoadBody,
        answer=model_schemas.Model,
        errors=(404, 429, 503),
    )
    async def load() -> Response:
        spec = spec_of(context, (await json_body(model_schemas.LoadBody)).model)
        without_deadline()  # bounded by max_queue_wait_s and ready_timeout_s
        with dispatcher.load(spec.id) as lease:
            await lease.granted()
        return answer(await context.rows.one(spec))

    @routes.post("/models/unload")
    @describe(
        "Unload a model after its requests, or by force; answers when its memory is free.",
        body=model_schemas.UnloadBody,
        answer=model_schemas.Model,
        errors=(404,),
    )
    async def unload() -> Response:
        body = await json_body(model_schemas.UnloadBody)
        spec = _configured_or_stopping(context, body.model)
        without_deadline()  # requests in flight have no time limit
        await dispatcher.unload(spec.id, force=body.force)
        return answer(await context.rows.one(spec))

    @routes.post("/requests/cancel")
    @describe(
        "Cancel a queued request or one that is being served.",
        body=model_schemas.CancelBody,
        answer=model_schemas.Cancelled,
        errors=(404,),
    )
    async def cancel() -> Response:
        body = await json_body(model_schemas.CancelBody)
        if not dispatcher.cancel(body.id):
            raise RequestNotFoundError(
                f"no request with the id {body.id} is waiting or being served", param="id"
            )
        return answer(model_schemas.Cancelled(id=body.id))

    return routes
