"""A queue with a thread that writes its items, so that producers never block."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..threads import thread_refusals

Item = TypeVar("Item")

# Pause of the thread after a write, in seconds, so that a burst of lines is written at once:
# waking the thread for each line would cost the other threads more than the lines do.
_BATCH_S: Final = 0.01


class ThreadedWriter(Generic[Item]):
    """Accepts items from any thread without blocking; one daemon thread writes them in order."""

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
            name: The name of the thread.
            max_items: Largest number of queued items.
            max_bytes: Largest total size of queued items, approximately.

        Raises:
            ThreadRefusedError: if the system refuses the thread.
        """
        self._write = write
        self._max_items = max_items
        self._max_bytes = max_bytes
        # SimpleQueue.put is reentrant: a finalizer that logs cannot deadlock.
        self._queue: queue.SimpleQueue[tuple[Item, int] | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._written_bytes = 0
        self._closing = threading.Event()
        self._closed = False  # an attribute is read faster than the event
        self._worker = threading.Thread(target=self._run, name=name, daemon=True)
        with thread_refusals():
            self._worker.start()

    def put(self, item: Item, size_bytes: int) -> bool:
        """Queue *item*; return False if the queue is full or closed."""
        if (
            self._queue.qsize() >= self._max_items
            or self._put_bytes - self._written_bytes + size_bytes > self._max_bytes
            or self._closed
        ):
            return False
        self._put_bytes += size_bytes
        self._queue.put((item, size_bytes))
        return True

    def close(self, timeout_s: float) -> bool:
        """Close the queue, and write what is queued, for up to *timeout_s* seconds.

        Blocks the calling thread. Safe to call again. Returns True if everything is written.
        """
        self._closed = True
        self._closing.set()
        self._queue.put(None)
        self._worker.join(timeout_s)
        return not self._worker.is_alive()

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
