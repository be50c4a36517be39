"""Loads models; what is known of a load under way: percent, time left, why it waits."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from ..admin_token import AdminTokenFileError
from ..hub.units import format_duration
from .client import AdminClient, connected
from .failures import NoRouterError, RefusedByRouterError
from .router_search import Connection
from .terminal import is_movable

if TYPE_CHECKING:
    from .model_client import ModelClient


@attrs.define(eq=False)
class LoadState:
    """How far the load of one model is, from the events and the status of the router. Sans-IO.

    Attributes:
        model: The name that was asked for.
        id: The model's id, once it is known.
        started_s: When the load began.
        progress: The loaded part, 0 to 1, as the backend reports it; None if it does not.
        left_s: Time that it should still take; None if that is not known.
        waits_for: Why it has not begun; None if it has.
    """

    model: str
    started_s: float
    id: str | None = None
    progress: float | None = None
    left_s: float | None = None
    waits_for: str | None = None

    def take_status(self, models: Sequence[dict[str, Any]]) -> None:
        """Take in the models of ``/admin/status``."""
        for model in models:
            if self.model in (model["id"], *model["aliases"]):
                self.id = model["id"]
                self.left_s = model["load_left_s"]
                is_loading = model["phase"] in ("starting", "ready")
                self.waits_for = None if is_loading else model["waits_for"]

    def take_event(self, kind: str, data: dict[str, Any]) -> None:
        """Take in an event of ``/admin/events``."""
        if kind == "snapshot":
            self.take_status(data["models"])
        elif data.get("id") == self.id and self.id is not None:
            if kind == "progress":
                self.progress = data["progress"]
            elif kind == "model" and data["phase"] != "ready":
                self.progress = None

    def part(self, now_s: float) -> float | None:
        """Return the loaded part, 0 to 1: as reported, or else by the time of the last load."""
        if self.progress is not None:
            return self.progress
        if self.left_s is None:
            return None
        total_s = now_s - self.started_s + self.left_s
        return (now_s - self.started_s) / total_s if total_s > 0 else None

    def words(self, now_s: float) -> str:
        """Return how far it is, in words."""
        if self.waits_for is not None:
            return self.waits_for
        part = self.part(now_s)
        percent = "" if part is None else f"{part:.0%}, "
        if self.left_s:
            return f"{percent}{format_duration(max(1, self.left_s))} left"
        return f"{percent}{format_duration(now_s - self.started_s)}"


def load_and_show(client: AdminClient, model: str) -> dict[str, Any]:
    """Load *model*, show the progress if standard error is a terminal; return the model's state.

    Raises:
        RouterError: if it cannot be loaded.
    """
    if not is_movable(sys.stderr):
        state: dict[str, Any] = client.post("/admin/models/load", {"model": model})
        return state
    from .load_screen import load_on_screen  # noqa: PLC0415 -- Trio, for a terminal only

    return load_on_screen(client, model)


def load_for_requests(connection: Connection, client: ModelClient, model: str) -> None:
    """Load *model* and show that, where the admin token is at hand; else only find the router.

    Raises:
        RouterError: if it cannot be loaded, or no router is running.
    """
    try:
        with connected(connection) as admin:
            try:
                load_and_show(admin, model)
            except RefusedByRouterError as exc:
                admin.suggest(exc, model)
                raise
    except (AdminTokenFileError, NoRouterError):
        client.models()  # a router without its admin token; or the same error again
