"""``serve``: logging, signals, exit status around one router."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import attrs
import structlog
import trio

from .. import __version__
from ..config.catalog import Catalog, ScanReport
from ..config.load import LoadedConfig
from ..config.locations import state_dir_for
from ..errors.base import RouterError
from ..logs.output import configure
from ..supervisor.running_router import RouterSignals, RunningRouter
from ..supervisor.tree import run_router
from ..threads import ThreadRefusedError
from .files import prepare_or_explain

log = structlog.get_logger()

#: Open files that the router asks for; what a system usually grants at most is more.
OPEN_FILES: Final = 65536

E = TypeVar("E", bound=BaseException)


def serve(
    config: Path | None,
    *,
    host: str | None,
    port: int | None,
    import_dir: Path | None,
    first: Path | None = None,
) -> int:
    """Serve until a signal; return the exit status."""
    prepared = prepare_or_explain(config, import_dir=import_dir, first=first, may_be_missing=True)
    if prepared is None:
        return 1
    loaded = override(prepared.loaded, host=host, port=port)
    return serve_config(loaded, prepared.catalog, prepared.scans)


def override(loaded: LoadedConfig, *, host: str | None, port: int | None) -> LoadedConfig:
    """Return *loaded* with what the command line says instead."""
    router = loaded.config.router
    router = attrs.evolve(
        router,
        host=router.host if host is None else host,
        port=router.port if port is None else port,
    )
    return attrs.evolve(loaded, config=attrs.evolve(loaded.config, router=router))


def serve_config(
    loaded: LoadedConfig, catalog: Catalog | None = None, scans: Iterable[ScanReport] = ()
) -> int:
    """Serve *loaded* until a signal; return the exit status.

    Args:
        loaded: The configuration.
        catalog: Finds models again when asked; without it, *loaded* has all there are.
        scans: What it did already, to be logged.
    """
    router = loaded.config.router
    _allow_many_files()
    try:
        output = configure(level=router.log_level, format=router.log_format.value)
    except ThreadRefusedError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201 -- there is no log
        return 1
    with output:
        log.info("router.starting", version=__version__, config=str(loaded.path), pid=os.getpid())
        for scanned in scans:
            scanned.log()
        try:
            return trio.run(partial(run_until_signalled, loaded, catalog))
        except* RouterError as group:
            for error in leaves(group):
                log.error("router.failed", code=error.code, reason=str(error))
        return 1


def _allow_many_files() -> None:
    """Raise the soft limit of open files: a connection takes up to three.

    The usual soft limit, 1024, is for programs that call select(); it would end at some
    hundred streams.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def leaves(group: BaseExceptionGroup[E]) -> list[E]:
    """Return the errors in *group*, however deep."""
    found: list[E] = []
    for exc in group.exceptions:
        found += leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found


async def run_until_signalled(
    loaded: LoadedConfig,
    catalog: Catalog | None = None,
    *,
    task_status: trio.TaskStatus[RunningRouter] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Run a router that obeys signals; return the exit status."""
    requests = RouterSignals()
    exit_status = 0

    async def obey(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal exit_status
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for signum in signals:
                name = signal.Signals(signum).name
                if signum == signal.SIGHUP:
                    log.info("router.signalled", signal=name, effect="reload")
                    requests.reload()
                elif not requests.stop.is_set():
                    log.info("router.signalled", signal=name, effect="drain")
                    requests.stop.set()
                else:
                    log.warning("router.signalled", signal=name, effect="end now")
                    exit_status = 128 + signum
                    requests.force_stop.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(obey)
        await run_router(
            loaded,
            requests,
            state_dir=state_dir_for(loaded.config.router.state_dir, os.environ),
            environ=os.environ,
            catalog=catalog,
            owns_process=True,
            task_status=task_status,
        )
        nursery.cancel_scope.cancel()
    return exit_status
