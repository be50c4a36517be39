"""Preparation of the state directory, before any backend is started."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from ..admin_token import AdminToken, admin_token
from ..backends.environment import inherited
from ..backends.kept_caches import FOLDER, read_index
from ..backends.launch_identity import this_machine
from ..backends.learned_launches import FILE_NAME, read_figures
from ..core.memory.learned import LearnedFigures, MachineId
from ..core.prompt_cache.kept import KeptSlots
from ..errors.base import RouterError
from ..errors.config import ConfigError, Problem
from ..files import is_open_to_all, make_folder, reason_of
from ..logs.events import log
from ..process.containers import remove_now
from ..process.instances import SWEEP_TIMEOUT_S, InstanceRecord, SweepOutcome, sweep
from ..runtime_file import LOCK

_MAX_PID_BYTES: Final = 32


class StateDirError(RouterError):
    """The state directory cannot be used."""

    code = "state_dir_unusable"


class StateDirLock:
    """The lock of a state directory: a router holds it from before its first scan to its end.

    Two routers with one directory would take each other's found models, and commands could find
    one of them only.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def hold(self, state_dir: Path) -> None:
        """Take the lock, once, until this process ends or `release` is called.

        Without a lock on a file system that has none, and in a directory that cannot be written:
        its use reports the fault.

        Raises:
            ConfigError: if another router holds it.
        """
        if self._descriptor is not None:
            return
        path = state_dir / LOCK
        with suppress(OSError):
            make_folder(state_dir)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, _MAX_PID_BYTES, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise ConfigError((_in_use(state_dir, holder),)) from None
            except OSError:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _in_use(state_dir: Path, holder: str) -> Problem:
    named = f", pid {holder}," if holder.isdecimal() else ""
    message = (
        f"another router{named} uses the state directory {state_dir}: "
        "stop it, or give each of them a state_dir of its own"
    )
    return Problem(("router", "state_dir"), message)


@attrs.frozen
class PreparedState:
    """The contents of a prepared state directory.

    Attributes:
        record: The record of running backends; closed at the end.
        token: The admin token.
        machine: This machine.
        figures: What was learned from earlier loads.
        kept: The prompt caches that outlived their processes.
    """

    record: InstanceRecord
    token: AdminToken
    machine: MachineId
    figures: LearnedFigures
    kept: KeptSlots


def prepare_state_dir(state_dir: Path, environ: Mapping[str, str], instance: str) -> PreparedState:
    """End processes that an earlier router left, and create the record and token. Blocks.

    Raises:
        StateDirError: if nothing can be written there.
        AdminTokenFileError: if the admin token cannot be used.
    """
    _sweep(state_dir, environ)
    record = _open_record(state_dir, instance)
    if is_open_to_all(state_dir):
        reason = "every user of this machine may put commands for the router there: chmod 700"
        log.warning("state_dir.exposed", path=str(state_dir), reason=reason)
    try:
        token = admin_token(state_dir, environ)
    except BaseException:
        with suppress(OSError):
            record.close()
        raise
    if token.warning is not None:
        log.warning("admin_token.exposed", path=str(token.path), reason=token.warning)
    machine = this_machine()
    figures = read_figures(state_dir / FILE_NAME, machine)
    return PreparedState(record, token, machine, figures, read_index(state_dir / FOLDER))


def _sweep(state_dir: Path, environ: Mapping[str, str]) -> None:
    """End processes and containers that an earlier router with this state directory left."""
    env = inherited(environ)
    end_container = partial(remove_now, env=env, timeout_s=SWEEP_TIMEOUT_S)
    for swept in sweep(state_dir, end_container=end_container):
        if swept.outcome is SweepOutcome.SKIPPED:
            log.warning("instances.skipped", path=str(swept.path), reason=swept.reason)
        elif swept.killed or swept.survivors or swept.containers:
            log.warning(
                "backend.swept",
                models=swept.models,
                killed=sorted(swept.killed),
                survivors=sorted(swept.survivors),
                containers=swept.containers,
            )


def _open_record(state_dir: Path, instance: str) -> InstanceRecord:
    try:
        return InstanceRecord(state_dir, instance)
    except OSError as exc:
        fault = f"{reason_of(exc)}: {exc.filename}" if exc.filename else reason_of(exc)
        raise StateDirError(
            f"the state directory {state_dir} cannot be used: {fault}; "
            "set router.state_dir to a folder that the router may write"
        ) from exc
