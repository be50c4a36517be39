"""The interpreter's process-wide settings, each changed in this module only.

The switch interval and the thresholds of the garbage collector belong to the process, not to
a thread. A block that saves the value, sets another and writes the saved one back is right
alone; of two that overlap, the later one saves the other's value and makes it permanent.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

T = TypeVar("T")

Thresholds = tuple[int, int, int]

#: The switch interval while a thread computes beside the event loop, in seconds. The usual
#: 5 ms are as long as the loop may stand still at all: `python -m bench reload` measures
#: stalls of 5.5 ms with them, and of 1.3 ms with this value.
_SHORT_SWITCH_S: Final = 0.0002

#: Collections of the middle generation between two full ones: more than there will be. A full
#: collection never releases the interpreter. While a file of 2,000 models was reloaded, it
#: held the event loop up for 7 to 24 ms; with 300 models, for 1 ms.
_NO_FULL_COLLECTION: Final = 1_000_000


class ProcessSetting(Generic[T]):
    """A value of the process that blocks of code change for a while, also at the same time.

    Args:
        read: Returns the value in force.
        write: Puts a value in force.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], object]) -> None:
        self._read = read
        self._write = write
        self._lock = threading.Lock()
        self._original: list[T] = []  # empty while no block is active
        self._active: dict[object, T] = {}  # in the order in which the blocks were entered

    @contextmanager
    def changed(self, change: Callable[[T], T]) -> Iterator[None]:
        """Keep the setting at what *change* makes of its original value within the block.

        Of blocks that overlap, in one thread or in several, the one entered last counts. The
        original value is in force again when the last one has ended, in whatever order.
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


#: After how many seconds a thread that computes gives way to another.
switch_interval_s: Final = ProcessSetting(sys.getswitchinterval, sys.setswitchinterval)
#: When the garbage collector runs, by generation.
thresholds: Final[ProcessSetting[Thresholds]] = ProcessSetting(
    gc.get_threshold, lambda thresholds: gc.set_threshold(*thresholds)
)


@contextmanager
def loop_goes_first() -> Iterator[None]:
    """Let the event loop interrupt this thread quickly, and start no full collection.

    For work of some ten milliseconds on a thread beside the loop.
    """
    with (
        switch_interval_s.changed(lambda _: _SHORT_SWITCH_S),
        thresholds.changed(lambda original: (*original[:2], _NO_FULL_COLLECTION)),
    ):
        yield
