"""The task tree of a router, and the order in which it comes down.

    services                dies last: guardian, record of running backends, logs
    └─ backends             one contained task per model
        └─ frontend         dies first: accept loop, connections, reloads

A task that depends on backends runs in an inner nursery, so that it has ended before the
backends are stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import trio

from ..config.catalog import Catalog
from ..config.load import LoadedConfig
from ..core.config.reload import ReloadReport
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.prefetch import Prefetch
from ..logs.events import log
from ..process.orphans import reap_orphans
from ..systemd.status_line import status_line
from .frontend import Frontend
from .parts import RouterParts, router_parts
from .running_router import RouterSignals, RunningRouter
from .shutdown import bound_backend_stops, longest_shutdown_s
from .startup_model import load_startup_model


async def run_router(
    loaded: LoadedConfig,
    signals: RouterSignals,
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    catalog: Catalog | None = None,
    owns_process: bool = False,
    task_status: trio.TaskStatus[RunningRouter] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until *signals* request a stop; then every backend has exited.

    Args:
        loaded: The configuration, and the file that it came from.
        signals: Set from outside, e.g. by signal handlers.
        state_dir: The folder of logs and of the record of running backends.
        environ: The environment; backends inherit a part of it.
        catalog: Finds models on request; without it, only those of *loaded* are served.
        owns_process: This process runs nothing else. So every child that it did not start
            was left behind by a backend, and is ended with the last backend that may own it.
        task_status: Reports the router once it accepts connections; the startup model
            is ready then.

    Raises:
        RouterError: if it cannot start: the address is taken, the state directory is not
            writable, the startup model does not load.
    """
    async with router_parts(
        loaded,
        signals,
        state_dir=state_dir,
        environ=environ,
        catalog=catalog,
        owns_process=owns_process,
    ) as parts:
        await _run_tree(parts, owns_process=owns_process, task_status=task_status)
    log.info("router.stopped")


async def _run_tree(
    parts: RouterParts, *, owns_process: bool, task_status: trio.TaskStatus[RunningRouter]
) -> None:
    """Run the three nurseries, from the outermost to the innermost, until a stop."""
    dispatcher, launcher, signals = parts.dispatcher, parts.launcher, parts.signals
    frontend = Frontend(parts)
    async with trio.open_nursery() as services:
        await services.start(parts.lifeline.run)
        await services.start(launcher.writer.run)
        services.start_soon(parts.logs.run)
        if owns_process:
            services.start_soon(reap_orphans, parts.lifeline)
        await services.start(
            parts.manager.run,
            dispatcher.feed,
            lambda: _status(dispatcher, frontend.report),
            signals.stop,
            lambda: longest_shutdown_s(dispatcher.config),
        )
        stopping = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as backends:
                await backends.start(dispatcher.run)
                backends.start_soon(parts.memory.run)
                backends.start_soon(Prefetch(dispatcher).run)
                backends.start_soon(parts.squeezed.run)
                try:
                    if await load_startup_model(dispatcher, signals.stop, parts.manager):
                        await frontend.serve(task_status)
                    await dispatcher.save_caches(signals.force_stop)
                finally:
                    services.start_soon(
                        bound_backend_stops,
                        dispatcher.config,
                        signals.force_stop,
                        launcher.force_stop,
                        stopping,
                    )
                    backends.cancel_scope.cancel()
        finally:
            stopping.cancel()
        services.cancel_scope.cancel()


def _status(dispatcher: Dispatcher, report: ReloadReport | None) -> str:
    phases = {str(m): found.phase for m, found in dispatcher.statistics().items()}
    return status_line(phases, report)
