"""Downloads over HTTP: the admin routes that start, list and cancel them, and delete models.

The downloads themselves run in `hub.downloads`; their errors are in `errors.downloads`.
"""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

from quart import Blueprint, Response, request

from ...config.removal import Deletion, check_unused, refuse_configured
from ...core.config.names import ResolvedModel
from ...core.config.specs import ModelSpec
from ...errors.downloads import CacheUnusableError, ModelNotCachedError
from ...errors.requests import RequestError
from ...event_feed import ModelDeleted
from ...hub import cache_deletion
from ...hub.cache import CachedModel, RepoCache, repositories
from ...hub.downloads import Downloads, DownloadStatus
from ...hub.references import parse_reference
from ...logs.events import log
from ...models import found_file
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer, json_body
from ..web.server import without_deadline
from . import download_schemas
from .download_reports import describe_download
from .openapi import Query, describe
from .routes import spec_of


class DownloadNotFoundError(RequestError):
    """No download has that id, or it ended too long ago to be remembered."""

    code = "download_not_found"
    status = HTTPStatus.NOT_FOUND


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("downloads", __name__, url_prefix="/admin")

    @routes.post("/models/download")
    @describe(
        "Start the download of a model, or join the same one; answers at once.",
        body=download_schemas.DownloadBody,
        answer=download_schemas.Download,
    )
    async def start() -> Response:
        body = await json_body(download_schemas.DownloadBody)
        status = context.downloads.start(parse_reference(body.model, body.file))
        log.info("download.started", id=status.id, model=str(status.reference))
        return answer(describe_download(status))

    @routes.get("/downloads")
    @describe(
        "Running downloads, and the latest ones that ended.", answer=download_schemas.Downloads
    )
    async def statuses() -> Response:
        found = [describe_download(status) for status in context.downloads.statuses()]
        return answer(download_schemas.Downloads(downloads=found))

    @routes.get("/downloads/<number>")
    @describe("The progress of one download.", answer=download_schemas.Download, errors=(404,))
    async def status(number: str) -> Response:
        return answer(describe_download(_known(context.downloads, number)))

    @routes.delete("/downloads/<number>")
    @describe(
        "Cancel a download; its bytes are kept, and the next download resumes there.",
        answer=download_schemas.Download,
        errors=(404,),
    )
    async def cancel(number: str) -> Response:
        _known(context.downloads, number)
        context.downloads.cancel(number)
        return answer(describe_download(await context.downloads.finished(number)))

    @routes.delete("/models")
    @describe(
        "Unload a model and delete its files from the hub cache; answers when that is done.",
        answer=download_schemas.Deleted,
        errors=(404, 409, 500),
        query=[
            Query(
                name="model",
                schema={"type": "string", "minLength": 1},
                about="Its name or an alias.",
                required=True,
            )
        ],
    )
    async def delete() -> Response:
        name = request.args.get("model")
        if not name:
            raise RequestError("'?model=' must name a model", param="model")
        spec = spec_of(context, name)
        check_not_preset(context.dispatcher.config.lookup(name))
        without_deadline()  # requests in flight have no time limit
        freed_bytes = await delete_model(context, spec)
        return answer(download_schemas.Deleted(id=str(spec.id), freed_bytes=freed_bytes))

    return routes


def check_not_preset(resolved: ResolvedModel | None) -> None:
    """Refuse to delete a model by the name of one of its presets.

    Raises:
        RequestError: if *resolved* is one.
    """
    if resolved is not None and resolved.preset is not None:
        raise RequestError(
            f"{resolved.preset!r} is a preset of the model {str(resolved.model)!r}: take it out of "
            "router.toml, or delete the model by its own name",
            param="model",
        )


async def delete_model(context: ControlContext, spec: ModelSpec) -> int:
    """Unload a model once its requests are done, delete its files, stop listing it.

    Returns:
        The number of bytes freed.

    Raises:
        ModelInUseError: if the configuration uses it; then nothing has changed.
        ModelNotCachedError: if it is not in the hub cache.
        CacheUnusableError: if the cache cannot be read or changed.
    """
    cache, model = await in_thread(_deletable, context, spec, abandon_on_cancel=True)
    context.loads.cancel(spec.id)
    await context.dispatcher.unload(spec.id, force=False)
    try:
        # The configuration may have been changed meanwhile.
        freed_bytes = await in_thread(_remove, context, spec, cache, model)
    except CacheUnusableError:
        await context.rescan()  # so that the list has what is left
        raise
    log.info("model.deleted", model=str(spec.id), freed_bytes=freed_bytes)
    context.dispatcher.feed.publish(ModelDeleted(spec.id))
    await context.rescan()
    return freed_bytes


def _known(downloads: Downloads, id_: str) -> DownloadStatus:
    try:
        return downloads.status(id_)
    except KeyError:
        raise DownloadNotFoundError(f"there is no download with the id {id_!r}") from None


def _deletable(context: ControlContext, spec: ModelSpec) -> tuple[RepoCache, CachedModel]:
    """Return the place of the model of *spec* in the hub cache. Blocks on files.

    Raises:
        ModelInUseError: if the configuration uses it.
        ModelNotCachedError: if the cache does not have it.
        CacheUnusableError: if the cache cannot be read.
    """
    refuse_configured(spec, context.config_path)
    cache, model = _find_cached(context.hub_caches, spec)
    _check_unused(context, spec, cache, model)
    return cache, model


def _check_unused(
    context: ControlContext, spec: ModelSpec, cache: RepoCache, model: CachedModel
) -> None:
    try:
        check_unused(
            Deletion.of(cache, model, tuple(spec.names())),
            context.config_path,
            content=found_file.read(context.state_dir, []),
            in_force=context.dispatcher.config,
        )
    except OSError as exc:
        raise _unusable(exc) from exc


def _find_cached(roots: tuple[Path, ...], spec: ModelSpec) -> tuple[RepoCache, CachedModel]:
    try:
        for root in roots:
            for cache in repositories(root):
                for model in cache.models():
                    if str(model.path) == spec.path:
                        return cache, model
    except OSError as exc:
        raise _unusable(exc) from exc
    raise ModelNotCachedError(
        f"the file of {str(spec.id)!r}, {spec.path}, is not in the hub cache: delete it by hand"
    )


def _remove(context: ControlContext, spec: ModelSpec, cache: RepoCache, model: CachedModel) -> int:
    try:
        _check_unused(context, spec, cache, model)
        return cache_deletion.remove(cache, model)
    except OSError as exc:
        raise _unusable(exc) from exc


def _unusable(exc: OSError) -> CacheUnusableError:
    return CacheUnusableError(f"the hub cache cannot be used: {exc.strerror}: {exc.filename}")
