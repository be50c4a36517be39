"""Writing from a thread of its own, so that whoever hands things over never waits."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..threads import thread_refusals

Item = TypeVar("Item")

# A writer that has just written waits this long, to take the lines of a burst together:
# waking its thread for each would cost the other threads more than the lines do.
_BATCH_S: Final = 0.01


class ThreadedWriter(Generic[Item]):
    """Takes items on any thread, never blocking; one daemon thread writes them in order."""

    def __init__(
        self,
        write: Callable[[list[Item]], None],
        *,
        name: str,
        max_items: int = 10_000,
        max_bytes: int = 8 * 2**20,
    ) -> None:
        """Start the thread.

        Args:
            write: Called on the thread with one or more items, or with none at the
                end. May block; must not raise.
            name: Of the thread.
            max_items: Items that may wait.
            max_bytes: What they may hold together, about.

        Raises:
            ThreadRefusedError: if the system refuses the thread.
        """
        self._write = write
        self._max_items = max_items
        self._max_bytes = max_bytes
        # SimpleQueue.put may be interrupted by itself: a finalizer that logs cannot deadlock.
        self._queue: queue.SimpleQueue[tuple[Item, int] | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._written_bytes = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        with thread_refusals():
            self._thread.start()

    def put(self, item: Item, size_bytes: int) -> bool:
        """Hand over *item*; False if it is not taken: too much waits, or it is closed."""
        if (
            self._queue.qsize() >= self._max_items
            or self._put_bytes - self._written_bytes + size_bytes > self._max_bytes
            or self._closing.is_set()
        ):
            return False
        self._put_bytes += size_bytes
        self._queue.put((item, size_bytes))
        return True

    def close(self, timeout_s: float) -> bool:
        """Take nothing more and wait until all is written, up to *timeout_s* seconds.

        Blocks the calling thread. Safe to call again. Returns whether all is written.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        closed = False
        while not closed:
            batch = [self._queue.get()]
            batch += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            closed = None in batch
            entries = [entry for entry in batch if entry is not None]
            self._write([item for item, _ in entries])
            self._written_bytes += sum(size_bytes for _, size_bytes in entries)
            self._closing.wait(_BATCH_S)
