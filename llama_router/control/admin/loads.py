"""Background loads: for requests that are answered before the model is ready."""

from __future__ import annotations

from contextlib import suppress

import trio

from ...core.config.names import ModelId
from ...dispatch.dispatcher import Dispatcher
from ...errors.base import RouterError


class Loads:
    """Loads models in the background while `run` runs."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._scopes: dict[ModelId, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the loads until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, model: ModelId) -> None:
        """Start to load *model*, unless that is under way; the event feed reports the result."""
        assert self._nursery is not None, "run() was not started"
        if model not in self._scopes:
            self._scopes[model] = trio.CancelScope()
            self._nursery.start_soon(self._load, model)

    def is_under_way(self, model: ModelId) -> bool:
        """Return whether a background load of *model* is under way."""
        return model in self._scopes

    def cancel(self, model: ModelId) -> None:
        """Cancel the load of *model*; otherwise the model would be loaded again after an unload."""
        if (scope := self._scopes.get(model)) is not None:
            scope.cancel()

    async def _load(self, model: ModelId) -> None:
        try:
            # The dispatcher logs and publishes failures.
            with (
                self._scopes[model],
                suppress(RouterError),
                self._dispatcher.load(model) as lease,
            ):
                await lease.granted()
        finally:
            del self._scopes[model]
