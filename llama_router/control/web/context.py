"""The parts of the router that routes of the control plane use.

A module of routes has a function ``blueprint(context: ControlContext) -> Blueprint`` and a
line in `app.BLUEPRINTS`. A view needs the admin token unless `guard.open_to` marks it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import attrs

from ...backends.server_programs import ServerPrograms
from ...config.catalog import ScanReport
from ...core.access.gate import Gate
from ...core.config.names import ModelId
from ...core.config.reload import ReloadReport
from ...core.memory.learned import Learned
from ...core.requests.body_budget import BodyBudget
from ...dispatch.conversations import Conversations
from ...dispatch.dispatcher import Dispatcher
from ...dispatch.memory_watch import MemoryWatch
from ...dispatch.traffic import Traffic
from ...hub.browser import HubBrowser
from ...hub.downloads import Downloads
from ...model_logs.store import LogStore
from ..admin.live import LiveState
from ..admin.loads import Loads
from ..admin.model_rows import ModelRows
from ..llama_cpp.model_info import ModelInfo
from ..metrics.router_metrics import RouterMetrics


class Edit(Protocol):
    """Changes the configuration file."""

    async def __call__(
        self, change: Callable[[str], str], *, expected: str | None, whole: bool = False
    ) -> ReloadReport:
        """Apply *change* to the text of the file; return the report of the reload."""


class Check(Protocol):
    """Checks a change of the configuration file."""

    async def __call__(self, change: Callable[[str], str], *, expected: str | None) -> ReloadReport:
        """Return the report that a reload after *change* would have; nothing is changed."""


@attrs.frozen(kw_only=True)
class ControlContext:
    """The argument of every blueprint, which owns none of these parts.

    Attributes:
        dispatcher: Models, their phases and their requests.
        gate: Decides which requests are allowed.
        logs: The output of backends.
        config_path: The configuration file.
        state_dir: The folder of logs and records.
        started_s: Time of the router's start, in seconds since 1970.
        urls: Returns its base URLs.
        reload: Reads the configuration again; returns the report of that reload.
        edit: Changes the configuration file and applies it; see `Watcher.edit`.
        check: Checks a change of it; see `Watcher.check`.
        report: Returns the report of the latest reload.
        rescan: Scans for models; returns the changes.
        downloads: Fetches models from the hub.
        hub: Asks the hub what it has.
        hub_caches: The folders of fetched models.
        model_info: The backends' own descriptions of their models.
        loads: Loads models in the background.
        conversations: The backend of each resumable stream.
        bodies: The memory budget of all request bodies.
        learned: Returns what is known of a model from earlier loads.
        programs: The llama-server programs, and the devices that they see.
        memory: What the devices are used for, with the policy of memory.
        metrics: The metrics of the router.
        traffic: Requests and tokens per minute.
        rows: The rows of models and devices.
        live: Those that changed, for followers.
    """

    dispatcher: Dispatcher
    gate: Gate
    logs: LogStore
    config_path: Path
    state_dir: Path
    started_s: float
    urls: Callable[[], tuple[str, ...]]
    reload: Callable[[], Awaitable[ReloadReport]]
    edit: Edit
    check: Check
    report: Callable[[], ReloadReport]
    rescan: Callable[[], Awaitable[ScanReport]]
    downloads: Downloads
    hub: HubBrowser
    hub_caches: tuple[Path, ...]
    model_info: ModelInfo
    loads: Loads
    conversations: Conversations
    bodies: BodyBudget
    learned: Callable[[ModelId], Learned]
    programs: ServerPrograms
    memory: MemoryWatch
    metrics: RouterMetrics
    traffic: Traffic
    rows: ModelRows
    live: LiveState
