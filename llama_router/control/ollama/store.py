"""Ollama's API for changes of the models: ``/api/pull`` and ``/api/delete``; the rest is refused.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import trio
from quart import Blueprint, Response

from ...core.access.gate import Scope
from ...core.apis.ollama import OLLAMA
from ...core.config.config import Config
from ...core.config.names import ModelId
from ...errors.base import RouterError
from ...errors.downloads import DownloadError, HubReferenceError
from ...errors.requests import RequestError
from ...hub.downloads import DownloadState, DownloadStatus
from ...hub.references import Reference, parse_reference
from ...logs.events import log
from ..admin.downloads import check_not_preset, delete_model
from ..web.connection import request_stack
from ..web.context import ControlContext
from ..web.guard import answer, caller, check_unrestricted, open_to, raw_body
from ..web.server import without_deadline
from .answers import json_line
from .bodies import DeleteRequest, PullRequest, decode
from .listing import find_model, lookup

#: Media type of lines of JSON.
LINES: Final = "application/x-ndjson"

#: Pause between two lines about a download, in seconds.
PROGRESS_EVERY_S: Final = 0.2

#: The last line of a download that is complete.
_SUCCESS: Final = {"status": "success"}


class DownloadCancelledError(DownloadError):
    """The download was cancelled; the part that is here is kept for the next one."""

    code = "download_cancelled"
    status = HTTPStatus.CONFLICT


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/api/``; those that change something need the scope `CHANGES`."""
    routes = Blueprint("ollama_store", __name__, url_prefix="/api")

    @routes.post("/pull")
    @open_to(Scope.CHANGES)
    async def pull_model() -> Response:
        check_unrestricted()
        without_deadline()
        return await _pull(context, decode(await raw_body(), PullRequest))

    @routes.delete("/delete")
    @open_to(Scope.CHANGES)
    async def delete() -> Response:
        check_unrestricted()
        name = decode(await raw_body(), DeleteRequest).named
        config = context.dispatcher.config
        spec = find_model(config, name, caller())
        check_not_preset(lookup(config, name))
        without_deadline()  # requests that use the model have no time limit
        await delete_model(context, spec)
        return Response(b"")

    @routes.post("/create")
    @open_to(Scope.MODELS)
    async def create() -> Response:
        raise _not_supported(
            "models are not made here: add one to router.toml, or fetch it with /api/pull; "
            "parameters that are always the same can be a preset in router.toml"
        )

    @routes.post("/copy")
    @open_to(Scope.MODELS)
    async def copy() -> Response:
        raise _not_supported("models are not copied here: give one another name in its 'aliases'")

    @routes.post("/push")
    @open_to(Scope.MODELS)
    async def push() -> Response:
        raise _not_supported("models are not uploaded from here: use the tools of the hub")

    @routes.route("/blobs/<path:_digest>", methods=["HEAD", "POST"])
    @open_to(Scope.MODELS)
    async def blobs(_digest: str) -> Response:
        raise _not_supported("models are not made here, so there is no place for their parts")

    return routes


async def _pull(context: ControlContext, body: PullRequest) -> Response:
    """Answer a request to download a model. The client that began a download ends it by leaving.

    Raises:
        HubReferenceError: if the name names no file to download.
        DownloadError: if there is no stream, and the download fails.
    """
    streamed = body.stream is not False
    source = _source(context.dispatcher.config, body.named)
    if not isinstance(source, Reference):  # the model is here
        if streamed:
            return Response(json_line(_SUCCESS), content_type=LINES)
        return answer(_SUCCESS)
    downloads = context.downloads
    running = {status.id for status in downloads.statuses() if not status.state.is_over}
    status = downloads.start(source)
    if status.id not in running:
        log.info("download.started", id=status.id, model=str(source))
        request_stack().callback(_cancel, context, status.id)
    if streamed:
        return Response(_progress_lines(context, status.id), content_type=LINES)
    _check(await downloads.finished(status.id))
    return answer(_SUCCESS)


def _source(config: Config, name: str) -> Reference | ModelId:
    """Return the source of the model *name* on the hub, or its id if it needs no download.

    Raises:
        HubReferenceError: if it is neither a name on the hub nor one of the configuration.
    """
    try:
        return parse_reference(name.removesuffix(":latest"))
    except HubReferenceError:
        if (resolved := lookup(config, name)) is None:
            raise
        return resolved.model


def _cancel(context: ControlContext, id_: str) -> None:
    with suppress(KeyError):
        context.downloads.cancel(id_)  # unless it is over


async def _progress_lines(context: ControlContext, id_: str) -> AsyncIterator[bytes]:
    """Yield a line for each progress of the download, and a last one for its end."""
    downloads = context.downloads
    last: dict[str, Any] | None = None
    try:
        while not (status := downloads.status(id_)).state.is_over:
            progress = _progress(status)
            if progress == last:  # nothing happened while the last line was written
                await downloads.changed()
                continue
            last = progress
            yield json_line(progress)
            await trio.sleep(PROGRESS_EVERY_S)
        _check(status)
    except RouterError as exc:
        yield OLLAMA.last_event(exc)
    else:
        yield json_line(_SUCCESS)


def _progress(status: DownloadStatus) -> dict[str, Any]:
    """Return the progress of a download.

    Clients tell the bars of several files apart by ``digest``, and cut it to twelve digits;
    here one bar counts the bytes of all files of the model.
    """
    if status.total_bytes is None:
        return {"status": status.note or "pulling manifest"}
    digest = hashlib.sha256(str(status.reference).encode()).hexdigest()
    return {
        "status": status.note or f"pulling {status.reference}",
        "digest": f"sha256:{digest}",
        "total": status.total_bytes,
        "completed": status.done_bytes,
    }


def _check(status: DownloadStatus) -> None:
    """Raise the error of a download that is over, if it has one."""
    if status.error is not None:
        raise status.error
    if status.state is DownloadState.CANCELLED:
        raise DownloadCancelledError("the download was cancelled; the next one goes on from there")


def _not_supported(reason: str) -> RequestError:
    return RequestError(reason, status=HTTPStatus.NOT_IMPLEMENTED)
