"""Building the parts of a router, before any task runs."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from .. import runtime_file
from ..backends.kept_caches import FOLDER as CACHES_FOLDER
from ..backends.kept_caches import KeptCaches
from ..backends.launch import Launcher
from ..backends.learned_launches import FILE_NAME, LearnedLaunches
from ..backends.ports import Ports
from ..backends.server_programs import ServerPrograms
from ..backends.service import ask
from ..config.catalog import Catalog
from ..config.load import LoadedConfig
from ..core.access.gate import Gate
from ..core.access.sessions import Sessions
from ..core.config.config import Config
from ..core.config.specs import RouterSpec
from ..devices.machine import this_machine
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.footprints import Footprints
from ..dispatch.memory_watch import MemoryWatch
from ..dispatch.squeezed import SqueezedModels
from ..gateway.server import ListenerSet
from ..model_logs.store import LogStore
from ..process import procfs
from ..process.background_writer import BackgroundWriter
from ..process.cgroup import ControlGroups
from ..process.lifeline import Lifeline
from ..systemd.manager import ServiceManager
from ..threads import in_thread
from .address import Address
from .listeners import open_listeners
from .running_router import RouterSignals
from .shutdown import close_files
from .state_dir import prepare_state_dir


@attrs.frozen(kw_only=True)
class RouterParts:
    """Everything that the task tree runs.

    Attributes:
        loaded: The configuration that the router was started with.
        signals: Requests from outside: stop, force the stop, reload, rescan.
        catalog: Finds models; None if only configured ones are served.
        state_dir: The folder of logs and records.
        environ: The environment of the router.
        manager: Reports the router's state to systemd.
        address: The listening sockets, and the file that names them.
        lifeline: Keeps the guardian process, which ends all backends if the router dies.
        logs: The output of backends.
        launcher: Starts backends.
        caches: Prompt caches that outlive their processes.
        dispatcher: Owns the scheduler.
        memory: Reads the devices, if the policy needs that.
        programs: The llama-server programs, and the devices that they see.
        squeezed: Loads models again that got less because something else held memory.
    """

    loaded: LoadedConfig
    signals: RouterSignals
    catalog: Catalog | None
    state_dir: Path
    environ: Mapping[str, str]
    manager: ServiceManager
    address: Address
    lifeline: Lifeline
    logs: LogStore
    launcher: Launcher
    caches: KeptCaches
    dispatcher: Dispatcher
    memory: MemoryWatch
    programs: ServerPrograms
    squeezed: SqueezedModels


@asynccontextmanager
async def router_parts(
    loaded: LoadedConfig,
    signals: RouterSignals,
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    catalog: Catalog | None,
    owns_process: bool,
) -> AsyncIterator[RouterParts]:
    """Yield the parts of one router; close its sockets, logs and record at the end.

    The arguments are those of `tree.run_router`.

    Raises:
        RouterError: if the address or the state directory cannot be used.
    """
    router = loaded.config.router
    manager = ServiceManager.from_environ(environ)
    instance = secrets.token_hex(8)
    listening = open_listeners(loaded.config, environ)
    listeners = ListenerSet(listening.sockets)
    try:
        groups = await in_thread(ControlGroups.adopt) if owns_process else None
        prepared = await in_thread(prepare_state_dir, state_dir, environ, instance)
        writer = BackgroundWriter(prepared.record.path)
        gate = _gate(loaded.config, prepared.token.value)
        procfs.adopt_orphans()
        ports = [
            each.getsockname()[1] for each in listeners.sockets if each.family != socket.AF_UNIX
        ]
        lifeline = Lifeline(instance)
        logs = _log_store(router, state_dir)
        try:
            machine = this_machine(lambda: dispatcher.config.devices, state_dir)
            caches = KeptCaches(
                state_dir / CACHES_FOLDER,
                writer.enqueue,
                lambda: dispatcher.config.router.cache_mib * 2**20,
                prepared.kept,
            )
            caches.keep_only(loaded.config.models.values())
            launcher = Launcher(
                instance=instance,
                environ=environ,
                router_port=ports[0] if ports else router.port,
                ports=Ports(router.base_port, ports),
                lifeline=lifeline,
                record=prepared.record,
                writer=writer,
                logs=logs,
                force_stop=trio.Event(),
                learned=LearnedLaunches(
                    state_dir / FILE_NAME, prepared.machine, prepared.figures, writer.enqueue
                ),
                groups=groups,
                read_machine=machine.read,
                caches=caches,
            )
            squeezed = SqueezedModels(lambda: dispatcher, machine)
            dispatcher = Dispatcher(
                loaded.config,
                launcher,
                ask_service=partial(ask, environ=environ),
                note=lambda model, sentence: logs.for_model(model).note(sentence),
                on_squeezed=squeezed.note,
            )
            address = Address(
                loaded=loaded,
                listeners=listeners,
                fixed=listening.fixed,
                gate=gate,
                runtime_path=runtime_file.runtime_path(state_dir, environ),
                token_path=prepared.token.path,
                token=lambda: dispatcher.config.router.admin_token,
                port=listening.port,
            )
            programs = ServerPrograms(environ)
            yield RouterParts(
                loaded=loaded,
                signals=signals,
                catalog=catalog,
                state_dir=state_dir,
                environ=environ,
                manager=manager,
                address=address,
                lifeline=lifeline,
                logs=logs,
                launcher=launcher,
                caches=caches,
                dispatcher=dispatcher,
                memory=MemoryWatch(
                    dispatcher,
                    machine,
                    Footprints(environ, programs.devices_of, launcher.learned),
                ),
                programs=programs,
                squeezed=squeezed,
            )
        finally:
            await close_files(logs, prepared.record)
    finally:
        listeners.close()


def _gate(config: Config, admin_token: str) -> Gate:
    name = socket.gethostname()
    return Gate(
        config,
        own_hosts={name, f"{name}.local"},
        admin_token=admin_token,
        sessions=Sessions(trio.current_time),
    )


def _log_store(router: RouterSpec, state_dir: Path) -> LogStore:
    return LogStore(
        state_dir / "logs",
        max_bytes=router.log_file_mib * 1024 * 1024,
        backups=router.log_files,
        keep_s=router.log_keep_days * 86400 or None,
        total_bytes=router.log_total_mib * 1024 * 1024 or None,
    )
