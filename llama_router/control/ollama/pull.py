"""``/api/pull``: a download from the hub that tells its client how far it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
import trio
from quart import Response

from ...errors.base import RouterError
from ...errors.downloads import DownloadError
from ...hub.downloads import DownloadState, DownloadStatus
from ...hub.names import Reference
from ..web.connection import request_stack
from ..web.context import ControlContext
from ..web.guard import answer
from . import pulling
from .answers import ollama_error
from .bodies import PullRequest

log = structlog.get_logger()

#: Between two lines about a download, in seconds.
EVERY_S: Final = 0.2


class DownloadCancelledError(DownloadError):
    """Somebody cancelled the download; what is here is kept for the next time."""

    code = "download_cancelled"
    status = HTTPStatus.CONFLICT


async def pull(context: ControlContext, body: PullRequest) -> Response:
    """Answer a request to fetch a model; the client that began a download ends it by leaving.

    Raises:
        HubReferenceError: if the name does not say what to fetch.
        DownloadError: if there is no stream, and the download fails.
    """
    streamed = body.stream is not False
    wanted = pulling.wanted(context.dispatcher.config, body.named)
    if not isinstance(wanted, Reference):
        return _here(streamed=streamed)
    downloads = context.downloads
    known = {status.id for status in downloads.statuses() if not status.state.is_over}
    status = downloads.start(wanted)
    if status.id not in known:
        log.info("download.started", id=status.id, model=str(wanted))
        request_stack().callback(_leave, context, status.id)
    if streamed:
        return Response(_lines(context, status.id), content_type="application/x-ndjson")
    _check(await downloads.finished(status.id))
    return answer(pulling.SUCCESS)


def _here(*, streamed: bool) -> Response:
    """Answer for a model that is here: there is nothing to fetch."""
    if not streamed:
        return answer(pulling.SUCCESS)
    return Response(_line(pulling.SUCCESS), content_type="application/x-ndjson")


def _leave(context: ControlContext, id_: str) -> None:
    with suppress(KeyError):
        context.downloads.cancel(id_)  # unless it is over


async def _lines(context: ControlContext, id_: str) -> AsyncIterator[bytes]:
    """Yield a line whenever the download is further, and how it ends."""
    downloads = context.downloads
    told: dict[str, Any] | None = None
    try:
        while not (status := downloads.status(id_)).state.is_over:
            now = pulling.progress(
                status.reference,
                note=status.note,
                done_bytes=status.done_bytes,
                total_bytes=status.total_bytes,
            )
            if now == told:  # nothing happened while the last line was written
                await downloads.changed()
                continue
            told = now
            yield _line(now)
            await trio.sleep(EVERY_S)
        _check(status)
    except RouterError as exc:
        yield ollama_error(exc)
    else:
        yield _line(pulling.SUCCESS)


def _check(status: DownloadStatus) -> None:
    """Raise the error of a download that is over, if it has one."""
    if status.error is not None:
        raise status.error
    if status.state is DownloadState.CANCELLED:
        raise DownloadCancelledError("the download was cancelled; the next one goes on from there")


def _line(piece: dict[str, Any]) -> bytes:
    return msgspec.json.encode(piece) + b"\n"
