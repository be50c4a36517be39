"""What the control plane's routes may know and ask for.

A blueprint is made by a function ``blueprint(context: ControlContext) -> Blueprint`` and
joins by a line in `app.BLUEPRINTS`. Every route needs the admin token, unless its function
is marked with `guard.open_to`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import attrs

from ...config.catalog import Scanned
from ...config.reload_report import ReloadReport
from ...core.access.gate import Gate
from ...core.requests.body_budget import BodyBudget
from ...dispatch.conversations import Conversations
from ...dispatch.dispatcher import Dispatcher
from ...hub.downloads import Downloads
from ...model_logs.store import LogStore
from ..admin.loads import Loads
from ..llama_cpp.model_info import ModelInfo


class Edit(Protocol):
    """Changes the configuration file."""

    async def __call__(self, change: Callable[[str], str], *, expected: str | None) -> ReloadReport:
        """Return what became of it."""


@attrs.frozen(kw_only=True)
class ControlContext:
    """Everything that a blueprint gets; it owns nothing of it.

    Attributes:
        dispatcher: Models, their phases and their requests.
        gate: Who may ask for what.
        logs: The output of backends.
        config_path: The configuration file.
        state_dir: Where logs and records are kept.
        started_s: When the router was started, in seconds since the epoch.
        urls: Returns its base URLs.
        reload: Reads the configuration again, and returns what became of it.
        edit: Changes the configuration file and applies it; see `Watcher.edit`.
        report: Returns what became of the latest look at the configuration.
        rescan: Looks for models again, and returns what changed.
        downloads: Fetches models from the hub.
        hub_caches: The folders where fetched models are.
        model_info: What backends say about their models.
        loads: Loads models in the background.
        conversations: Which backend keeps which resumable stream.
        bodies: The memory that the bodies of requests may take together.
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
    report: Callable[[], ReloadReport]
    rescan: Callable[[], Awaitable[Scanned]]
    downloads: Downloads
    hub_caches: tuple[Path, ...]
    model_info: ModelInfo
    loads: Loads
    conversations: Conversations
    bodies: BodyBudget
