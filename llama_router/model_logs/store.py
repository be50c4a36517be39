"""The logs of all models, and the thread that writes them to files."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio

from ..logs.events import log
from ..logs.rendering import timestamp
from ..logs.threaded_writer import ThreadedWriter
from ..threads import ThreadRefusedError, in_thread
from .follow import LiveFollower
from .log_files import append_rotating, log_path, record_line, remove_old_files
from .model_log import REPORT_AFTER_S, LogChunk, ModelLog
from .record import LogRecord

# Interval at which old files are removed, in seconds; also done after each rotation.
_CLEAN_UP_S: Final = 3600.0


@attrs.frozen
class _Entry:
    """Queued lines; *refused* is the number of lines before them that a full queue refused."""

    model: str
    chunk: LogChunk
    refused: int


class _AllLogs:
    """The logs of all models as one, for followers."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[LogChunk], None]] = []

    def recent(self, _n: int, /) -> list[LogRecord]:
        """Return nothing: past lines are read model by model."""
        return []

    def put(self, chunk: LogChunk) -> None:
        """Pass on a chunk of any log."""
        for listen in self.listeners:
            listen(chunk)


class LogStore:
    """The logs of all models; a thread writes them to *directory*, unless that is None.

    ``<directory>/<quoted model>.jsonl`` has one object per line: ``ts``, ``model``, ``line``,
    and ``by`` for a note of the router. A file that would exceed *max_bytes* is renamed to
    ``….jsonl.1``, and so on up to *backups*. A slow or full disk blocks nothing: lines are
    lost, with one ``log.write_failed`` per model and error in ten minutes, and with a note at
    their place in the file.

    Files that were not written for *keep_s* are removed, and the oldest ones while all of
    them together have more than *total_bytes*; None disables either limit.
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
        self._all = _AllLogs()
        self._refused: Counter[str] = Counter()
        self._throttled = trio.Event()
        self._followers: set[LiveFollower] = set()
        self._followers_ended = False
        # Used by the writer's thread only.
        self._lost_lines: Counter[str] = Counter()
        self._no_warning_until_s: dict[tuple[str, str], float] = {}
        self._warned: set[str] = set()
        self._writer = None if directory is None else ThreadedWriter(self._write, name="model logs")

    def for_model(self, model: str) -> ModelLog:
        """Return the log of *model*; the same object for each call."""
        if model not in self._logs:
            model_log = ModelLog(model, on_throttled=self._on_throttled)
            model_log.listeners.append(self._all.put)
            if self._writer is not None:
                model_log.listeners.append(partial(self._enqueue, self._writer, model))
            self._logs[model] = model_log
        return self._logs[model]

    @property
    def dropped_lines(self) -> int:
        """Lines of the output of all backends that were dropped, because they came too fast."""
        return sum(model_log.dropped_lines for model_log in self._logs.values())

    def path_for(self, model: str) -> Path | None:
        """Return the path of *model*'s file, which may not exist; None without a directory."""
        return None if self._directory is None else log_path(self._directory, model)

    def follow(self, model: str | None) -> LiveFollower:
        """Return a new follower of *model*'s log, to be used in a ``with`` block.

        None stands for the logs of all models, those included that come later.
        """
        followed = self._all if model is None else self.for_model(model)
        follower = LiveFollower(followed, on_exit=self._followers.discard)
        self._followers.add(follower)
        if self._followers_ended:
            follower.end()
        return follower

    def end_following(self) -> None:
        """End every follower, later ones included, once its queue is empty."""
        self._followers_ended = True
        for follower in self._followers:
            follower.end()

    async def run(self) -> NoReturn:
        """Report dropped output once it ends, and remove old files, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_throttling)
            while True:
                with suppress(ThreadRefusedError):
                    await in_thread(self._remove_old_files, abandon_on_cancel=True)
                await trio.sleep(_CLEAN_UP_S)

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, up to *timeout_s* seconds; blocks the calling thread.

        Logs in memory stay usable. Returns True if all is written, or reported as lost.
        """
        for model_log in self._logs.values():
            model_log.end_of_process()
        return self._writer is None or self._writer.close(timeout_s)

    def _on_throttled(self) -> None:
        self._throttled.set()

    async def _end_throttling(self) -> NoReturn:
        while True:
            await self._throttled.wait()
            self._throttled = trio.Event()
            while throttled := [found for found in self._logs.values() if found.throttled]:
                await trio.sleep(REPORT_AFTER_S)
                for model_log in throttled:
                    model_log.report_dropped()

    def _remove_old_files(self) -> None:
        """Remove old files; runs on any thread."""
        if self._directory is None or (self._keep_s is None and self._total_bytes is None):
            return
        removed = remove_old_files(
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
        """Write a batch; runs on the writer's thread."""
        lines: dict[str, deque[bytes]] = {}
        for entry in batch:
            if entry.refused:
                self._lost_lines[entry.model] += entry.refused
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
        if lost := self._lost_lines[model]:
            note = f"… {lost} lines could not be written"
            gap = record_line(LogRecord(timestamp(time.time()), note, by_router=True), model)
            lines.appendleft(gap)
        try:
            rotated = append_rotating(path, lines, max_bytes=self._max_bytes, backups=self._backups)
        except OSError as error:
            gap_written = not gap or lines[0] is not gap
            self._lost_lines[model] = len(lines) + (0 if gap_written else lost - 1)
            self._warn(model, str(error))
            return
        if rotated:
            self._remove_old_files()
        self._lost_lines[model] = 0
        if model in self._warned:
            self._warned.discard(model)
            log.info("log.write_recovered", model=model, path=str(path), lost_lines=lost)

    def _warn(self, model: str, error: str) -> None:
        now_s = time.monotonic()
        if now_s < self._no_warning_until_s.get((model, error), now_s):
            return
        self._no_warning_until_s[model, error] = now_s + 600
        self._warned.add(model)
        log.warning(
            "log.write_failed",
            model=model,
            path=str(self.path_for(model)),
            error=error,
            lost_lines=self._lost_lines[model],
        )
