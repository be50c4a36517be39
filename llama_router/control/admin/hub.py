"""``/admin/hub``: what the hub has, asked by the router; a browser contacts no other host."""

from __future__ import annotations

from typing import Final

from quart import Blueprint, Response, request

from ...core.config.config import Config
from ...core.memory.devices import Device
from ...core.memory.size_fit import where_it_fits
from ...errors.requests import RequestError
from ...hub.found import SORTS, FoundRepository, OfferedModel, OfferedRepository
from ...hub.references import without_host
from ..web.context import ControlContext
from ..web.guard import answer
from . import download_schemas
from .openapi import Query, describe

#: Longest text of a search, in characters.
_MAX_WORDS: Final = 200

#: Statuses of errors of the hub: its own, and those of the way to it.
_ERRORS: Final = (404, 502, 503)


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("hub", __name__, url_prefix="/admin/hub")

    @routes.get("/search")
    @describe(
        "Search the hub for repositories with GGUF files.",
        answer=download_schemas.HubSearch,
        errors=_ERRORS,
        query=[
            Query(
                name="q",
                schema={"type": "string", "maxLength": _MAX_WORDS, "default": ""},
                about="Words to look for.",
            ),
            Query(
                name="sort",
                schema={"type": "string", "enum": list(SORTS), "default": SORTS[0]},
                about="The order.",
            ),
        ],
    )
    async def search() -> Response:
        words = request.args.get("q", "").strip()
        sort = request.args.get("sort", SORTS[0])
        if len(words) > _MAX_WORDS:
            raise RequestError(f"'q' has more than {_MAX_WORDS} characters", param="q")
        if sort not in SORTS:
            raise RequestError(f"'sort' must be one of {', '.join(SORTS)}", param="sort")
        found = await context.hub.search(words, sort)
        repositories = [_found(each) for each in found.repositories]
        return answer(download_schemas.HubSearch(query=words, repositories=repositories))

    @routes.get("/repo")
    @describe(
        "The models of a repository: sizes, where they fit, and what is here already.",
        answer=download_schemas.HubModels,
        errors=(*_ERRORS, 500),
        query=[
            Query(
                name="id",
                schema={"type": "string", "minLength": 1},
                about="user/repo.",
                required=True,
            )
        ],
    )
    async def repository() -> Response:
        name = without_host(request.args.get("id", "").strip()).rstrip("/")
        if not name:
            raise RequestError("'?id=' must name a repository", param="id")
        offered = await context.hub.repository(name)
        devices = [*(await context.memory.devices()).values()]
        return answer(_described(offered, devices, context.dispatcher.config))

    return routes


def _found(found: FoundRepository) -> download_schemas.HubRepository:
    return download_schemas.HubRepository(
        id=found.id,
        downloads=found.downloads,
        likes=found.likes,
        modified_at=found.modified_at,
        gated=found.gated,
        task=found.task,
        is_here=found.is_here,
    )


def _described(
    offered: OfferedRepository, devices: list[Device], config: Config
) -> download_schemas.HubModels:
    models = sorted(offered.models, key=lambda model: model.size_bytes)
    return download_schemas.HubModels(
        id=offered.id,
        gated=offered.gated,
        models=[_model(model, offered, devices, config) for model in models],
        note=offered.note,
        free_bytes=offered.free_bytes,
        cache=offered.cache,
    )


def _model(
    model: OfferedModel, offered: OfferedRepository, devices: list[Device], config: Config
) -> download_schemas.HubModel:
    total_bytes = model.size_bytes + model.mmproj_bytes
    fit = where_it_fits(total_bytes, devices, overhead_mib=offered.overhead_mib)
    reference = f"{offered.id}:{model.label}"
    served = config.resolve(reference)
    return download_schemas.HubModel(
        label=model.label,
        reference=reference,
        files=model.files,
        size_bytes=model.size_bytes,
        mmproj=model.mmproj,
        mmproj_bytes=model.mmproj_bytes,
        here_bytes=model.here_bytes,
        is_here=model.here_bytes == total_bytes,
        is_default=model.is_default,
        model=None if served is None else str(served),
        fit=download_schemas.HubFit(
            where=fit.where.value,
            devices=[str(device) for device in fit.devices],
            need_mib=fit.need_mib,
            source="size" if offered.overhead_mib is None else "header",
        ),
    )
