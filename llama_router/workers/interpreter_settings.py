"""The interpreter's process-wide settings, each changed in this module only.

The switch interval and the thresholds of the garbage collector belong to the process, not to
a thread. If two overlapping blocks each saved and restored the value, the later one would save
the value of the earlier one and make it permanent.
"""

from __future__ import annotations

import gc
import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

T = TypeVar("T")

Thresholds = tuple[int, int, int]

#: The switch interval while a thread computes beside the event loop, in seconds. The default
#: of 5 ms is the longest stall that the loop may have at all: `python -m bench reload` measures
#: stalls of 5.5 ms with it, and of 1.3 ms with this value.
_SHORT_SWITCH_S: Final = 0.0002

#: Collections of the middle generation between two full ones: never reached. A full collection
#: does not release the interpreter: during the reload of a file with 2,000 models it stalled
#: the event loop for 7 to 24 ms; with 300 models, for 1 ms.
_NO_FULL_COLLECTION: Final = 1_000_000


class ProcessSetting(Generic[T]):
    """A process-wide value that blocks of code change temporarily; blocks may overlap.

    Args:
        read: Returns the current value.
        write: Sets the value.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], object]) -> None:
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._original: list[T] = []  # empty while no block is active
        self._active: dict[object, T] = {}  # in the order in which the blocks were entered

    @contextmanager
    def changed(self, change: Callable[[T], T]) -> Iterator[None]:
        """Set the value to *change* of the original one within the block.

        Of overlapping blocks, in one thread or in several, the one entered last counts. The
        original value is restored when the last block has ended, in whatever order they end.
        """
        block = object()
        with self._lock:
            if not self._active:
                self._original = [self._read()]
            value = change(self._original[0])
            self._active[block] = value
            self._write(value)
        try:
            yield
        finally:
            with self._lock:
                del self._active[block]
                self._write([*self._original, *self._active.values()][-1])


#: Seconds after which a computing thread yields to another.
switch_interval_s: Final = ProcessSetting(sys.getswitchinterval, sys.setswitchinterval)
#: The thresholds of the garbage collector, by generation.
thresholds: Final[ProcessSetting[Thresholds]] = ProcessSetting(
    gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)
)


@contextmanager
def loop_goes_first() -> Iterator[None]:
    """Let the event loop interrupt this thread quickly, and prevent full collections.

    For computations of some ten milliseconds on a thread beside the loop.
    """
    with (
        switch_interval_s.changed(lambda _: _SHORT_SWITCH_S),
        thresholds.changed(lambda original: (*original[:2], _NO_FULL_COLLECTION)),
    ):
        yield


def settle_imports() -> None:
    """Make what was imported so far cheap to keep: it lives as long as the process.

    Collections skip it from now on. They do not run before that: of the 80,000 objects of a
    router, about 100 are garbage then, and to find them takes 15 ms, in which the event loop
    would stand still. The source of the methods that attrs generates, 1.2 MiB of lines, is
    forgotten: debuggers show it, and nothing else needs it.
    """
    linecache.clearcache()
    gc.freeze()
