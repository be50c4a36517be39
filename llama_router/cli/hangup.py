"""Detection that the terminal in which this process runs was closed."""

from __future__ import annotations

import os
import signal


class Terminal:
    """The terminal of this process. Make it before SIGHUP gets a handler."""

    def __init__(self) -> None:
        # nohup lets a program ignore the signal because it is to outlive its terminal.
        outlives = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._descriptors = () if outlives else tuple(filter(os.isatty, (0, 1, 2)))

    def is_closed(self) -> bool:
        """Return whether there was a terminal, and it is gone."""
        return not all(map(os.isatty, self._descriptors))
