"""Queued writes about backends, done in order on a thread, so that no caller waits."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

import trio

from ..logs.events import log
from ..threads import RETRY_S, ThreadRefusedError, in_thread

#: Seconds for the queued writes when the router ends.
FLUSH_TIMEOUT_S: Final = 1.0


class BackgroundWriter:
    """Calls blocking functions on a thread, one after the other, in the order of `enqueue`.

    A record on the disk may be late by a moment; the swap of a model must not wait for it.

    Args:
        path: Logged with a failure; most writes change this file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: deque[Callable[[], None]] = deque()
        self._not_empty = trio.Event()
        self._lock = threading.Lock()

    def enqueue(self, write: Callable[[], None]) -> None:
        """Queue *write*, which may block and raise `OSError`. Never blocks."""
        self._queue.append(write)
        self._not_empty.set()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Write until cancelled; a full disk is logged and ends no backend.

        Cancel it only after the backends: the writes that their ends queued are done then,
        for up to `FLUSH_TIMEOUT_S`.
        """
        task_status.started()
        try:
            while True:
                await self._not_empty.wait()
                self._not_empty = trio.Event()
                await self._write_all()
        finally:
            with trio.move_on_after(FLUSH_TIMEOUT_S, shield=True):
                await self._write_all()

    async def _write_all(self) -> None:
        while self._queue:
            try:
                # Dequeued on the thread: a cancellation may come before the write is done.
                await in_thread(self._write_next, abandon_on_cancel=True)
            except ThreadRefusedError:
                await trio.sleep(RETRY_S)
            except OSError as exc:
                log.warning("instances.unwritten", path=str(self._path), reason=exc.strerror)

    def _write_next(self) -> None:
        # A cancelled wait leaves its thread running: then two threads may be here.
        with self._lock:
            if self._queue:
                try:
                    self._queue[0]()
                finally:
                    self._queue.popleft()
