"""Work on threads, where the system may refuse a new one: that costs the work, never the router."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, TypeVar, TypeVarTuple

import structlog
import trio

from .errors.base import RouterError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()

#: What CPython's `threading.Thread.start` says then. It has no class of its own for that.
_REFUSAL: Final = "can't start new thread"

_SENTENCE: Final = (
    "the system refuses the router another thread: a limit of processes is reached "
    "(ulimit -u, pids.max of a control group, TasksMax= of systemd)"
)

#: After how many seconds trying again may help.
RETRY_S: Final = 1.0


class ThreadRefusedError(RouterError, OSError):
    """The system refuses a new thread. An `OSError`, too: whoever expects those knows it.

    Made without arguments; ``errno`` is EAGAIN.
    """

    code = "thread_refused"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after_s: float | None = RETRY_S

    def __init__(self) -> None:
        super().__init__(errno.EAGAIN, _SENTENCE)

    def __str__(self) -> str:
        return _SENTENCE


@contextmanager
def refusals() -> Iterator[None]:
    """Turn the refusal of a thread within the block into a `ThreadRefusedError`.

    Raises:
        ThreadRefusedError: if that happens.
    """
    try:
        yield
    except RuntimeError as exc:
        if str(exc) != _REFUSAL:
            raise
        raise ThreadRefusedError from exc


async def in_thread(
    sync_fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Do what `trio.to_thread.run_sync` does.

    Raises:
        ThreadRefusedError: if the system refuses a thread; nothing was done then but to log it.
    """
    try:
        with refusals():
            return await trio.to_thread.run_sync(
                sync_fn, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter
            )
    except ThreadRefusedError as exc:
        log.warning("thread.refused", reason=str(exc))
        raise


async def in_thread_or_here(
    sync_fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
    limiter: trio.CapacityLimiter | None = None,
) -> T:
    """Do what `in_thread` does; if no thread is to be had, do it at once and on this one.

    For what must be done in any case, and very rarely takes long.
    """
    try:
        return await in_thread(sync_fn, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except ThreadRefusedError:
        return sync_fn(*args)
