"""Calls on threads; if the system refuses a new thread, the call fails, never the router."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final, TypeVar, TypeVarTuple

import trio

from .errors.base import RouterError
from .logs.events import log

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: The message of the RuntimeError that CPython's `threading.Thread.start` raises.
_REFUSAL: Final = "can't start new thread"

_SENTENCE: Final = (
    "the system refuses the router another thread: a limit of processes is reached "
    "(ulimit -u, pids.max of a control group, TasksMax= of systemd)"
)

#: Seconds after which a retry may help.
RETRY_S: Final = 1.0


class ThreadRefusedError(RouterError, OSError):
    """The system refuses a new thread. It is an `OSError`, too, and handled where those are.

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
def thread_refusals() -> Iterator[None]:
    """Raise `ThreadRefusedError` if the system refuses a thread within the block.

    Raises:
        ThreadRefusedError: in place of CPython's RuntimeError.
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
    """Return the result of *sync_fn*, called by `trio.to_thread.run_sync`.

    Raises:
        ThreadRefusedError: if the system refuses a thread; *sync_fn* was not called. Logged.
    """
    try:
        with thread_refusals():
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
    """Return the result of `in_thread`; if a thread is refused, call *sync_fn* on this thread.

    For calls that must not be skipped and very rarely take long.
    """
    try:
        return await in_thread(sync_fn, *args, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except ThreadRefusedError:
        return sync_fn(*args)
