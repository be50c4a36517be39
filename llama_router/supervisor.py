"""The task tree, and the order in which it comes down.

    lifeline                dies last: it ends whatever is left
    └─ backends             one contained task per model
        └─ face             dies first: accept loop, connections, signals' work

What depends on backends lives in an inner nursery, so that it is gone before they are
told to stop.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

import attrs
import structlog
import trio

from .backends import proctree
from .backends.instances import InstanceRecord, Outcome, sweep
from .backends.launch import Launcher
from .backends.lifeline import Lifeline
from .backends.orphans import tend_orphans
from .backends.output import LogStore
from .backends.ports import Ports
from .backends.process import REAP_TIMEOUT_S
from .config_file import LoadedConfig
from .control.app import build_app
from .control.hypercorn import ControlServer
from .dispatcher import Dispatcher
from .errors import RouterError
from .gateway.connection import Gateway
from .gateway.server import listen, serve
from .watcher import reload

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

    def reload(self) -> None:
        """Ask for the configuration to be read again; several asks may become one."""
        self._reload.set()

    async def next_reload(self) -> None:
        """Wait until a reload is asked for."""
        await self._reload.wait()
        self._reload = trio.Event()


@attrs.frozen
class Running:
    """A router that accepts connections.

    Attributes:
        urls: Its base URLs.
        dispatcher: For those who want to look inside.
    """

    urls: tuple[str, ...]
    dispatcher: Dispatcher


async def run_router(
    loaded: LoadedConfig,
    requests: Requests,
    *,
    state_dir: Path,
    environ: Mapping[str, str],
    whole_process: bool = False,
    task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until *requests* ask for the end; then every backend is gone.

    Args:
        loaded: What to serve, and where it was read from.
        requests: Set from outside, e.g. by signal handlers.
        state_dir: Where logs and the record of running backends are kept.
        environ: The environment that backends inherit a part of.
        whole_process: This process does nothing else, so every child that it did not
            start was left behind by a backend, and is ended with the last that may own it.
        task_status: Reports the router once it accepts connections; the startup model
            is ready then.

    Raises:
        RouterError: if it cannot start: the address is taken, the state directory is not
            writable, the startup model does not load.
    """
    router = loaded.config.router
    instance = secrets.token_hex(8)
    listeners = listen(router.host, router.port)
    try:
        await trio.to_thread.run_sync(_sweep, state_dir)
        record = await trio.to_thread.run_sync(_open_record, state_dir, instance)
        proctree.adopt_orphans()
        port = listeners[0].getsockname()[1]
        lifeline = Lifeline(instance)
        logs = LogStore(
            state_dir / "logs",
            max_bytes=router.log_file_mib * 1024 * 1024,
            backups=router.log_files,
        )
        launcher = Launcher(
            instance=instance,
            environ=environ,
            router_port=port,
            ports=Ports(router.base_port, (port,)),
            lifeline=lifeline,
            record=record,
            logs=logs,
            hurry=trio.Event(),
        )
        dispatcher = Dispatcher(loaded.config, launcher)
        try:
            async with trio.open_nursery() as services:
                await services.start(lifeline.run)
                await services.start(launcher.keep_record)
                if whole_process:
                    services.start_soon(tend_orphans, lifeline)
                async with trio.open_nursery() as backends:
                    await backends.start(dispatcher.run)
                    try:
                        if await _start_up(dispatcher, requests):
                            await _serve(loaded, requests, dispatcher, listeners, task_status)
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
        for listener in listeners:
            listener.close()
    log.info("router.stopped")


class StateDirError(RouterError):
    """The state directory cannot be used."""

    code = "state_dir_unusable"


def _open_record(state_dir: Path, instance: str) -> InstanceRecord:
    try:
        return InstanceRecord(state_dir, instance)
    except OSError as exc:
        raise StateDirError(
            f"the state directory {state_dir} cannot be used: {exc.strerror}: {exc.filename}; "
            "set router.state_dir to a folder that the router may write"
        ) from exc


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


async def _start_up(dispatcher: Dispatcher, requests: Requests) -> bool:
    """Load the startup model; return False if the end was asked for meanwhile.

    Raises:
        RouterError: if it cannot be loaded.
    """
    name = dispatcher.config.router.startup_model
    if name is None:
        return True
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


async def _serve(
    loaded: LoadedConfig,
    requests: Requests,
    dispatcher: Dispatcher,
    listeners: list[socket.socket],
    task_status: trio.TaskStatus[Running],
) -> None:
    """Serve until the end is asked for, then until everybody is served or time is up."""
    control = ControlServer(build_app(dispatcher))
    gateway = Gateway(dispatcher, control.serve)
    async with trio.open_nursery() as face:

        async def drain() -> None:
            await requests.stop.wait()
            drain_s = dispatcher.config.router.drain_s
            log.info("router.draining", drain_s=drain_s)
            dispatcher.shut_down()
            gateway.drain()
            await control.drain()
            with trio.move_on_after(max(drain_s, REFUSAL_S)):
                await requests.hurry.wait()
            face.cancel_scope.cancel()

        async def reload_when_asked() -> None:
            while True:
                await requests.next_reload()
                await reload(loaded.path, dispatcher, started=loaded.as_written)

        face.start_soon(drain)
        face.start_soon(reload_when_asked)
        async with trio.open_nursery() as accepting:
            await accepting.start(serve, gateway, listeners)
            urls = tuple(_url(listener) for listener in listeners)
            log.info("router.ready", urls=urls, models=len(dispatcher.config.models))
            task_status.started(Running(urls, dispatcher))
        face.cancel_scope.cancel()


async def _bound_the_end(dispatcher: Dispatcher, requests: Requests, hurry: trio.Event) -> None:
    """See to it that stopping the backends takes no longer than it may."""
    specs = dispatcher.config.models.values()
    grace_s = max((spec.spawn.stop_timeout_s for spec in specs), default=0.0)
    with trio.move_on_after(grace_s + REAP_TIMEOUT_S):
        await requests.hurry.wait()
    hurry.set()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def state_dir_for(config_dir: str | None, environ: Mapping[str, str]) -> Path:
    """Return where this router keeps its state.

    Args:
        config_dir: ``router.state_dir``, if it is set.
        environ: ``STATE_DIRECTORY`` (set by systemd), ``XDG_STATE_HOME`` and ``HOME`` count.
    """
    if config_dir is not None:
        return Path(config_dir)
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = Path(environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    return base / "llama-router"
