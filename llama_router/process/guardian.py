"""The guardian: a small process that kills every backend once its router is gone.

One per router, started by `lifeline.Lifeline`. It reads a pipe; only the router holds the write
end, so the kernel reports end-of-file however the router ended. Lines on the pipe:

    + PID START_TIME MARKER    kill the tree under this process at end-of-file
    - PID                      the tree is gone
    .                          the router stopped in good order

Standard library only: it runs as long as the router, and costs one interpreter.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from .treekill import Trees

TYPE_CHECKING = False  # see procfs
if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds until the guardian gives up on processes that survive SIGKILL.
END_TIMEOUT_S = 5.0

#: Seconds until the second scan: a backend that was being spawned when the router died has
#: the marker only once its program runs.
LATE_SPAWN_S = 0.1

#: Exit status if something survived.
SURVIVORS = 1

#: Terminals and service managers send these to end the router; the guardian must outlive it.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


class Registry:
    """The backends that the router has registered.

    Attributes:
        backends: Pid to start time and marker.
        stopped: Whether the router reported that it stopped in good order.
    """

    def __init__(self) -> None:
        self.backends: dict[int, tuple[int, str]] = {}
        self.stopped = False
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Process the next bytes from the pipe. A malformed line is ignored."""
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
    registry = Registry()
    while data := os.read(0, 65536):
        registry.feed(data)
    if registry.stopped and not registry.backends:
        return
    backends = registry.backends
    trees = Trees(
        {pid: started for pid, (started, _) in backends.items()},
        {instance, *(marker for _, marker in backends.values())},
    )
    trees.end(timeout_s=END_TIMEOUT_S)
    time.sleep(LATE_SPAWN_S)
    if trees.end(timeout_s=END_TIMEOUT_S / 2):
        sys.exit(SURVIVORS)
