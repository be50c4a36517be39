"""The guardian: a tiny process that ends every backend once its router is gone.

One per router, started by `lifeline.Lifeline`. It holds the read end of a pipe whose
only write end is the router's, so that the kernel tells it of the router's end, however
that came about. Lines on the pipe:

    + PID START_TIME MARKER    from now on, the tree under this process is yours to end
    - PID                      it is gone
    .                          the router stopped in good order

Standard library only: it lives as long as the router, and costs one interpreter.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from .treekill import Trees

TYPE_CHECKING = False  # see proctree
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds until the guardian gives up on processes that survive SIGKILL.
END_TIMEOUT_S = 5.0

#: Seconds after which it looks once more: a backend that was being spawned at the moment
#: of the router's death carries the marker only once its program runs.
LATE_SPAWN_S = 0.1

#: Exit status if something survived.
SURVIVORS = 1

#: A terminal or a service manager means the router by these; its guardian must outlive it.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Register:
    """What the router said so far.

    Attributes:
        backends: Pid to start time and marker.
        stopped: Whether the router said that it stops in good order.
    """

    def __init__(self) -> None:
        self.backends: dict[int, tuple[int, str]] = {}
        self.stopped = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the pipe. A line that makes no sense is ignored."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            match line.decode("utf-8", "replace").split(" "):
                case ["+", pid, started, marker] if pid.isdecimal() and started.isdecimal():
                    self.backends[int(pid)] = (int(started), marker)
                case ["-", pid] if pid.isdecimal():
                    self.backends.pop(int(pid), None)
                case ["."]:
                    self.stopped = True


def main(arguments: Sequence[str]) -> None:
    """Run the guardian on standard input; *arguments* is the instance's marker."""
    (instance,) = arguments
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    register = Register()
    while data := os.read(0, 65536):
        register.feed(data)
    if register.stopped and not register.backends:
        return
    backends = register.backends
    trees = Trees(
        {pid: started for pid, (started, _) in backends.items()},
        {instance, *(marker for _, marker in backends.values())},
    )
    trees.end(timeout_s=END_TIMEOUT_S)
    time.sleep(LATE_SPAWN_S)
    if trees.end(timeout_s=END_TIMEOUT_S / 2):
        sys.exit(SURVIVORS)
