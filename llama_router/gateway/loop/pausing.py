"""`pause`: the wait of a fiber. Never compiled: mypyc knows no coroutine that yields to its runner.

The compiled build would return an ordinary generator, which cannot be awaited.
"""

from __future__ import annotations

from collections.abc import Generator
from types import coroutine


@coroutine
def pause() -> Generator[None, None, None]:
    """Suspend the fiber until it is resumed; `event_loop` lists what resumes it."""
    yield
