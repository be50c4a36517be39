"""Loads that somebody asked for without waiting for them."""

from __future__ import annotations

from contextlib import suppress

import trio

from ...core.config.names import ModelId
from ...dispatch.dispatcher import Dispatcher
from ...errors.base import RouterError


class Loads:
    """Loads models in the background while `run` does."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._scopes: dict[ModelId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out loads until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, model: ModelId) -> None:
        """Begin to load *model*, unless that is under way. What becomes of it is in the news."""
        assert self._nursery is not None, "run() comes first"
        if model not in self._scopes:
            self._scopes[model] = trio.CancelScope()
            self._nursery.start_soon(self._load, model)

    def is_under_way(self, model: ModelId) -> bool:
        """Say whether *model* waits to be loaded here."""
        return model in self._scopes

    def cancel(self, model: ModelId) -> None:
        """Wait for *model* no more, or it would come back after being unloaded."""
        if (scope := self._scopes.get(model)) is not None:
            scope.cancel()

    async def _load(self, model: ModelId) -> None:
        try:
            # What goes wrong is logged by the dispatcher, and in the news.
            with (
                self._scopes[model],
                suppress(RouterError),
                self._dispatcher.load(model) as lease,
            ):
                await lease.granted()
        finally:
            del self._scopes[model]
