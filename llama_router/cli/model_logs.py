"""``logs``: what a model's backends printed, from the running router or from its files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeVar
from urllib.parse import quote

import attrs

from ..errors.base import RouterError
from ..files import Unseen, look, reason_of
from ..logs.lines import escape_controls
from ..model_logs.files import FileFollower, log_path, read_tail, record_line
from ..model_logs.record import LogRecord, Resume, as_text, from_json
from .client import NoRouterError, Where, complain, connected, model_id, state_dirs
from .commands.options import MAX_LINES

Result = TypeVar("Result")

#: Where the unit of a system service has its state directory.
_SYSTEM_STATE: Final = Path("/var/lib/llama-router")

#: Pause between two looks at a file, in seconds. Nothing on this machine may tell us: the
#: file may be on a share, or not exist yet.
_LOOK_S: Final = 0.25

#: Pause before a router that is gone is asked again, in seconds.
_AGAIN_S: Final = 1.0

#: Lines that are read again to find where a log was left.
_RESUME_LINES: Final = MAX_LINES


class NoLogError(RouterError):
    """There is neither a running router nor a file with the log of the model."""

    code = "log_not_found"


def show(where: Where, model: str, *, follow: bool, lines: int, as_json: bool) -> int:
    """Print the log of *model*; return the exit status."""
    reader = _Reader(where, model, _Printer(model, as_json=as_json))
    try:
        if follow:
            reader.follow(lines)
        reader.past(lines)
    except RouterError as exc:
        return complain(exc)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # Whoever read has had enough. Else Python would complain of it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Printer:
    """Writes records to standard output, as its reader can take them."""

    def __init__(self, model: str, *, as_json: bool) -> None:
        terminal = sys.stdout.isatty()
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._colours = terminal and not plain
        self._model = model
        self._as_json = as_json
        self._resume = Resume()

    def again(self, *, whole: bool = False) -> None:
        """Expect what was printed already once more; *whole* if nothing can be missing."""
        self._resume.again(whole=whole)

    def print(self, records: Iterable[LogRecord]) -> None:
        """Write those of *records* that are new."""
        for record in records:
            if self._resume.is_new(record):
                if self._resume.gap:
                    _remark(
                        f"lines may be missing here: only the last {_RESUME_LINES} were read "
                        "again, or the older ones were removed"
                    )
                sys.stdout.write(self._render(record))
        sys.stdout.flush()

    def _render(self, record: LogRecord) -> str:
        if self._as_json:
            return record_line(record, self._model).decode()
        return as_text(record, ts=local_time(record.ts), colours=self._colours) + "\n"


def local_time(ts: str, *, now: datetime | None = None) -> str:
    """Return *ts* in local time, with the date unless that is today's."""
    try:
        then = datetime.fromisoformat(ts).astimezone()
    except ValueError:
        return escape_controls(ts)
    clock = then.strftime("%H:%M:%S.%f")[:-3]
    today = (now or datetime.now().astimezone()).date()
    return clock if then.date() == today else f"{then.date().isoformat()} {clock}"


@attrs.define(eq=False)
class _Reader:
    """Gets one model's log from wherever it is."""

    where: Where
    model: str
    printer: _Printer
    _met: bool = attrs.field(default=False, init=False)

    def past(self, lines: int) -> None:
        """Print the last *lines*.

        Raises:
            RouterError: if the router refuses, or there is no log.
        """
        try:
            self._from_router(lines, follow=False)
        except NoRouterError as exc:
            self.printer.print(self._from_files(exc, lines)[1])

    def follow(self, lines: int) -> NoReturn:
        """Print the last *lines* and what comes, for ever.

        Raises:
            RouterError: see `past`.
        """
        while True:
            try:
                self._from_router(lines, follow=True)
            except NoRouterError as exc:
                if self.where.url is None:
                    self._follow_files(exc, lines)
                if not self._met:
                    raise
            _remark("the router is gone; waiting for it")
            time.sleep(_AGAIN_S)
            self.printer.again()
            lines = _RESUME_LINES

    def _from_router(self, lines: int, *, follow: bool) -> None:
        """Print what the router has; return at the end of its answer.

        Raises:
            NoRouterError: if none answers, or not until the end.
            RouterError: if it refuses.
        """
        path = f"/admin/logs/{quote(self.model, safe='')}?tail={lines}&follow={int(follow)}"
        with connected(self.where) as client, client.stream(f"{path}&format=json") as answer:
            self._met = True
            for line in answer:
                if (record := from_json(line)) is not None:
                    self.printer.print([record])

    def _follow_files(self, missing: NoRouterError, lines: int) -> NoReturn:
        """Print what files have and get; another router may write to them later."""
        if self._met:
            _remark("the router is gone; these are its files")
        self.printer.again()
        follower, records = self._from_files(missing, lines)
        self.printer.print(records)
        self.printer.again(whole=True)  # what came while they were read is read again
        while True:
            time.sleep(_LOOK_S)
            self.printer.print(_readable(follower.path, follower.read))

    def _from_files(
        self, missing: NoRouterError, lines: int
    ) -> tuple[FileFollower, list[LogRecord]]:
        """Return the last *lines* in files, and who reads on behind them.

        Raises:
            NoRouterError: *missing*, if the router was named, and so is elsewhere.
            NoLogError: if there is no file, or none that may be read.
        """
        if self.where.url is not None:
            raise missing
        model = model_id(self.where, os.environ, self.model)
        folders = state_dirs(self.where, os.environ)
        if self.where.config is None:
            folders.append(_SYSTEM_STATE)
        unseen = ""
        for folder in folders:
            path = log_path(folder / "logs", model)
            found = look(path)
            if not isinstance(found, Unseen):
                follower = FileFollower(path)
                _readable(path, follower.to_end)
                return follower, _readable(path, partial(read_tail, path, lines))
            if not found.is_missing:  # another one may have it
                unseen = unseen or f"; {path} cannot be looked at: {found.reason}"
        looked = ", ".join(str(folder / "logs") for folder in folders)
        raise NoLogError(
            f"no router is running, and there is no log of a model {self.model!r} in {looked}"
            + unseen
        )


def _readable(path: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except OSError as exc:
        raise NoLogError(f"the log {path} cannot be read: {reason_of(exc)}") from exc


def _remark(text: str) -> None:
    print(f"-- {text}", file=sys.stderr, flush=True)  # noqa: T201 -- not part of the log
