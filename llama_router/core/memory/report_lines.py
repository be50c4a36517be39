"""Lines of llama-server's output that only its report of memory adds. Pure.

The router asks for the report by a higher verbosity, which adds 200 lines to a load and 25 to a
request. A person who reads the log of the model did not ask for them. llama.cpp gives them the
same letter as its usual lines, so these are told by the part of the server that writes them.

Source: llama.cpp, common/log.cpp and tools/server, at 08033df.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

#: What each line of the logger begins with: the time since the start, and the severity.
_LOGGED: Final = re.compile(r"\d+\.\d\d\.\d{3}\.\d{3} ([A-Z]) (.*)")

#: What is said at the usual verbosity, too. Warnings and errors always are.
_USUAL: Final = re.compile(
    r"srv +(?:init: (?!n_parallel|using )|load_model: (?!local )|log_server_r|main|operator|stop)"
    r"|slot +(?:print_timing|release|get_availabl.*selected|launch_slot_.*processing)"
)


#: Said in a log of which lines are left out.
LEFT_OUT: Final = (
    "the router reads in llama-server's log what the model takes of memory, and raised its "
    "verbosity for that (LLAMA_ARG_LOG_VERBOSITY=4): the lines which that adds are left out here; "
    "with that variable in env of the model, they are shown"
)


class ReportLines:
    """Tells the lines of one backend that only the higher verbosity adds.

    Args:
        expected: There may be some: the verbosity was raised.

    Attributes:
        count: How many there were.
    """

    def __init__(self, *, expected: bool = True) -> None:
        self._expected = expected
        self._is_continued = False
        self.count = 0

    def note_in(self, note: Callable[[str], None]) -> None:
        """Call *note* with a sentence about the lines that are left out, if there were any."""
        if self.count:
            note(LEFT_OUT)

    def has(self, line: str) -> bool:
        """Return whether *line*, the next one of the output, is one of them."""
        if not self._expected:
            return False
        if (found := _LOGGED.match(line)) is not None:
            self._is_continued = found[1] in "ID" and not _USUAL.match(found[2])
        elif not self.count:
            return False  # the output of another logger, or of another program
        self.count += self._is_continued
        return self._is_continued
