"""What the outside sees of a router: both planes, from the first connection to the last."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import structlog
import trio

from ..config.catalog import Catalog, sources
from ..config.load import LoadedConfig
from ..config.watcher import Watcher, load_alone
from ..control.admin.downloads import log_end, tell
from ..control.admin.loads import Loads
from ..control.llama_cpp.model_info import ModelInfo
from ..control.web.app import build_app
from ..control.web.context import ControlContext
from ..control.web.server import ControlServer
from ..core.config.diff import ReloadPlan
from ..core.config.names import ModelId
from ..core.config.whole import Config
from ..dispatch.conversations import Conversations
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.missing import tend_missing
from ..gateway.gateway import Gateway
from ..gateway.server import serve
from ..hub.downloads import Downloads
from ..model_logs.store import LogStore
from ..models.caches import find_caches
from ..systemd.manager import ServiceManager
from ..timeouts import move_on_after_running
from .address import Address
from .running_router import RouterSignals, RunningRouter
from .scans import Scans
from .shutdown import drain_s

log = structlog.get_logger()


@attrs.define(eq=False, kw_only=True)
class Frontend:
    """Serves connections, and whatever changes what they meet.

    Attributes:
        loaded: What the router was started with.
        requests: What the outside asks of it.
        dispatcher: Who grants backends.
        address: Where it listens.
        manager: Who wants to know how it is.
        logs: The output of backends.
        catalog: Finds models, if there are any to find.
        state_dir: Where logs and records are kept.
        environ: The environment of the router.
        started_s: When it was started, in seconds since the epoch.
    """

    loaded: LoadedConfig
    requests: RouterSignals
    dispatcher: Dispatcher
    address: Address
    manager: ServiceManager
    logs: LogStore
    catalog: Catalog | None
    state_dir: Path
    environ: Mapping[str, str]
    started_s: float = attrs.field(factory=time.time)

    async def serve(self, task_status: trio.TaskStatus[RunningRouter]) -> None:
        """Serve until the end is asked for, then until everybody is served or time is up."""
        dispatcher, news = self.dispatcher, self.dispatcher.news
        watcher = self._watcher()
        scans = Scans(self.catalog, lambda: dispatcher.config.router, watcher.reload)
        downloads = Downloads(self.environ, adopt=scans.scan, on_end=log_end)
        model_info, loads = ModelInfo(dispatcher), Loads(dispatcher)
        conversations = Conversations()
        context = ControlContext(
            dispatcher=dispatcher,
            gate=self.address.gate,
            logs=self.logs,
            config_path=watcher.path,
            state_dir=self.state_dir,
            started_s=self.started_s,
            urls=lambda: self.address.urls,
            reload=watcher.reload,
            edit=watcher.edit,
            report=lambda: watcher.report,
            rescan=scans.scan,
            downloads=downloads,
            hub_caches=find_caches(self.environ).hubs,
            model_info=model_info,
            loads=loads,
            conversations=conversations,
        )
        control = ControlServer(build_app(context))
        gateway = Gateway(dispatcher, self.address.gate, control.serve, conversations)
        async with trio.open_nursery() as face:
            face.start_soon(self._drain, gateway, control, face.cancel_scope)
            face.start_soon(watcher.run)
            face.start_soon(tend_missing, dispatcher)
            face.start_soon(self._look_when_asked, watcher)
            face.start_soon(scans.run, self.requests.next_rescan)
            await face.start(downloads.run)
            await face.start(model_info.run)
            await face.start(loads.run)
            face.start_soon(tell, downloads, news)
            with self.address.findable():
                async with trio.open_nursery() as accepting:
                    await accepting.start(serve, gateway, self.address.doors)
                    # What is here now stays; a full collection need not walk over it again.
                    gc.freeze()
                    urls, models = self.address.urls, len(dispatcher.config.models)
                    log.info("router.ready", urls=urls, models=models)
                    self.manager.ready()
                    task_status.started(RunningRouter(urls, dispatcher, watcher.reload))
            face.cancel_scope.cancel()

    def _watcher(self) -> Watcher:
        news = self.dispatcher.news
        return Watcher(
            self.loaded,
            current=lambda: self.dispatcher.config,
            apply=self._reconfigure,
            load=load_alone if self.catalog is None else self.catalog.reload,
            on_report=lambda report: news.publish(
                "config", {"status": report.verdict.value, "problems": len(report.problems)}
            ),
        )

    async def _drain(
        self, gateway: Gateway, control: ControlServer, face: trio.CancelScope
    ) -> None:
        await self.requests.stop.wait()
        config = self.dispatcher.config
        log.info("router.draining", drain_s=config.router.drain_s)
        self.dispatcher.news.publish("router", {"state": "draining"})
        self.dispatcher.shut_down()
        gateway.drain()
        self.logs.end_following()
        await control.drain()
        await move_on_after_running(self.requests.hurry.wait, drain_s(config))
        face.cancel()

    async def _look_when_asked(self, watcher: Watcher) -> None:
        while True:
            await self.requests.next_reload()
            with self.manager.reloading():
                await watcher.reload()

    async def _reconfigure(self, config: Config, plan: ReloadPlan) -> frozenset[ModelId]:
        """Make *config* the one in force, which differs by *plan*.

        Returns:
            The models whose process is replaced.

        Raises:
            ConfigError: if its address cannot be used; then nothing has changed.
        """
        with self.manager.reloading():
            await self.address.follow(config)
            former = self.dispatcher.config.router
            if sources(config.router) != sources(former):
                self.requests.rescan()
            replaced = self.dispatcher.reconfigure(config, plan)
            self.address.gate.reconfigure(config)
            if config.router.admin_token != former.admin_token:
                self.address.announce()
        return replaced
