"""Live reading of a model's log; lines that a slow reader cannot take are dropped and counted."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

import trio

from ..logs.rendering import timestamp
from .model_log import LogChunk
from .record import LogRecord

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bounds of the queue of one follower.
MAX_LINES: Final = 2000
MAX_CHARS: Final = 512 * 1024

#: Largest number of records that `LiveFollower.receive` returns: rendering them takes 2 ms.
_BATCH_LINES: Final = 500


class Followed(Protocol):
    """A log, or several, of which new lines are wanted.

    Attributes:
        listeners: Called with every chunk; must neither block nor raise.
    """

    listeners: list[Callable[[LogChunk], None]]

    def recent(self, n: int, /) -> list[LogRecord]:
        """Return the last *n* complete lines that are in memory, oldest first."""


class LiveFollower:
    """A bounded queue of the lines that a model's log gets within the ``with`` block.

    If the reader is too slow, the oldest lines are dropped; a record in their place has their
    number. Neither the backend nor any other reader is slowed down.
    """

    def __init__(
        self, model_log: Followed, *, on_exit: Callable[[LiveFollower], None] = lambda _: None
    ) -> None:
        self._log = model_log
        self._on_exit = on_exit
        self._chunks: deque[LogChunk] = deque()
        self._removed = 0  # lines of the oldest chunk that were received or dropped
        self._line_count = 0
        self._char_count = 0
        self._dropped = 0
        self._ended = False
        self._changed = trio.Event()

    def __enter__(self) -> Self:
        self._log.recent(0)  # ends throttling: output from before is not new
        self._log.listeners.append(self._put)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._log.listeners.remove(self._put)
        self._on_exit(self)

    @property
    def queued_lines(self) -> int:
        """The number of queued lines."""
        return self._line_count

    @property
    def is_over(self) -> bool:
        """True after `end`, once the queue is empty."""
        return self._ended and not self._line_count

    async def wait(self) -> None:
        """Wait until there are lines, or `end` was called."""
        while not self._line_count and not self._ended:
            self._changed = trio.Event()
            await self._changed.wait()

    def end(self) -> None:
        """Make `receive` raise `trio.EndOfChannel` once the queue is empty."""
        self._ended = True
        self._changed.set()

    async def receive(self) -> list[LogRecord]:
        """Wait for lines; remove some of them from the queue, at least one, and return them.

        Raises:
            trio.EndOfChannel: after `end`, if the queue is empty.
        """
        await self.wait()
        if self.is_over:
            raise trio.EndOfChannel
        await trio.lowlevel.checkpoint()
        return self.take()

    def take(self) -> list[LogRecord]:
        """Remove some lines from the queue, if there are any, and return them."""
        records: list[LogRecord] = []
        if self._dropped:
            text = f"… {self._dropped} lines not shown: this reader is too slow"
            records.append(LogRecord(timestamp(time.time()), text, by_router=True))
            self._dropped = 0
        while self._line_count and len(records) < _BATCH_LINES:
            chunk, skip = self._chunks[0], self._removed
            taken = chunk.records(skip, skip + _BATCH_LINES - len(records))
            records += taken
            self._remove(len(taken))
        return records

    def _put(self, chunk: LogChunk) -> None:
        self._chunks.append(chunk)
        self._line_count += len(chunk.texts)
        self._char_count += sum(map(len, chunk.texts))
        while self._line_count > MAX_LINES or self._char_count > MAX_CHARS:
            self._remove(1)
            self._dropped += 1
        self._changed.set()

    def _remove(self, lines: int) -> None:
        """Remove the oldest *lines*, all of one chunk, from the queue."""
        texts = self._chunks[0].texts
        self._char_count -= sum(map(len, texts[self._removed : self._removed + lines]))
        self._line_count -= lines
        self._removed += lines
        if self._removed == len(texts):
            self._chunks.popleft()
            self._removed = 0
