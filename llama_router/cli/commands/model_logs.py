"""``logs``: prints the log of a model, from the running router or from its files."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Final, NoReturn, TypeVar
from urllib.parse import quote

import attrs
from cyclopts import Parameter

from ...files import Unseen, look, reason_of
from ...logs.lines import escape_controls
from ...model_logs.log_files import FileFollower, log_path, read_tail, record_line
from ...model_logs.record import LogRecord, Resume, as_text, from_json
from ..client import connected, reporting_failures
from ..failures import CliError, NoRouterError
from ..options import DEFAULT_CONNECTION, MAX_LINES, Connection, Json, Lines
from ..printing import print_message
from ..router_search import model_id, state_dirs
from ..terminal import has_colours

Result = TypeVar("Result")

#: The state directory of the system service.
_SYSTEM_STATE: Final = Path("/var/lib/llama-router")

#: Pause between two reads of a file, in seconds. inotify does not report every change: the
#: file may be on a network share, or not exist yet.
_POLL_S: Final = 0.25

#: Pause before a new connection to a router that has ended, in seconds.
_RECONNECT_S: Final = 1.0

#: Number of lines that are read again after an interruption, to find the first new one.
_RESUME_LINES: Final = MAX_LINES


class NoLogError(CliError):
    """No router is running, and no file has the log of the model."""

    code = "log_not_found"


@reporting_failures
def logs(
    model: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: Lines = 100,
    json: Json = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Print the last output of a model's backends; with --follow also new output.

    The log is read from the running router, or from its files if no router is running.

    Args:
        model: Its name or an alias.
        follow: Print new output until Ctrl-C, across restarts of the backend and of the router.
        lines: The number of past lines.
        json: Print each line as a JSON object.
        connection: How to find the router.
    """
    reader = _Reader(connection, model, _Printer(model, as_json=json))
    try:
        if follow:
            reader.follow(lines)
        reader.print_past(lines)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        # The reader has closed the pipe; without this, Python's flush at exit would fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class _Printer:
    """Writes records to standard output: as JSON, as text, or with colours on a terminal."""

    def __init__(self, model: str, *, as_json: bool) -> None:
        self._colours = has_colours(sys.stdout)
        self._model = model
        self._as_json = as_json
        self._resume = Resume()

    def restart(self, *, complete: bool = False) -> None:
        """Skip the printed records when they come again; see `Resume.restart`."""
        self._resume.restart(complete=complete)

    def print(self, records: Iterable[LogRecord]) -> None:
        """Write the *records* that were not written before."""
        for record in records:
            if self._resume.is_new(record):
                if self._resume.gap:
                    _print_note(
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
    """Reads the log of one model from the router, or from its files."""

    connection: Connection
    model: str
    printer: _Printer
    _reached: bool = attrs.field(default=False, init=False)

    def print_past(self, lines: int) -> None:
        """Print the last *lines*.

        Raises:
            RouterError: if the router refuses, or there is no log.
        """
        try:
            self._from_router(lines, follow=False)
        except NoRouterError as exc:
            self.printer.print(self._from_files(exc, lines)[1])

    def follow(self, lines: int) -> NoReturn:
        """Print the last *lines*, then new lines without end.

        Raises:
            RouterError: see `print_past`.
        """
        while True:
            try:
                self._from_router(lines, follow=True)
            except NoRouterError as exc:
                if self.connection.url is None:
                    self._follow_files(exc, lines)
                if not self._reached:
                    raise
            _print_note("the router is gone; waiting for it")
            time.sleep(_RECONNECT_S)
            self.printer.restart()
            lines = _RESUME_LINES

    def _from_router(self, lines: int, *, follow: bool) -> None:
        """Print the log from the router; return at the end of its response.

        Raises:
            NoRouterError: if there is no response, or it is incomplete.
            RouterError: if the router refuses the request.
        """
        path = f"/admin/logs/{quote(self.model, safe='')}?tail={lines}&follow={int(follow)}"
        with connected(self.connection) as client, client.stream(f"{path}&format=json") as response:
            self._reached = True
            for line in response:
                if (record := from_json(line)) is not None:
                    self.printer.print([record])

    def _follow_files(self, missing: NoRouterError, lines: int) -> NoReturn:
        """Print the log from its files, then new lines in them, also of a later router."""
        if self._reached:
            _print_note("the router is gone; these are its files")
        self.printer.restart()
        follower, records = self._from_files(missing, lines)
        self.printer.print(records)
        self.printer.restart(complete=True)  # lines that came during the read are read again
        while True:
            time.sleep(_POLL_S)
            self.printer.print(_read_or_raise(follower.path, follower.read))

    def _from_files(
        self, missing: NoRouterError, lines: int
    ) -> tuple[FileFollower, list[LogRecord]]:
        """Return a follower behind the end of the files, and their last *lines*.

        Raises:
            NoRouterError: *missing*, if --url names the router: then it may be elsewhere.
            NoLogError: if no file can be read.
        """
        if self.connection.url is not None:
            raise missing
        model = model_id(self.connection, os.environ, self.model)
        folders = state_dirs(self.connection, os.environ)
        if self.connection.config is None:
            folders.append(_SYSTEM_STATE)
        faults: list[str] = []
        for folder in folders:
            path = log_path(folder / "logs", model)
            found = look(path)
            if not isinstance(found, Unseen):
                follower = FileFollower(path)
                _read_or_raise(path, follower.skip_to_end)
                return follower, _read_or_raise(path, partial(read_tail, path, lines))
            if not found.is_missing:  # another folder may have the log
                faults.append(f"{path} cannot be accessed: {found.reason}")
        searched = ", ".join(str(folder / "logs") for folder in folders)
        raise NoLogError(
            f"no router is running, and there is no log of a model {self.model!r}",
            cure="; ".join(faults[:1]) or "check its name, or say --config",
            details=[f"looked in {searched}"],
        )


def _read_or_raise(path: Path, read: Callable[[], Result]) -> Result:
    """Return the result of *read*; raise `NoLogError` if the file cannot be read."""
    try:
        return read()
    except OSError as exc:
        raise NoLogError(f"the log {path} cannot be read: {reason_of(exc)}") from exc


def _print_note(text: str) -> None:
    """Print a note of this command, which is not part of the log."""
    print_message(f"-- {text}")
