"""What the backends print: the logs of all models, and the files that they are written to."""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import attrs
import structlog
import trio

from ..logs.rendering import timestamp
from ..logs.threaded_writer import ThreadedWriter
from ..threads import ThreadRefusedError, in_thread
from .files import append_rotating, log_path, record_line, remove_old
from .follow import Follower
from .model_log import SETTLE_S, LogChunk, ModelLog
from .record import LogRecord

log = structlog.get_logger()

# Old files are given up after each rotation, and as often as this, in seconds.
_TIDY_S: Final = 3600.0


@attrs.frozen
class _Entry:
    """Lines on their way to a file; *refused* ones before them found the queue full."""

    model: str
    chunk: LogChunk
    refused: int


class LogStore:
    """The logs of all models; written to *directory* by a thread, if there is one.

    ``<directory>/<quoted model>.jsonl`` has one object per line: ``ts``, ``model``, ``line``,
    and ``by`` if the router says it. When it would exceed *max_bytes* it becomes
    ``….jsonl.1``, and so on up to *backups*. Neither a slow disk nor a full one holds
    anything up: lines are lost, with one ``log.write_failed`` per model and error in ten
    minutes, and the file says where.

    Files that were not written for *keep_s* are removed, and the oldest ones while all of
    them together have more than *total_bytes*; None for either keeps them.
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        max_bytes: int,
        backups: int,
        keep_s: float | None = None,
        total_bytes: int | None = None,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._backups = backups
        self._keep_s = keep_s
        self._total_bytes = total_bytes
        self._logs: dict[str, ModelLog] = {}
        self._refused: Counter[str] = Counter()
        self._flooded = trio.Event()
        self._followers: set[Follower] = set()
        self._ending = False
        # Used by the writing thread only.
        self._missing: Counter[str] = Counter()
        self._quiet_until_s: dict[tuple[str, str], float] = {}
        self._warned: set[str] = set()
        self._writer = None if directory is None else ThreadedWriter(self._write, name="model logs")

    def for_model(self, model: str) -> ModelLog:
        """Return the log of *model*, always the same one."""
        if model not in self._logs:
            model_log = ModelLog(model, on_flood=self._note_flood)
            if self._writer is not None:
                model_log.listeners.append(partial(self._enqueue, self._writer, model))
            self._logs[model] = model_log
        return self._logs[model]

    def path_for(self, model: str) -> Path | None:
        """Return the path of *model*'s file, which may not exist yet; None without files."""
        return None if self._directory is None else log_path(self._directory, model)

    def follow(self, model: str) -> Follower:
        """Return a new follower of *model*'s log; it follows while its block lasts."""
        follower = Follower(self.for_model(model), on_exit=self._followers.discard)
        self._followers.add(follower)
        if self._ending:
            follower.end()
        return follower

    def end_following(self) -> None:
        """Let every follower, also a later one, end once it has read what is there."""
        self._ending = True
        for follower in self._followers:
            follower.end()

    async def run(self) -> NoReturn:
        """Show what floods left once they are over, and give up old files, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle_floods)
            while True:
                with suppress(ThreadRefusedError):
                    await in_thread(self._tidy, abandon_on_cancel=True)
                await trio.sleep(_TIDY_S)

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, up to *timeout_s* seconds; blocks the calling thread.

        Logs in memory stay usable. Returns whether all is written, or known to be lost.
        """
        for model_log in self._logs.values():
            model_log.end_of_process()
        return self._writer is None or self._writer.close(timeout_s)

    def _note_flood(self) -> None:
        self._flooded.set()

    async def _settle_floods(self) -> NoReturn:
        while True:
            await self._flooded.wait()
            self._flooded = trio.Event()
            while flooded := [found for found in self._logs.values() if found.flooded]:
                await trio.sleep(SETTLE_S)
                for model_log in flooded:
                    model_log.settle()

    def _tidy(self) -> None:
        """Give up old files; on some thread."""
        if self._directory is None or (self._keep_s is None and self._total_bytes is None):
            return
        removed = remove_old(
            self._directory,
            now_s=time.time(),
            keep_s=self._keep_s,
            total_bytes=self._total_bytes,
        )
        if removed:
            log.info("log.removed", files=removed)

    def _enqueue(self, writer: ThreadedWriter[_Entry], model: str, chunk: LogChunk) -> None:
        entry = _Entry(model, chunk, self._refused[model])
        if writer.put(entry, sum(map(len, chunk.texts)) + 100 * len(chunk.texts)):
            self._refused[model] = 0
        else:
            self._refused[model] += len(chunk.texts)

    def _write(self, batch: list[_Entry]) -> None:
        """Write a batch; on the thread."""
        lines: dict[str, deque[bytes]] = {}
        for entry in batch:
            if entry.refused:
                self._missing[entry.model] += entry.refused
                self._warn(entry.model, "queue full: the disk is too slow")
            lines.setdefault(entry.model, deque()).extend(
                record_line(record, entry.model) for record in entry.chunk.records()
            )
        for model, rest in lines.items():
            self._append(model, rest)

    def _append(self, model: str, lines: deque[bytes]) -> None:
        path = self.path_for(model)
        assert path is not None
        gap = b""
        if missing := self._missing[model]:
            note = f"… {missing} lines could not be written"
            gap = record_line(LogRecord(timestamp(time.time()), note, by_router=True), model)
            lines.appendleft(gap)
        try:
            rotated = append_rotating(path, lines, max_bytes=self._max_bytes, backups=self._backups)
        except OSError as error:
            gap_written = not gap or lines[0] is not gap
            self._missing[model] = len(lines) + (0 if gap_written else missing - 1)
            self._warn(model, str(error))
            return
        if rotated:
            self._tidy()
        self._missing[model] = 0
        if model in self._warned:
            self._warned.discard(model)
            log.info("log.write_recovered", model=model, path=str(path), lost_lines=missing)

    def _warn(self, model: str, error: str) -> None:
        now_s = time.monotonic()
        if now_s < self._quiet_until_s.get((model, error), now_s):
            return
        self._quiet_until_s[model, error] = now_s + 600
        self._warned.add(model)
        log.warning(
            "log.write_failed",
            model=model,
            path=str(self.path_for(model)),
            error=error,
            lost_lines=self._missing[model],
        )
