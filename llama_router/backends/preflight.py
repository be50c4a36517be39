"""What is looked at before and while a backend starts, where a look may hang or be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from ..core.config.file_needs import FileFault, needs_of
from ..core.config.specs import ModelSpec
from ..errors.backends import FileMissingError, ReadinessTimeoutError, SpawnError
from ..file_faults import first_fault
from ..threads import ThreadRefusedError, in_thread
from ..timeouts import move_on_after_running

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def check_files(spec: ModelSpec) -> None:
    """Make sure that no file of the model is missing, or cannot be used.

    Raises:
        FileMissingError: if one is, or cannot.
        SpawnError: if the system refuses the thread that looks.
        ReadinessTimeoutError: if that cannot be found out within ``ready_timeout_s``.
    """
    fault: FileFault | None = None

    async def look() -> None:
        nonlocal fault
        fault = await on_thread(spec, _absent_file, spec, abandon_on_cancel=True)

    if not await move_on_after_running(look, spec.spawn.ready_timeout_s):
        raise ReadinessTimeoutError(
            f"the file system with {spec.path} of model {str(spec.id)!r} did not say within "
            f"{spec.spawn.ready_timeout_s:g} s (ready_timeout_s) whether the file is there"
        )
    if fault is not None:
        raise FileMissingError(str(spec.id), fault.need.path, fault.reason, fault.need.kind)


async def on_thread(
    spec: ModelSpec,
    sync_fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
) -> T:
    """Do what the start of *spec*'s backend needs on a thread.

    Raises:
        SpawnError: if the system refuses one; trying again may help.
    """
    try:
        return await in_thread(sync_fn, *args, abandon_on_cancel=abandon_on_cancel)
    except ThreadRefusedError as exc:
        error = SpawnError(f"cannot start a backend of model {str(spec.id)!r}: {exc}")
        error.retryable = True
        raise error from exc


def _absent_file(spec: ModelSpec) -> FileFault | None:
    """Return a file of the model that is not there (any more), or cannot be used."""
    return first_fault(needs_of(spec))
