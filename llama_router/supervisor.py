"""The task tree, and the order in which it comes down.

    lifeline                dies last: it ends whatever is left
    └─ backends             one contained task per model
        └─ face             dies first: accept loop, connections, signals' work

What depends on backends lives in an inner nursery, so that it is gone before they are
told to stop.
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import attrs
import structlog
import trio

from . import runtime_file
from .admin_token import AdminToken, admin_token
from .backends import proctree
from .backends.cgroup import ControlGroups
from .backends.instances import InstanceRecord, Outcome, sweep
from .backends.launch import Launcher
from .backends.lifeline import Lifeline
from .backends.orphans import tend_orphans
from .backends.output import LogStore
from .backends.ports import Ports
from .backends.process import REAP_TIMEOUT_S
from .config.catalog import Catalog, Scanned, sources
from .config.load import LoadedConfig
from .config.scanner import ScanError, scan_beside
from .config.watcher import Watcher, load_alone
from .control.app import build_app
from .control.context import ControlContext
from .control.downloads import log_end, tell
from .control.hypercorn import ControlServer
from .control.loads import Loads
from .control.model_info import ModelInfo
from .core.access import Gate
from .core.config.diff import ReloadPlan
from .core.config.names import ModelId
from .core.config.router_spec import RouterSpec
from .core.config.whole import Config
from .core.conversations import Conversations
from .core.reports import ReloadReport
from .core.service_status import status_line
from .dispatch.dispatcher import Dispatcher
from .errors.base import RouterError
from .errors.config import ConfigError, Problem
from .gateway.connection import Gateway
from .gateway.server import Doors, ListenError, listen, serve
from .listeners import exposure_fault, hosts_of, open_listeners, url_of
from .missing import tend_missing
from .models.caches import find_caches
from .models.downloads import Downloads
from .systemd.manager import ServiceManager

log = structlog.get_logger()

#: Seconds that refusals get to be written, however short ``drain_s`` is.
REFUSAL_S = 0.25

#: Seconds that the logs of models get to reach the disk at the end.
LOG_FLUSH_S = 2.0


@attrs.define(eq=False)
class Requests:
    """What the outside may ask of a running router, by setting events.

    Attributes:
        stop: Drain, stop every backend, end.
        hurry: End now: no draining, no grace.
    """

    stop: trio.Event = attrs.field(factory=trio.Event)
    hurry: trio.Event = attrs.field(factory=trio.Event)
    _reload: trio.Event = attrs.field(factory=trio.Event)
    _rescan: trio.Event = attrs.field(factory=trio.Event)

    def reload(self) -> None:
        """Ask for the configuration to be read again; several asks may become one."""
        self._reload.set()

    async def next_reload(self) -> None:
        """Wait until a reload is asked for."""
        await self._reload.wait()
        self._reload = trio.Event()

    def rescan(self) -> None:
        """Ask for models to be looked for again; several asks may become one."""
        self._rescan.set()

    async def next_rescan(self) -> None:
        """Wait until a scan is asked for."""
        await self._rescan.wait()
        self._rescan = trio.Event()


@attrs.frozen
class Running:
    """A router that accepts connections.

    Attributes:
        urls: Its base URLs.
        dispatcher: For those who want to look inside.
        reload: Reads the configuration again; returns what became of it.
    """

    urls: tuple[str, ...]
    dispatcher: Dispatcher
    reload: Callable[[], Awaitable[ReloadReport]]


async def run_router(
    loaded: LoadedConfig,
    requests: Requests,
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    catalog: Catalog | None = None,
    whole_process: bool = False,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
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
    doors = Doors(listening.sockets)
    try:
        groups = None
        if whole_process:
            groups = await trio.to_thread.run_sync(ControlGroups.adopt)
        await trio.to_thread.run_sync(_sweep, state_dir)
        record = await trio.to_thread.run_sync(_open_record, state_dir, instance)
        token = await trio.to_thread.run_sync(_token, state_dir, environ)
        own_hosts = {socket.gethostname(), f"{socket.gethostname()}.local"}
        gate = Gate(loaded.config, own_hosts=own_hosts, admin_token=token.value)
        proctree.adopt_orphans()
        ports = [each.getsockname()[1] for each in doors.sockets if each.family != socket.AF_UNIX]
        lifeline = Lifeline(instance)
        logs = LogStore(
            state_dir / "logs",
            max_bytes=router.log_file_mib * 1024 * 1024,
            backups=router.log_files,
            keep_s=router.log_keep_days * 86400 or None,
            total_bytes=router.log_total_mib * 1024 * 1024 or None,
        )
        launcher = Launcher(
            instance=instance,
            environ=environ,
            router_port=ports[0] if ports else router.port,
            ports=Ports(router.base_port, ports),
            lifeline=lifeline,
            record=record,
            logs=logs,
            hurry=trio.Event(),
            groups=groups,
        )
        dispatcher = _dispatcher(loaded.config, launcher)
        try:
            async with trio.open_nursery() as services:
                await services.start(lifeline.run)
                await services.start(launcher.keep_record)
                services.start_soon(logs.tend)
                if whole_process:
                    services.start_soon(tend_orphans, lifeline)
                await services.start(
                    manager.run,
                    dispatcher.news,
                    lambda: _status(dispatcher),
                    requests.stop,
                    lambda: _longest_end_s(dispatcher),
                )
                async with trio.open_nursery() as backends:
                    await backends.start(dispatcher.run)
                    try:
                        if await _start_up(dispatcher, requests, manager):
                            face = _Face(
                                loaded=loaded,
                                requests=requests,
                                dispatcher=dispatcher,
                                gate=gate,
                                manager=manager,
                                logs=logs,
                                catalog=catalog,
                                doors=doors,
                                fixed=listening.fixed,
                                state_dir=state_dir,
                                environ=environ,
                                runtime_path=runtime_file.runtime_path(state_dir, environ),
                                token_path=token.path,
                            )
                            await face.serve(task_status)
                    finally:
                        services.start_soon(_bound_the_end, dispatcher, requests, launcher.hurry)
                        backends.cancel_scope.cancel()
                services.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):  # bounded by LOG_FLUSH_S
                await trio.to_thread.run_sync(logs.close, LOG_FLUSH_S)
                with contextlib.suppress(OSError):  # then the next start finds nothing to end
                    await trio.to_thread.run_sync(record.close)
    finally:
        doors.close()
    log.info("router.stopped")


class StateDirError(RouterError):
    """The state directory cannot be used."""

    code = "state_dir_unusable"


def _open_record(state_dir: Path, instance: str) -> InstanceRecord:
    try:
        return InstanceRecord(state_dir, instance)
    except OSError as exc:
        fault = f"{exc.strerror}: {exc.filename}" if exc.filename else exc.strerror
        raise StateDirError(
            f"the state directory {state_dir} cannot be used: {fault}; "
            "set router.state_dir to a folder that the router may write"
        ) from exc


def _token(state_dir: Path, environ: Mapping[str, str]) -> AdminToken:
    token = admin_token(state_dir, environ)
    if token.doubt is not None:
        log.warning("admin_token.exposed", path=str(token.path), reason=token.doubt)
    return token


def _sweep(state_dir: Path) -> None:
    """End what an earlier life of this router left behind."""
    for swept in sweep(state_dir):
        if swept.outcome is Outcome.SKIPPED:
            log.warning("instances.skipped", path=str(swept.path), reason=swept.reason)
        elif swept.killed or swept.survivors:
            log.warning(
                "backend.swept",
                models=swept.models,
                killed=sorted(swept.killed),
                survivors=sorted(swept.survivors),
            )


def _dispatcher(config: Config, launcher: Launcher) -> Dispatcher:
    dispatcher = Dispatcher(config, launcher)
    launcher.on_progress = dispatcher.waits.note_progress
    return dispatcher


async def _start_up(dispatcher: Dispatcher, requests: Requests, manager: ServiceManager) -> bool:
    """Load the startup model; return False if the end was asked for meanwhile.

    Raises:
        RouterError: if it cannot be loaded.
    """
    name = dispatcher.config.router.startup_model
    if name is None:
        return True
    manager.starting(f"loading the startup model {name}")
    error: RouterError | None = None
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await requests.stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        with dispatcher.lease(name) as lease:
            try:
                await lease.granted()
            except RouterError as exc:
                error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return not requests.stop.is_set()


@attrs.define(eq=False, kw_only=True)
class _Face:
    """What the outside sees of a router."""

    loaded: LoadedConfig
    requests: Requests
    dispatcher: Dispatcher
    gate: Gate
    manager: ServiceManager
    logs: LogStore
    doors: Doors
    fixed: bool  # its sockets are systemd's
    catalog: Catalog | None
    state_dir: Path
    environ: Mapping[str, str]
    runtime_path: Path
    token_path: Path
    started_s: float = attrs.field(factory=time.time)
    urls: tuple[str, ...] = attrs.field(init=False)
    written: RouterSpec = attrs.field(init=False)  # [router] as the file has it
    host: str = attrs.field(init=False)  # what it listens on, perhaps by the command line

    def __attrs_post_init__(self) -> None:
        self.urls = tuple(map(url_of, self.doors.sockets))
        self.written = self.loaded.as_written
        self.host = self.loaded.config.router.host
        self.gate.listens_on(hosts_of(self.doors.sockets))

    async def serve(self, task_status: trio.TaskStatus[Running]) -> None:
        """Serve until the end is asked for, then until everybody is served or time is up."""
        watcher = Watcher(
            self.loaded,
            current=lambda: self.dispatcher.config,
            apply=self._reconfigure,
            load=load_alone if self.catalog is None else self.catalog.reload,
            on_report=lambda report: self.dispatcher.news.publish(
                "config", {"status": report.verdict.value, "problems": len(report.problems)}
            ),
        )
        scanning = trio.Lock()

        async def rescan() -> Scanned:
            async with scanning:
                if self.catalog is None:
                    return Scanned()
                scanned = await scan_beside(self.catalog, self.dispatcher.config.router)
                report = await watcher.reload()
            if report.problems:
                problems = "; ".join(map(str, report.problems))
                raise ScanError(
                    "models were looked for, but the configuration stays as it was, "
                    f"because its file has mistakes: {problems}"
                )
            return scanned

        downloads = Downloads(self.environ, adopt=rescan, on_end=log_end)
        model_info, loads = ModelInfo(self.dispatcher), Loads(self.dispatcher)
        context = ControlContext(
            dispatcher=self.dispatcher,
            gate=self.gate,
            logs=self.logs,
            config_path=watcher.path,
            state_dir=self.state_dir,
            started_s=self.started_s,
            urls=lambda: self.urls,
            reload=watcher.reload,
            edit=watcher.edit,
            report=lambda: watcher.report,
            rescan=rescan,
            downloads=downloads,
            hub_caches=find_caches(self.environ).hubs,
            model_info=model_info,
            loads=loads,
            conversations=(conversations := Conversations()),
        )
        control = ControlServer(build_app(context))
        gateway = Gateway(self.dispatcher, self.gate, control.serve, conversations)
        async with trio.open_nursery() as face:
            face.start_soon(self._drain, gateway, control, face.cancel_scope)
            face.start_soon(watcher.run)
            face.start_soon(tend_missing, self.dispatcher)
            face.start_soon(self._look_when_asked, watcher)
            face.start_soon(self._rescan_when_asked, rescan)
            await face.start(downloads.run)
            await face.start(model_info.run)
            await face.start(loads.run)
            face.start_soon(tell, downloads, self.dispatcher.news)
            with self._findable():
                async with trio.open_nursery() as accepting:
                    await accepting.start(serve, gateway, self.doors)
                    models = len(self.dispatcher.config.models)
                    # What is here now stays; a full collection need not walk over it again.
                    gc.freeze()
                    log.info("router.ready", urls=self.urls, models=models)
                    self.manager.ready()
                    task_status.started(Running(self.urls, self.dispatcher, watcher.reload))
            face.cancel_scope.cancel()

    async def _drain(
        self, gateway: Gateway, control: ControlServer, face: trio.CancelScope
    ) -> None:
        await self.requests.stop.wait()
        drain_s = self.dispatcher.config.router.drain_s
        log.info("router.draining", drain_s=drain_s)
        self.dispatcher.news.publish("router", {"state": "draining"})
        self.dispatcher.shut_down()
        gateway.drain()
        self.logs.end_following()
        await control.drain()
        with trio.move_on_after(max(drain_s, REFUSAL_S)):
            await self.requests.hurry.wait()
        face.cancel()

    async def _look_when_asked(self, watcher: Watcher) -> None:
        while True:
            await self.requests.next_reload()
            with self.manager.reloading():
                await watcher.reload()

    async def _rescan_when_asked(self, rescan: Callable[[], Awaitable[Scanned]]) -> None:
        while True:
            await self.requests.next_rescan()
            try:
                await rescan()
            except ScanError as exc:
                log.error("models.unscanned", reason=str(exc))

    async def _reconfigure(self, config: Config, plan: ReloadPlan) -> frozenset[ModelId]:
        """Make *config* the one in force, which differs by *plan*.

        Returns:
            The models whose process is replaced.

        Raises:
            ConfigError: if its address cannot be used; then nothing has changed.
        """
        with self.manager.reloading():
            before, after = self.written, config.router
            host = after.host if after.host != before.host else self.host
            for each in hosts_of(self.doors.sockets) if self.fixed else (host,):
                if fault := exposure_fault(each, config):
                    raise ConfigError((Problem(("router", "host"), fault),))
            if not self.fixed and (before.host, before.port) != (after.host, after.port):
                same_port = int(self.doors.sockets[0].getsockname()[1])
                port = after.port if after.port != before.port else same_port
                await self._move(host, port)
            if sources(after) != sources(self.dispatcher.config.router):
                self.requests.rescan()
            self.written, self.host = after, host
            former_token = self.dispatcher.config.router.admin_token
            replaced = self.dispatcher.reconfigure(config, plan)
            self.gate.reconfigure(config)
            if after.admin_token != former_token:
                self._announce()
        return replaced

    async def _move(self, host: str, port: int) -> None:
        """Listen on another address; connections that exist go on.

        Raises:
            ConfigError: if it cannot be used.
        """
        old = self.doors.sockets
        try:
            sockets = await trio.to_thread.run_sync(partial(listen, host, port, instead_of=old))
        except ListenError as exc:
            raise ConfigError((Problem(("router", "port"), str(exc)),)) from exc
        self.doors.exchange(sockets)
        self.gate.listens_on(hosts_of(sockets))
        self.urls = tuple(map(url_of, sockets))
        log.info("router.moved", urls=self.urls)
        self._announce()

    def _announce(self) -> None:
        """Write the runtime file, by which commands find this router."""
        token = self.dispatcher.config.router.admin_token
        kept_at = runtime_file.token_path(self.runtime_path)
        content = runtime_file.RuntimeFile(
            pid=os.getpid(),
            urls=self.urls,
            config=str(self.loaded.path),
            token_file=str(self.token_path if token is None else kept_at),
        )
        try:
            runtime_file.write(self.runtime_path, content, token)
        except OSError as exc:
            log.warning("router.hidden", path=str(self.runtime_path), reason=exc.strerror)

    @contextlib.contextmanager
    def _findable(self) -> Iterator[None]:
        """Let commands find this router meanwhile."""
        self._announce()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                runtime_file.remove(self.runtime_path)


def _status(dispatcher: Dispatcher) -> str:
    return status_line({str(m): found.phase for m, found in dispatcher.statistics().items()})


async def _bound_the_end(dispatcher: Dispatcher, requests: Requests, hurry: trio.Event) -> None:
    """See to it that stopping the backends takes no longer than it may."""
    with trio.move_on_after(_grace_s(dispatcher) + REAP_TIMEOUT_S):
        await requests.hurry.wait()
    hurry.set()


def _longest_end_s(dispatcher: Dispatcher) -> float:
    drain_s = max(dispatcher.config.router.drain_s, REFUSAL_S)
    return drain_s + _grace_s(dispatcher) + REAP_TIMEOUT_S + LOG_FLUSH_S


def _grace_s(dispatcher: Dispatcher) -> float:
    specs = dispatcher.config.models.values()
    return max((spec.spawn.stop_timeout_s for spec in specs), default=0.0)
