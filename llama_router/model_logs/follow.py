"""Following a model's log live: what a slow reader cannot take is dropped, counted, and said."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import trio

from ..logs.rendering import timestamp
from .model_log import LogChunk, ModelLog
from .record import LogRecord

if TYPE_CHECKING:
    from collections.abc import Callable

#: What may wait for one follower.
MAX_LINES: Final = 2000
MAX_CHARS: Final = 512 * 1024

#: Records that `Follower.receive` returns at once: rendering them takes some 2 ms.
_BATCH_LINES: Final = 500


class Follower:
    """One reader's bounded share of a model's log, from `__enter__` to `__exit__`.

    The oldest lines are dropped if the reader is too slow; a record in their place says how
    many. Neither the backend nor any other reader notices.
    """

    def __init__(
        self, model_log: ModelLog, *, on_exit: Callable[[Follower], None] = lambda _: None
    ) -> None:
        self._log = model_log
        self._on_exit = on_exit
        self._chunks: deque[LogChunk] = deque()
        self._skip = 0  # lines of the oldest chunk that were taken or dropped
        self._lines = 0
        self._chars = 0
        self._dropped = 0
        self._ended = False
        self._news = trio.Event()

    def __enter__(self) -> Self:
        self._log.recent(0)  # what a flood left is of the past: not to be heard twice
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
    def waiting_lines(self) -> int:
        """How many lines could be taken at once."""
        return self._lines

    def end(self) -> None:
        """Let `receive` end once everything is taken."""
        self._ended = True
        self._news.set()

    async def receive(self) -> list[LogRecord]:
        """Wait for lines and take some of them, at least one.

        Raises:
            trio.EndOfChannel: if it was ended, and everything is taken.
        """
        while not self._lines:
            if self._ended:
                raise trio.EndOfChannel
            self._news = trio.Event()
            await self._news.wait()
        await trio.lowlevel.checkpoint()
        records: list[LogRecord] = []
        if self._dropped:
            text = f"… {self._dropped} lines not shown: this reader is too slow"
            records.append(LogRecord(timestamp(time.time()), text, by_router=True))
            self._dropped = 0
        while self._lines and len(records) < _BATCH_LINES:
            chunk, skip = self._chunks[0], self._skip
            taken = chunk.records(skip, skip + _BATCH_LINES - len(records))
            records += taken
            self._forget(len(taken))
        return records

    def _put(self, chunk: LogChunk) -> None:
        self._chunks.append(chunk)
        self._lines += len(chunk.texts)
        self._chars += sum(map(len, chunk.texts))
        while self._lines > MAX_LINES or self._chars > MAX_CHARS:
            self._forget(1)
            self._dropped += 1
        self._news.set()

    def _forget(self, lines: int) -> None:
        """Remove the oldest *lines*, all of one chunk."""
        texts = self._chunks[0].texts
        self._chars -= sum(map(len, texts[self._skip : self._skip + lines]))
        self._lines -= lines
        self._skip += lines
        if self._skip == len(texts):
            self._chunks.popleft()
            self._skip = 0
