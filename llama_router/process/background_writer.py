"""What is written about backends: soon and in order, while nobody waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import structlog
import trio

from ..threads import RETRY_S, ThreadRefusedError, in_thread

log = structlog.get_logger()

#: Seconds that the last writes get when the router ends.
LAST_WRITES_S: Final = 1.0


class BackgroundWriter:
    """Writes on a thread, one after the other. A late record is harmless, a late swap is not."""

    def __init__(self, path: Path) -> None:
        """Take what is written to *path*, which a failure is reported with, and elsewhere."""
        self._path = path
        self._writes: deque[Callable[[], None]] = deque()
        self._written = trio.Event()
        self._writing = threading.Lock()

    def add(self, write: Callable[[], None]) -> None:
        """Let *write*, which may block and raise `OSError`, be called soon."""
        self._writes.append(write)
        self._written.set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Write until cancelled; a full disk costs no backend.

        Cancel it only after the backends: what they have left to write is written then, too,
        for up to `LAST_WRITES_S`.
        """
        task_status.started()
        try:
            while True:
                await self._written.wait()
                self._written = trio.Event()
                await self._write_all()
        finally:
            with trio.move_on_after(LAST_WRITES_S, shield=True):
                await self._write_all()

    async def _write_all(self) -> None:
        while self._writes:
            try:
                # Taken out on the thread: a cancellation may come before that is done.
                await in_thread(self._write_next, abandon_on_cancel=True)
            except ThreadRefusedError:
                await trio.sleep(RETRY_S)
            except OSError as exc:
                log.warning("instances.unwritten", path=str(self._path), reason=exc.strerror)

    def _write_next(self) -> None:
        # A wait that was cancelled leaves its thread behind: then there are two.
        with self._writing:
            if self._writes:
                try:
                    self._writes[0]()
                finally:
                    self._writes.popleft()
