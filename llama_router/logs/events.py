"""The log of this process: takes events with fields, and passes them to the output in use."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any, Final, Protocol

from .recent import RecentEvents


class EventOutput(Protocol):
    """A destination of events."""

    def take(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Take one event, on any thread; *fields* is its own. Never blocks, never raises."""


class EventLog:
    """Passes each event to the output that was added last.

    Without one, warnings and errors are printed on standard error. The field ``exc_info`` is an
    exception, or True for the one that is being handled. Safe to use from several threads.

    Attributes:
        faults: Number of warnings and errors, by level and event.
        lost_lines: Lines that the output has dropped.
        recent: The latest events that an output has written.
    """

    def __init__(self) -> None:
        self.faults: Counter[tuple[str, str]] = Counter()
        self.lost_lines = 0
        self.recent = RecentEvents()
        self._outputs: tuple[EventOutput, ...] = ()

    def add(self, output: EventOutput) -> None:
        """Use *output* until `remove`, or until another one is added."""
        self._outputs = (*self._outputs, output)

    def remove(self, output: EventOutput) -> None:
        """Stop using *output*, whatever was added after it. No effect if it is not in use."""
        self._outputs = tuple(each for each in self._outputs if each is not output)

    def debug(self, event: str, /, **fields: object) -> None:
        """Log a decision."""
        self.put("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log a change of state, or a finished request."""
        self.put("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log a fault that the router has dealt with."""
        self.faults["warning", event] += 1
        self.put("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log a fault that needs a person."""
        self.faults["error", event] += 1
        self.put("error", event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Log an error, with the traceback of the exception that is being handled."""
        self.faults["error", event] += 1
        self.put("error", event, {"exc_info": True, **fields})

    def put(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Log an event of *level*; *fields* must not be used afterwards."""
        if self._outputs:
            self._outputs[-1].take(level, event, fields)
        elif level not in {"debug", "info"}:
            sys.stderr.write(f"{level}: {event} {fields}\n")


#: The log that every module uses. `output.configure` adds an output to it.
log: Final = EventLog()
