"""What the backends print: kept in memory per model, and in rotated files."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter, deque
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import attrs
import structlog

from llama_router.core.lines import MAX_LINE_BYTES, Line, LineSplitter
from llama_router.logs import ThreadedWriter, json_line, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = structlog.get_logger()

# How llama-server tells its parent about its state. Source: llama.cpp, tools/server.
PROTOCOL_PREFIX: Final = "cmd_child_to_router:"
_PROTOCOL: Final = re.compile(re.escape(PROTOCOL_PREFIX.encode()) + rb"[^\r\n]*\r*\n?")

# What one model's log holds in memory.
_MAX_LINES: Final = 1000
_MAX_CHARS: Final = 256 * 1024

# What may be split in a second, as bytes; a line counts as this many more, for that is what
# it costs. 2 MiB of ordinary lines, 60 000 tiny ones: some 100 ms of everybody's time. A
# backend in its most talkative mode stays well below.
_LINE_COST: Final = 50
FLOOD_COST_PER_S: Final = 3 * 2**20
# In the second after one with a flood.
_CALM_COST_PER_S: Final = 96 * 1024
# Kept of a flood's end, once a second.
_NEWEST_BYTES: Final = MAX_LINE_BYTES


class ModelLog:
    """The output of one model's backends, across restarts; bounded whatever they print.

    Lines of llama-server's child protocol go to `on_line` only: they are not for people.

    Attributes:
        on_line: Called with every line, as it is completed. During a flood, ordinary
            lines may be left out; those of the child protocol never are.
    """

    def __init__(
        self,
        model: str,
        *,
        sink: Callable[[list[str]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start empty; *sink* takes every line that is kept, and must not block."""
        self.on_line: Callable[[Line], None] | None = None
        self._model = model
        self._sink = sink
        self._clock = clock
        self._splitter = LineSplitter()
        self._lines: deque[str] = deque()
        self._chars = 0
        self._since_mark = 0
        self._progress: str | None = None
        self._second_started_s = clock()
        self._second_cost = 0
        self._allowed_cost = FLOOD_COST_PER_S
        self._flood: _Flood | None = None

    def write(self, data: bytes) -> None:
        """Take what a backend printed. Never blocks, never raises."""
        elapsed_s = self._clock() - self._second_started_s
        if elapsed_s >= 1:
            self._settle()
            flooded = self._second_cost > self._allowed_cost and elapsed_s < 2
            self._allowed_cost = _CALM_COST_PER_S if flooded else FLOOD_COST_PER_S
            self._second_started_s += elapsed_s
            self._second_cost = 0
        self._second_cost += len(data)
        if self._flood is None:
            self._second_cost += _LINE_COST * (data.count(b"\n") + data.count(b"\r"))
        if self._second_cost <= self._allowed_cost:
            self._keep(self._splitter.feed(data))
            return
        if self._flood is None:
            self._flood = _Flood(self._splitter.take_partial())
        for line in self._flood.skim(data):
            self._notify(line)

    def note(self, text: str) -> None:
        """Say between the lines what the router did or knows, e.g. ``pid 123 ended``."""
        self._settle()
        self._record([text])

    def mark(self, text: str) -> None:
        """Do the same, and let `tail` tell what was before from what follows."""
        self.note(text)
        self._since_mark = 0
        self._progress = None

    def tail(self, n: int, *, since_mark: bool = False) -> tuple[str, ...]:
        """Return the last *n* complete lines, oldest first.

        A progress update is returned only if it is the newest thing printed. With
        *since_mark*, lines before the last `mark`, and the mark itself, are left out.
        """
        self._settle()
        lines = list(self._lines)
        if since_mark:
            lines = lines[len(lines) - min(self._since_mark, len(lines)) :]
        if self._progress is not None:
            lines.append(self._progress)
        return tuple(lines[-n:]) if n > 0 else ()

    def end_of_process(self) -> None:
        """Complete the last line: nothing more comes from this process."""
        self._settle()
        self._keep(self._splitter.flush())

    def _keep(self, lines: Iterable[Line]) -> None:
        texts: list[str] = []
        for line in lines:
            # Output without a newline, such as llama.cpp's dots, may stand before it.
            text, prefix, state = line.text.partition(PROTOCOL_PREFIX)
            if text or not prefix:
                self._notify(Line(text, line.progress))
                self._progress = text if line.progress else None
                if not line.progress:
                    texts.append(text)
            if prefix:
                self._notify(Line(prefix + state))
        if texts:
            self._record(texts)

    def _record(self, texts: list[str]) -> None:
        self._since_mark += len(texts)
        self._lines.extend(texts)
        self._chars += sum(map(len, texts))
        while len(self._lines) > _MAX_LINES or self._chars > _MAX_CHARS:
            self._chars -= len(self._lines.popleft())
        if self._sink is not None:
            self._sink(texts)

    def _notify(self, line: Line) -> None:
        if self.on_line is None:
            return
        try:
            self.on_line(line)
        except Exception:
            # The pipe must be read on, or the backend would stop.
            self.on_line = None
            log.exception("log.listener_failed", model=self._model)

    def _settle(self) -> None:
        """Say what a flood cost, and go on from its newest lines."""
        if self._flood is None:
            return
        lines, size_bytes, newest = self._flood.settle()
        self._flood = None
        if size_bytes:
            self._record([f"… {lines} lines ({size_bytes / 1e6:.1f} MB) dropped"])
        self._keep(self._splitter.feed(newest))


class _Flood:
    """Output that comes faster than it can be kept: counted, its end remembered."""

    def __init__(self, unfinished: bytes) -> None:
        self._unfinished = unfinished
        self._newest = b""
        self._lines = 0
        self._bytes = 0

    def skim(self, data: bytes) -> list[Line]:
        """Count *data*; return the lines of the child protocol that it completes."""
        ended, newline, rest = data.rpartition(b"\n")
        found: list[Line] = []
        if newline:
            complete = self._unfinished + ended + newline
            self._unfinished = b""
            if PROTOCOL_PREFIX.encode() in complete:
                found = LineSplitter().feed(b"".join(_PROTOCOL.findall(complete)))
                complete = _PROTOCOL.sub(b"", complete)
            self._lines += complete.count(b"\n")
            self._bytes += len(complete)
            self._newest = (self._newest + complete[-_NEWEST_BYTES:])[-_NEWEST_BYTES:]
        self._unfinished += rest
        excess_bytes = max(len(self._unfinished) - _NEWEST_BYTES, 0)
        self._bytes += excess_bytes
        self._unfinished = self._unfinished[excess_bytes:]
        return found

    def settle(self) -> tuple[int, int, bytes]:
        """Return how many lines and bytes are lost, and the newest output."""
        newest = self._newest
        if self._bytes > len(newest):
            newest = newest.partition(b"\n")[2]  # its first line may be half a line
        lost_bytes = self._bytes - len(newest)
        return self._lines - newest.count(b"\n"), lost_bytes, newest + self._unfinished


@attrs.frozen
class _Entry:
    """Lines on their way to a file; *refused* ones before them found the queue full."""

    model: str
    time_s: float
    texts: list[str]
    refused: int


class LogStore:
    """The logs of all models; written to *directory* by a thread, if there is one.

    ``<directory>/<quoted model>.jsonl`` has one object per line: ``ts``, ``model`` and
    ``line``. When it would exceed *max_bytes* it becomes ``….jsonl.1``, and so on up to
    *backups*. Neither a slow disk nor a full one holds anything up: lines are lost, with
    one ``log.write_failed`` per model and error in ten minutes, and the file says where.
    """

    def __init__(self, directory: Path | None, *, max_bytes: int, backups: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._backups = backups
        self._logs: dict[str, ModelLog] = {}
        self._refused: Counter[str] = Counter()
        # Used by the writing thread only.
        self._missing: Counter[str] = Counter()
        self._quiet_until_s: dict[tuple[str, str], float] = {}
        self._warned: set[str] = set()
        self._writer = None if directory is None else ThreadedWriter(self._write, name="model logs")

    def for_model(self, model: str) -> ModelLog:
        """Return the log of *model*, always the same one."""
        if model not in self._logs:
            sink = None if self._writer is None else partial(self._enqueue, self._writer, model)
            self._logs[model] = ModelLog(model, sink=sink)
        return self._logs[model]

    def path_for(self, model: str) -> Path | None:
        """Return the path of *model*'s file, which may not exist yet; None without files."""
        if self._directory is None:
            return None
        name = quote(model, safe="", errors="surrogatepass")
        if len(name) > 180:  # file names end at 255 bytes
            digest = hashlib.sha256(name.encode()).hexdigest()
            name = f"{name[:150]}-{digest[:16]}"
        return self._directory / f"{name}.jsonl"

    def close(self, timeout_s: float) -> bool:
        """Write what is queued, up to *timeout_s* seconds; blocks the calling thread.

        Logs in memory stay usable. Returns whether all is written, or known to be lost.
        """
        for model_log in self._logs.values():
            model_log.end_of_process()
        return self._writer is None or self._writer.close(timeout_s)

    def _enqueue(self, writer: ThreadedWriter[_Entry], model: str, texts: list[str]) -> None:
        entry = _Entry(model, time.time(), texts, self._refused[model])
        if writer.put(entry, sum(map(len, texts)) + 100 * len(texts)):
            self._refused[model] = 0
        else:
            self._refused[model] += len(texts)

    def _write(self, batch: list[_Entry]) -> None:
        """Write a batch; on the thread."""
        lines: dict[str, deque[bytes]] = {}
        for entry in batch:
            if entry.refused:
                self._missing[entry.model] += entry.refused
                self._warn(entry.model, "queue full: the disk is too slow")
            head = {"ts": timestamp(entry.time_s), "model": entry.model}
            lines.setdefault(entry.model, deque()).extend(
                json_line({**head, "line": text}) for text in entry.texts
            )
        for model, rest in lines.items():
            self._append(model, rest)

    def _append(self, model: str, lines: deque[bytes]) -> None:
        path = self.path_for(model)
        assert path is not None
        gap = b""
        if missing := self._missing[model]:
            note = f"… {missing} lines could not be written"
            gap = json_line({"ts": timestamp(time.time()), "model": model, "line": note})
            lines.appendleft(gap)
        try:
            append_rotating(path, lines, max_bytes=self._max_bytes, backups=self._backups)
        except OSError as error:
            gap_written = not gap or lines[0] is not gap
            self._missing[model] = len(lines) + (0 if gap_written else missing - 1)
            self._warn(model, str(error))
            return
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


def append_rotating(path: Path, lines: deque[bytes], *, max_bytes: int, backups: int) -> None:
    """Append *lines* to the file at *path*, taking them out of the deque.

    A file that would exceed *max_bytes* is renamed first: ``path.1`` is the newest of
    *backups*. The file is opened anew each time: it may be moved or removed meanwhile.

    Raises:
        OSError: if not everything could be written; of what is left in *lines*, only a
            part is in the file, if anything.
    """
    while lines:
        descriptor = _open(path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            # A write that failed, or a router that was killed, may have left half a line.
            torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
            chunk = bytearray(b"\n" if torn else b"")
            count = 0
            for line in lines:
                if size_bytes + len(chunk) + len(line) > max_bytes and (size_bytes or count):
                    break
                chunk += line
                count += 1
            if count > 0:
                _write_all(descriptor, chunk)
        finally:
            os.close(descriptor)
        for _ in range(count):
            lines.popleft()
        if lines:
            _rotate(path, backups)


def _open(path: Path) -> int:
    # Prompts may be in it: not for everybody's eyes.
    flags, mode = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, mode)


def _write_all(descriptor: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _rotate(path: Path, backups: int) -> None:
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, backups + 1))]
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            newer.replace(older)
    if backups == 0:
        path.unlink()
