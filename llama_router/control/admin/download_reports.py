"""Downloads as the admin API, the event feed and the log describe them."""

from __future__ import annotations

from typing import Final

import msgspec
import trio

from ...event_feed import DownloadProgressed, EventFeed
from ...hub.downloads import Downloads, DownloadState, DownloadStatus
from ...logs.events import log
from . import download_schemas, schemas

#: Shortest time between two events about the progress of downloads, in seconds.
PUBLISH_EVERY_S: Final = 1.0


def describe_download(status: DownloadStatus) -> download_schemas.Download:
    """Return *status* as the admin API answers it."""
    error, result = status.error, status.result
    return download_schemas.Download(
        id=status.id,
        requested=str(status.reference),
        model=status.model,
        state=status.state.value,
        files=list(status.files),
        done_bytes=status.done_bytes,
        total_bytes=status.total_bytes,
        bytes_per_s=None if status.bytes_per_s is None else round(status.bytes_per_s),
        left_s=None if status.left_s is None else round(status.left_s, 1),
        note=status.note,
        path=None if result is None else result.path,
        mmproj=None if result is None else result.mmproj,
        error=None
        if error is None
        else download_schemas.DownloadFault(code=error.code, message=str(error)),
    )


async def publish_downloads(downloads: Downloads, feed: EventFeed) -> None:
    """Publish each change of *downloads* until cancelled, at most every `PUBLISH_EVERY_S`."""
    published: dict[str, download_schemas.Download] = {}
    while True:
        current = {status.id: describe_download(status) for status in downloads.statuses()}
        changed = [each for id_, each in current.items() if published.get(id_) != each]
        for download in changed:
            queued = DownloadState.QUEUED.value
            if download.id not in published and download.state != queued:
                # It left the queue before this loop saw it there; clients expect that state.
                feed.publish(_progressed(msgspec.structs.replace(download, state=queued)))
            feed.publish(_progressed(download))
        published = current
        if changed:
            await trio.sleep(PUBLISH_EVERY_S)
        else:
            await downloads.changed()


def _progressed(download: download_schemas.Download) -> DownloadProgressed:
    return DownloadProgressed(
        requested=download.requested,
        state=download.state,
        done_bytes=download.done_bytes,
        total_bytes=download.total_bytes,
        download=schemas.to_dict(download),
    )


def log_end(status: DownloadStatus) -> None:
    """Log the end of a download: finished, failed or cancelled."""
    fields = {"id": status.id, "model": status.model or str(status.reference)}
    match status.state:
        case DownloadState.DONE:
            assert status.result is not None
            result = status.result
            log.info(
                "download.finished",
                **fields,
                path=result.path,
                fetched_bytes=result.fetched_bytes,
                stale_reason=result.stale_reason,
            )
        case DownloadState.FAILED:
            assert status.error is not None
            log.warning(
                "download.failed", **fields, code=status.error.code, reason=str(status.error)
            )
        case _:
            log.info("download.cancelled", **fields, done_bytes=status.done_bytes)
