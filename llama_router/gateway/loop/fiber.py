"""A coroutine that the engine resumes, and its deadline. What it may do: see `engine`."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import TYPE_CHECKING, Final

import structlog

from ...errors.base import RouterError

if TYPE_CHECKING:
    from .engine import Engine

log = structlog.get_logger()

#: Resolution of deadlines, in seconds.
TICK_S: Final = 1 / 16

#: How long a fiber gets to end that is told to: its client, to take the last words. In seconds.
ENDING_S: Final = 0.5

#: Pieces of data that one fiber may move before others get their turn.
PIECES: Final = 16

#: So many chunks (of the chunked coding) count as a piece more: there may be thousands in one.
CHUNKS_PER_PIECE: Final = 64


class FiberTimeoutError(Exception):
    """The fiber's deadline is over. Raised in the fiber, where it waits."""


class FiberCutError(Exception):
    """The fiber is to end, within `ENDING_S`. Raised in the fiber, where it waits.

    Attributes:
        error: Why, for the client.
    """

    def __init__(self, error: RouterError) -> None:
        super().__init__(str(error))
        self.error = error


@coroutine
def pause() -> Generator[None, None, None]:
    """Let the fiber wait; see `engine` for what resumes it."""
    yield


class Fiber:
    """One coroutine and its deadline.

    Attributes:
        deadline_s: Clock time at which `FiberTimeoutError` is raised in it, in seconds.
    """

    __slots__ = ("_bucket", "_coroutine", "_engine", "_pieces", "_send", "deadline_s")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._coroutine: Coroutine[None, None, None] | None = None
        self._send: Callable[[None], object] | None = None
        self._bucket = math.inf  # the tick at which its deadline is looked at
        self._pieces = PIECES
        self.deadline_s = math.inf

    def begin(self, body: Coroutine[None, None, None]) -> None:
        """Run *body* until it first waits."""
        self._coroutine = body
        self._send = body.send
        self.resume()

    def resume(self) -> None:
        """Run on until the coroutine waits again, or ends."""
        if self._send is None:
            return  # it ended meanwhile
        self._pieces = PIECES
        try:
            self._send(None)
        except StopIteration:
            self._end()
        except Exception:
            self._end()
            log.exception("connection.crashed")

    def throw(self, error: Exception) -> None:
        """Raise *error* in the coroutine, where it waits."""
        if self._coroutine is None:
            return
        self._pieces = PIECES
        try:
            self._coroutine.throw(error)
        except StopIteration:
            self._end()
        except Exception as exc:
            self._end()
            if exc is not error:
                log.error("connection.crashed", exc_info=exc)

    def close(self) -> None:
        """End the coroutine at once; its ``finally`` blocks run, and must not wait."""
        if self._coroutine is not None:
            try:
                self._coroutine.close()
            except Exception:
                log.exception("connection.crashed")
            self._end()

    def expire_in(self, timeout_s: float) -> None:
        """Set the deadline, counted from this turn."""
        self.deadline_s = deadline_s = self._engine.now_s + timeout_s
        if deadline_s < self._bucket * TICK_S:
            self._bucket = self._engine.look_at(self, deadline_s, self._bucket)

    async def spend(self, pieces: int = 1) -> None:
        """Count one piece of data, or so many; wait a turn if there were many."""
        self._pieces -= pieces
        if self._pieces <= 0:
            self._engine.wake(self)
            await pause()

    def tick(self, now_s: float) -> float:
        """Look at the deadline; return the next tick to look at it, or infinity."""
        self._bucket = math.inf
        if self.deadline_s > now_s:
            if self.deadline_s < math.inf and self._send is not None:
                self._bucket = self._engine.look_at(self, self.deadline_s, math.inf)
            return self._bucket
        self.deadline_s = math.inf
        self.throw(FiberTimeoutError())
        return math.inf

    def _end(self) -> None:
        self._coroutine = self._send = None
        self._engine.forget(self, self._bucket)
