"""Checks before a backend starts; they run on threads, because a file system may hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from ..core.config.file_needs import FileFault, needs_of
from ..core.config.specs import ModelSpec
from ..core.memory.learned import LaunchKey
from ..errors.backends import FileMissingError, ReadinessTimeoutError, SpawnError
from ..files.faults import first_fault
from ..threads import ThreadRefusedError, in_thread
from ..timeouts import move_on_after_running
from .launch_identity import key_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def check_files(spec: ModelSpec) -> LaunchKey | None:
    """Check that all files of the model exist and are usable.

    Returns:
        The key of the launch, which their versions are a part of; None if its program cannot be
        found.

    Raises:
        FileMissingError: if one does not exist or is unusable.
        SpawnError: if the system refuses a thread.
        ReadinessTimeoutError: if the file system does not answer within ``ready_timeout_s``.
    """
    fault: FileFault | None = None
    key: LaunchKey | None = None

    async def check() -> None:
        nonlocal fault, key
        fault, key = await in_start_thread(spec, _examined, spec, abandon_on_cancel=True)

    if not await move_on_after_running(check, spec.spawn.ready_timeout_s):
        raise ReadinessTimeoutError(
            f"the file system with {spec.path} of model {str(spec.id)!r} did not say within "
            f"{spec.spawn.ready_timeout_s:g} s (ready_timeout_s) whether the file is there"
        )
    if fault is not None:
        raise FileMissingError(str(spec.id), fault.need.path, fault.reason, fault.need.kind)
    return key


async def in_start_thread(
    spec: ModelSpec,
    sync_fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
) -> T:
    """Return the result of *sync_fn*, called on a thread for the start of *spec*'s backend.

    Raises:
        SpawnError: if the system refuses a thread; a retry may help.
    """
    try:
        return await in_thread(sync_fn, *args, abandon_on_cancel=abandon_on_cancel)
    except ThreadRefusedError as exc:
        error = SpawnError(f"cannot start a backend of model {str(spec.id)!r}: {exc}")
        error.retryable = True
        raise error from exc


def _examined(spec: ModelSpec) -> tuple[FileFault | None, LaunchKey | None]:
    """Return the first fault of a file; if there is none, the key of the launch."""
    fault = _first_fault(spec)
    return fault, None if fault is not None else key_of(spec)


def _first_fault(spec: ModelSpec) -> FileFault | None:
    """Return the first file of the model that is missing or unusable."""
    return first_fault(needs_of(spec))
