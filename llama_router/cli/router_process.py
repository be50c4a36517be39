"""Runs one router as this process: its log, its signals, its exit status."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterable
from functools import partial
from typing import Final, TypeVar

import trio

from .. import __version__
from ..config.catalog import Catalog, ScanReport
from ..config.load import LoadedConfig
from ..config.locations import state_dir_for
from ..errors.base import RouterError
from ..logs.events import log
from ..logs.output import configure
from ..models.discovery.found import ScanWarning
from ..supervisor.running_router import RouterSignals, RunningRouter
from ..supervisor.tree import run_router
from ..threads import ThreadRefusedError
from .hangup import Terminal
from .printing import fail

#: Soft limit of open files that the router sets; the usual hard limit is higher.
OPEN_FILES: Final = 65536

E = TypeVar("E", bound=BaseException)


def serve_config(
    loaded: LoadedConfig,
    catalog: Catalog | None = None,
    scans: Iterable[ScanReport] = (),
    *,
    task_status: trio.TaskStatus[RunningRouter] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Serve *loaded* until a signal; return the exit status.

    Args:
        loaded: The configuration.
        catalog: Scans for models on request; None if *loaded* has all models.
        scans: The results of its earlier scans, to be logged.
        task_status: Gets the router once it accepts connections.
    """
    router = loaded.config.router
    _allow_many_files()
    try:
        output = configure(level=router.log_level, format=router.log_format.value)
    except ThreadRefusedError as exc:
        return fail(f"error: {exc}")  # there is no log
    with output:
        log.info("router.starting", version=__version__, config=str(loaded.path), pid=os.getpid())
        for warning in loaded.warnings:
            log.warning("config.doubted", path=str(loaded.path), problem=str(warning))
        logged: set[ScanWarning] = set()  # an import and a scan may find the same files
        for scanned in scans:
            scanned.log(except_for=logged)
            logged.update(scanned.warnings)
        try:
            return trio.run(partial(run_until_signalled, loaded, catalog, task_status=task_status))
        except* RouterError as group:
            for error in leaves(group):
                log.error("router.failed", code=error.code, reason=str(error))
        return 1


def _allow_many_files() -> None:
    """Raise the soft limit of open files: a connection takes up to three.

    The usual soft limit, 1024, is for programs that call select(). It would be reached by a
    few hundred streams.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """Return the errors in *group*, at any depth."""
    errors: list[E] = []
    for exc in group.exceptions:
        errors += leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return errors


async def run_until_signalled(
    loaded: LoadedConfig,
    catalog: Catalog | None = None,
    *,
    task_status: trio.TaskStatus[RunningRouter] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Run a router until SIGINT or SIGTERM, reload on SIGHUP; return the exit status.

    SIGHUP because the terminal was closed is as SIGTERM: a router that nobody sees any more would
    keep the port and the GPU.
    """
    router_signals = RouterSignals()
    terminal = Terminal()
    exit_status = 0

    async def handle_signals(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal exit_status
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for signum in signals:
                name = signal.Signals(signum).name
                if signum == signal.SIGHUP and not terminal.is_closed():
                    log.info("router.signalled", signal=name, effect="reload")
                    router_signals.reload()
                elif not router_signals.stop.is_set():
                    log.info("router.signalled", signal=name, effect="drain")
                    router_signals.stop.set()
                else:
                    log.warning("router.signalled", signal=name, effect="end now")
                    exit_status = 128 + signum
                    router_signals.force_stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(handle_signals)
        await run_router(
            loaded,
            router_signals,
            state_dir=state_dir_for(loaded.config.router.state_dir, os.environ),
            environ=os.environ,
            catalog=catalog,
            owns_process=True,
            task_status=task_status,
        )
        nursery.cancel_scope.cancel()
    return exit_status
