"""The frontend: data plane and control plane, from the first connection to the last."""

from __future__ import annotations

import gc
import time

import trio

from ..config.catalog import scan_sources
from ..config.models_folders import ModelsFolders
from ..config.watcher import Watcher, load_without_scans
from ..control.admin.download_reports import log_end, publish_downloads
from ..control.admin.live import LiveState
from ..control.admin.loads import Loads
from ..control.admin.model_rows import ModelRows
from ..control.llama_cpp.model_info import ModelInfo
from ..control.metrics.router_metrics import RouterMetrics
from ..control.web.context import ControlContext
from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.reload import ReloadPlan, ReloadReport
from ..core.requests.body_budget import BodyBudget
from ..dispatch.conversations import Conversations
from ..dispatch.missing_files import watch_missing_files
from ..dispatch.traffic import Traffic
from ..event_feed import ConfigReloaded, RouterDraining
from ..gateway.gateway import Gateway
from ..gateway.loop.event_loop import EventLoop
from ..gateway.server import serve
from ..hub.browser import HubBrowser
from ..hub.downloads import Downloads
from ..logs.events import log
from ..models.caches import find_caches
from ..timeouts import move_on_after_running
from .control_plane import ControlPlane
from .parts import RouterParts
from .running_router import RunningRouter
from .scans import Scans
from .service_imports import ServiceImports
from .shutdown import drain_s


class Frontend:
    """Serves connections, and applies the changes of configuration and models meanwhile.

    Attributes:
        report: The report of the latest reload; None before the first one.
    """

    def __init__(self, parts: RouterParts) -> None:
        self._parts = parts
        self._dispatcher = parts.dispatcher
        self._programs = parts.programs
        self.report: ReloadReport | None = None
        self._reported = trio.Event()

    async def serve(self, task_status: trio.TaskStatus[RunningRouter]) -> None:
        """Serve until a stop, then until all requests are answered or the drain time is over."""
        dispatcher = self._dispatcher
        watcher = self._watcher()
        scans = Scans(self._parts.catalog, lambda: dispatcher.config.router, watcher.reload)
        context = self._control_context(watcher, scans)
        control = ControlPlane(context)
        gateway = Gateway(
            dispatcher,
            self._parts.address.gate,
            control.serve,
            context.conversations,
            EventLoop(context.bodies),
        )
        async with trio.open_nursery() as tasks:
            tasks.start_soon(self._drain, gateway, control, tasks.cancel_scope)
            tasks.start_soon(watcher.run)
            tasks.start_soon(watch_missing_files, dispatcher)
            tasks.start_soon(context.metrics.run)
            tasks.start_soon(self._reload_on_request, watcher)
            tasks.start_soon(self._programs.run, lambda: dispatcher.config)
            await tasks.start(self._parts.launcher.learned.run, lambda: dispatcher.config)
            tasks.start_soon(scans.run, self._parts.signals.next_rescan)
            if self._parts.catalog is not None:
                folders = ModelsFolders(
                    lambda: dispatcher.config.router,
                    lambda: self._reported.wait(),  # noqa: PLW0108 -- each time the latest event
                    scans.scan_or_log,
                )
                tasks.start_soon(folders.run)
                imports = ServiceImports(
                    self._parts.catalog,
                    lambda: dispatcher.config,
                    self._parts.environ,
                    watcher.reload,
                )
                tasks.start_soon(imports.run)
            await tasks.start(context.downloads.run)
            await tasks.start(context.model_info.run)
            await tasks.start(context.loads.run)
            tasks.start_soon(context.live.run)
            tasks.start_soon(publish_downloads, context.downloads, dispatcher.feed)
            with self._parts.address.findable():
                await self._accept(gateway, control, watcher, task_status)
            tasks.cancel_scope.cancel()

    async def _accept(
        self,
        gateway: Gateway,
        control: ControlPlane,
        watcher: Watcher,
        task_status: trio.TaskStatus[RunningRouter],
    ) -> None:
        """Accept connections until the gateway is drained and the last one is closed."""
        async with trio.open_nursery() as accepting:
            await accepting.start(serve, gateway, self._parts.address.listeners)
            # Objects of the start-up live as long as the process: collections skip them.
            gc.freeze()
            urls, models = self._parts.address.urls, len(self._dispatcher.config.models)
            log.info("router.ready", urls=urls, models=models)
            self._parts.manager.ready()
            task_status.started(RunningRouter(urls, self._dispatcher, watcher.reload))
            await control.load()

    def _control_context(self, watcher: Watcher, scans: Scans) -> ControlContext:
        dispatcher, memory = self._dispatcher, self._parts.memory
        model_info = ModelInfo(dispatcher, self._parts.launcher.learned.of_model)
        rows = ModelRows(dispatcher, model_info, memory)
        started_s = time.time()
        return ControlContext(
            dispatcher=dispatcher,
            gate=self._parts.address.gate,
            logs=self._parts.logs,
            config_path=watcher.path,
            state_dir=self._parts.state_dir,
            started_s=started_s,
            urls=lambda: self._parts.address.urls,
            reload=watcher.reload_by_request,
            edit=watcher.edit,
            check=watcher.check,
            report=lambda: watcher.report,
            rescan=scans.scan,
            downloads=Downloads(self._parts.environ, on_fetched=scans.scan, on_end=log_end),
            hub=HubBrowser(self._parts.environ),
            hub_caches=find_caches(self._parts.environ).hubs,
            model_info=model_info,
            loads=Loads(dispatcher),
            conversations=Conversations(),
            bodies=BodyBudget(),
            learned=self._parts.launcher.learned.of_model,
            programs=self._programs,
            memory=memory,
            metrics=RouterMetrics(
                dispatcher,
                lambda: memory.view,
                self._parts.logs,
                started_at=started_s,
            ),
            traffic=Traffic(dispatcher.activity, time.time),
            rows=rows,
            live=LiveState(dispatcher, rows),
        )

    def _watcher(self) -> Watcher:
        return Watcher(
            self._parts.loaded,
            current=lambda: self._dispatcher.config,
            apply=self._reconfigure,
            load=load_without_scans if self._parts.catalog is None else self._parts.catalog.reload,
            on_report=self._publish,
        )

    def _publish(self, report: ReloadReport) -> None:
        """Show the result of a reload in systemd's status, and to followers of the event feed."""
        self.report = report
        self._reported.set()
        self._reported = trio.Event()
        self._dispatcher.feed.publish(ConfigReloaded(report.outcome.value, len(report.problems)))

    async def _drain(
        self, gateway: Gateway, control: ControlPlane, frontend: trio.CancelScope
    ) -> None:
        await self._parts.signals.stop.wait()
        config = self._dispatcher.config
        log.info("router.draining", drain_s=config.router.drain_s)
        self._dispatcher.feed.publish(RouterDraining())
        self._dispatcher.shut_down()
        gateway.drain()
        self._parts.logs.end_following()
        control.drain()
        await move_on_after_running(self._parts.signals.force_stop.wait, drain_s(config))
        frontend.cancel()

    async def _reload_on_request(self, watcher: Watcher) -> None:
        while True:
            await self._parts.signals.next_reload()
            with self._parts.manager.reloading():
                await watcher.reload()

    async def _reconfigure(self, config: Config, plan: ReloadPlan) -> frozenset[ModelId]:
        """Put *config* in force, which differs by *plan* from the former one.

        Returns:
            The ids of the models that get a new process.

        Raises:
            ConfigError: if its address cannot be used; then nothing has changed.
        """
        with self._parts.manager.reloading():
            await self._parts.address.follow(config)
            former = self._dispatcher.config.router
            if scan_sources(config.router) != scan_sources(former):
                self._parts.signals.rescan()
            replaced = self._dispatcher.reconfigure(config, plan)
            self._programs.configuration_changed()
            self._parts.launcher.learned.configuration_changed()
            self._parts.caches.keep_only(config.models.values())
            self._parts.address.gate.reconfigure(config)
            if config.router.admin_token != former.admin_token:
                self._parts.address.announce()
        return replaced
