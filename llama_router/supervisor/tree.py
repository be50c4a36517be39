"""The task tree, and the order in which it comes down.

    services                dies last: guardian, record of what runs, logs
    └─ backends             one contained task per model
        └─ face             dies first: accept loop, connections, reloads

What depends on backends lives in an inner nursery, so that it is gone before they are
told to stop.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

import structlog
import trio

from .. import runtime_file
from ..backends.launch import Launcher
from ..backends.ports import Ports
from ..config.catalog import Catalog
from ..config.load import LoadedConfig
from ..core.access.gate import Gate
from ..core.config.router_spec import RouterSpec
from ..core.config.whole import Config
from ..dispatch.dispatcher import Dispatcher
from ..gateway.server import ListenerSet
from ..model_logs.store import LogStore
from ..process import procfs
from ..process.background_writer import BackgroundWriter
from ..process.cgroup import ControlGroups
from ..process.lifeline import Lifeline
from ..process.orphans import tend_orphans
from ..systemd.manager import ServiceManager
from ..systemd.status_line import status_line
from ..threads import in_thread
from .address import Address
from .frontend import Frontend
from .listeners import open_listeners
from .running_router import RouterSignals, RunningRouter
from .shutdown import bound_the_end, close_files, longest_end_s
from .startup_model import load_startup_model
from .state_dir import prepare_state_dir

log = structlog.get_logger()


async def run_router(
    loaded: LoadedConfig,
    requests: RouterSignals,
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    catalog: Catalog | None = None,
    whole_process: bool = False,
    task_status: trio.TaskStatus[RunningRouter] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until *requests* ask for the end; then every backend is gone.

    Args:
        loaded: What to serve, and where it was read from.
        requests: Set from outside, e.g. by signal handlers.
        state_dir: Where logs and the record of running backends are kept.
        environ: The environment that backends inherit a part of.
        catalog: Finds models when asked; without it, there are those of *loaded* only.
        whole_process: This process does nothing else, so every child that it did not
            start was left behind by a backend, and is ended with the last that may own it.
        task_status: Reports the router once it accepts connections; the startup model
            is ready then.

    Raises:
        RouterError: if it cannot start: the address is taken, the state directory is not
            writable, the startup model does not load.
    """
    router = loaded.config.router
    manager = ServiceManager.from_environ(environ)
    instance = secrets.token_hex(8)
    listening = open_listeners(loaded.config, environ)
    doors = ListenerSet(listening.sockets)
    try:
        groups = None
        if whole_process:
            groups = await in_thread(ControlGroups.adopt)
        prepared = await in_thread(prepare_state_dir, state_dir, environ, instance)
        gate = _gate(loaded.config, prepared.token.value)
        procfs.adopt_orphans()
        ports = [each.getsockname()[1] for each in doors.sockets if each.family != socket.AF_UNIX]
        lifeline = Lifeline(instance)
        logs = _log_store(router, state_dir)
        launcher = Launcher(
            instance=instance,
            environ=environ,
            router_port=ports[0] if ports else router.port,
            ports=Ports(router.base_port, ports),
            lifeline=lifeline,
            record=prepared.record,
            writes=BackgroundWriter(prepared.record.path),
            logs=logs,
            hurry=trio.Event(),
            groups=groups,
        )
        dispatcher = Dispatcher(loaded.config, launcher)
        launcher.on_progress = dispatcher.waits.note_progress

        def face() -> Frontend:
            return Frontend(
                loaded=loaded,
                requests=requests,
                dispatcher=dispatcher,
                address=Address(
                    loaded=loaded,
                    doors=doors,
                    fixed=listening.fixed,
                    gate=gate,
                    runtime_path=runtime_file.runtime_path(state_dir, environ),
                    token_path=prepared.token.path,
                    token=lambda: dispatcher.config.router.admin_token,
                ),
                manager=manager,
                logs=logs,
                catalog=catalog,
                state_dir=state_dir,
                environ=environ,
            )

        try:
            async with trio.open_nursery() as services:
                await services.start(lifeline.run)
                await services.start(launcher.writes.run)
                services.start_soon(logs.tend)
                if whole_process:
                    services.start_soon(tend_orphans, lifeline)
                await services.start(
                    manager.run,
                    dispatcher.news,
                    lambda: _status(dispatcher),
                    requests.stop,
                    lambda: longest_end_s(dispatcher.config),
                )
                ending = trio.CancelScope(shield=True)
                try:
                    async with trio.open_nursery() as backends:
                        await backends.start(dispatcher.run)
                        try:
                            if await load_startup_model(dispatcher, requests.stop, manager):
                                await face().serve(task_status)
                        finally:
                            services.start_soon(
                                bound_the_end,
                                dispatcher.config,
                                requests.hurry,
                                launcher.hurry,
                                ending,
                            )
                            backends.cancel_scope.cancel()
                finally:
                    ending.cancel()
                services.cancel_scope.cancel()
        finally:
            await close_files(logs, prepared.record)
    finally:
        doors.close()
    log.info("router.stopped")


def _gate(config: Config, admin_token: str) -> Gate:
    name = socket.gethostname()
    return Gate(config, own_hosts={name, f"{name}.local"}, admin_token=admin_token)


def _log_store(router: RouterSpec, state_dir: Path) -> LogStore:
    return LogStore(
        state_dir / "logs",
        max_bytes=router.log_file_mib * 1024 * 1024,
        backups=router.log_files,
        keep_s=router.log_keep_days * 86400 or None,
        total_bytes=router.log_total_mib * 1024 * 1024 or None,
    )


def _status(dispatcher: Dispatcher) -> str:
    return status_line({str(m): found.phase for m, found in dispatcher.statistics().items()})
