"""The downloads of this process: each is a child process, started and cancelled here.

The router and the command line use it. It logs nothing: *on_end* is called with each result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from itertools import count
from typing import Final

import attrs
import trio

from ..errors.base import RouterError
from ..errors.downloads import DownloadError, download_error
from ..files import reason_of
from ..logs.lines import escape_controls
from ..workers.parent import end_worker, start_worker
from .messages import Checking, Done, Failed, Message, Paused, Progressed, Resolved, decode
from .rate import Rate
from .references import Reference

#: Ended downloads that are remembered.
HISTORY: Final = 50

#: Longest line of a child that is kept, in bytes, and the most lines that an error quotes.
_MAX_LINE_BYTES: Final = 2**20
_MAX_QUOTED_LINES: Final = 5


class DownloadState(StrEnum):
    """State of a download."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Return whether the state is final."""
        return self in {DownloadState.DONE, DownloadState.FAILED, DownloadState.CANCELLED}


@attrs.frozen(kw_only=True)
class DownloadStatus:
    """A snapshot of one download.

    Attributes:
        id: Its id, for `Downloads.cancel`.
        reference: The requested model.
        state: Its state.
        model: ``user/repo:LABEL``, once it is known.
        files: The files to fetch, once they are known; paths in the repository.
        done_bytes: Bytes that have arrived.
        total_bytes: Size of all files; None until it is known.
        bytes_per_s: The current rate; None if it is unknown.
        left_s: Seconds left at this rate.
        note: The reason of a pause.
        result: The downloaded model, once it is done.
        error: The reason of a failure.
    """

    id: str
    reference: Reference
    state: DownloadState = DownloadState.QUEUED
    model: str | None = None
    files: tuple[str, ...] = ()
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_s: float | None = None
    left_s: float | None = None
    note: str | None = None
    result: Done | None = None
    error: RouterError | None = None


class _Download:
    """A download with its status, cancel scope and rate."""

    def __init__(self, status: DownloadStatus) -> None:
        self.status = status
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.rate = Rate()
        self.output_tail: deque[str] = deque(maxlen=_MAX_QUOTED_LINES)
        self.failed: Failed | None = None

    def change(self, **fields: object) -> None:
        self.status = attrs.evolve(self.status, **fields)  # type: ignore[arg-type]  # by name

    def handle(self, message: Message) -> None:
        """Update the status by a message of the child."""
        match message:
            case Resolved(model, files, total_bytes, done_bytes):
                self.change(model=model, files=tuple(files), total_bytes=total_bytes)
                self.advance(done_bytes)
            case Progressed(done_bytes):
                self.advance(done_bytes)
            case Paused(reason, pause_s):
                again = "" if pause_s is None else f"; trying again in {pause_s:.3g} s"
                self.change(note=reason + again)
            case Checking(file):
                self.change(note=f"checking {file}")
            case Done():
                self.change(result=message, model=message.model)
            case Failed():
                self.failed = message

    def advance(self, done_bytes: int) -> None:
        self.rate.add(trio.current_time(), done_bytes)
        self.change(done_bytes=done_bytes, note=None)

    def now(self) -> DownloadStatus:
        """Return the status with the current rate."""
        status = self.status
        if status.state is not DownloadState.RUNNING:
            return status
        rate = self.rate.bytes_per_s(trio.current_time())
        left_s = None
        if rate and status.total_bytes is not None:
            left_s = max(status.total_bytes - status.done_bytes, 0) / rate
        return attrs.evolve(status, bytes_per_s=rate, left_s=left_s)


class Downloads:
    """A set of downloads, which run while `run` does."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        at_once: int = 2,
        on_fetched: Callable[[], Awaitable[object]] = trio.lowlevel.checkpoint,
        on_end: Callable[[DownloadStatus], None] = lambda _status: None,
    ) -> None:
        """Create an empty set.

        Args:
            environ: The environment of the children, with the cache, token and endpoint.
            at_once: Most downloads that run at the same time; others are queued.
            on_fetched: Awaited when a model is in the cache. The download is done after that,
                or has failed if this raises `RouterError`.
            on_end: Called with each download that has ended; must not block or raise.
        """
        self._environ = dict(environ)
        self._turns = trio.CapacityLimiter(at_once)
        self._on_fetched = on_fetched
        self._on_end = on_end
        self._ids = count(1)
        self._downloads: dict[str, _Download] = {}
        self._changed = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run downloads until cancelled; all their processes have ended then."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, reference: Reference) -> DownloadStatus:
        """Start a download, or return the running one of the same reference."""
        assert self._nursery is not None, "run() comes first"
        for download in self._downloads.values():
            if download.status.reference == reference and not download.status.state.is_over:
                return download.now()
        download = _Download(DownloadStatus(id=str(next(self._ids)), reference=reference))
        self._downloads[download.status.id] = download
        self._forget_old()
        self._nursery.start_soon(self._run_download, download)
        return download.now()

    def cancel(self, id_: str) -> bool:
        """Cancel a download; bytes that have arrived are kept. False if it had ended before.

        Raises:
            KeyError: if there is none with that id (any more).
        """
        download = self._downloads[id_]
        if download.status.state.is_over:
            return False
        download.scope.cancel()
        return True

    def status(self, id_: str) -> DownloadStatus:
        """Return the status of one download.

        Raises:
            KeyError: if there is none with that id (any more).
        """
        return self._downloads[id_].now()

    def statuses(self) -> list[DownloadStatus]:
        """Return the status of all remembered downloads, oldest first."""
        return [download.now() for download in self._downloads.values()]

    async def changed(self) -> None:
        """Wait until the status of any download changes."""
        await self._changed.wait()

    async def finished(self, id_: str) -> DownloadStatus:
        """Return the status of a download once it has ended."""
        download = self._downloads[id_]
        await download.over.wait()
        return download.now()

    async def _run_download(self, download: _Download) -> None:
        state = DownloadState.CANCELLED
        try:
            with download.scope:
                async with self._turns:
                    download.change(state=DownloadState.RUNNING)
                    self._notify()
                    returncode = await self._run_child(download)
                if download.status.result is None:
                    raise _error(download, returncode)
                await self._on_fetched()
                state = DownloadState.DONE
        except RouterError as exc:
            state = DownloadState.FAILED
            download.change(error=exc)
        finally:
            download.change(state=state, note=None)
            download.over.set()
            self._notify()
            self._on_end(download.now())

    async def _run_child(self, download: _Download) -> int:
        """Run the child of *download*; return its exit status.

        Raises:
            DownloadError: if it cannot be started.
        """
        reference = download.status.reference
        name = reference.repo if reference.tag is None else f"{reference.repo}:{reference.tag}"
        file = () if reference.file is None else (reference.file,)
        try:
            process = await start_worker("llama_router.hub.fetch", name, *file, env=self._environ)
        except OSError as exc:
            message = f"the process of the download cannot be started: {reason_of(exc)}"
            raise DownloadError(message) from exc
        try:
            await self._listen(process, download)
            return await process.wait()
        finally:
            await end_worker(process)

    async def _listen(self, process: trio.Process, download: _Download) -> None:
        """Handle the messages of the child until it closes its output."""
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _MAX_LINE_BYTES:
                rest = b""
            for line in lines:
                if message := decode(line):
                    download.handle(message)
                elif text := escape_controls(line.decode("utf-8", "replace").strip()):
                    download.output_tail.append(text)
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _forget_old(self) -> None:
        over = [i for i, download in self._downloads.items() if download.status.state.is_over]
        for id_ in over[: max(len(over) - HISTORY, 0)]:
            del self._downloads[id_]


def _error(download: _Download, returncode: int) -> DownloadError:
    """Return the error of a child that ended without a result."""
    if download.failed is not None:
        return download_error(download.failed.code, download.failed.message)
    exit_ = f"was killed by signal {-returncode}" if returncode < 0 else f"ended ({returncode})"
    quote = " | ".join(download.output_tail)
    return DownloadError(
        f"the process of the download {exit_}" + (f"; its last words: {quote}" if quote else "")
    )
