"""The backends' own descriptions of their models: requested once per load, kept afterwards."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import trio

from ...backends.backend import Backend
from ...backends.client import fetch
from ...core.config.names import ModelId
from ...core.scheduling.lifecycle import Phase
from ...dispatch.dispatcher import Dispatcher
from ...errors.base import RouterError
from ...event_feed import FeedEvent, ModelPhaseChanged
from .entries import BackendInfo, read_backend_info

#: Time limit of that request, in seconds; the backend has just become ready.
REQUEST_TIMEOUT_S: Final = 5.0

#: Largest response that is read, in bytes.
_MAX_BYTES: Final = 1024 * 1024


class ModelInfo:
    """Requests the description of each backend of *dispatcher* that becomes ready."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._known: dict[ModelId, tuple[int, BackendInfo | None]] = {}  # by pid of the backend
        self._changed = trio.Event()

    def get(self, model: ModelId) -> BackendInfo | None:
        """Return the description by the last backend of *model*, if it gave one."""
        found = self._known.get(model)
        return None if found is None else found[1]

    async def settled(self, model: ModelId) -> BackendInfo | None:
        """Return the same, after the request to the present backend, if there is one."""
        while True:
            backend = self._dispatcher.backend(model)
            if backend is None or self._known.get(model, (None,))[0] == backend.pid:
                return self.get(model)
            await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the event feed until cancelled."""
        feed = self._dispatcher.feed
        async with trio.open_nursery() as nursery:
            for backend in self._dispatcher.ready_backends():
                nursery.start_soon(self._request, backend)
            number = feed.last
            task_status.started()
            while True:
                await feed.wait_after(number)
                items = feed.after(number)
                number = feed.last
                if items is None:  # too far behind: request all descriptions
                    ready = self._dispatcher.ready_backends()
                else:
                    found = [self._dispatcher.backend(model) for model in _ready_models(items)]
                    ready = [backend for backend in found if backend is not None]
                for backend in ready:
                    nursery.start_soon(self._request, backend)
                self._forget_removed()
                self._notify()  # a waiter's backend may be gone

    async def _request(self, backend: Backend) -> None:
        info = None
        with suppress(RouterError):  # many backends have no list of models
            answer = await fetch(
                backend, "/v1/models", max_bytes=_MAX_BYTES, timeout_s=REQUEST_TIMEOUT_S
            )
            if answer.status == 200:
                info = read_backend_info(answer.body)
        if info is None:
            info = self.get(backend.model)
        self._known[backend.model] = (backend.pid, info)
        self._notify()

    def _forget_removed(self) -> None:
        models = self._dispatcher.config.models
        for model in [model for model in self._known if model not in models]:
            del self._known[model]

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _ready_models(items: Iterable[FeedEvent]) -> list[ModelId]:
    """Return the models that became ready in *items*."""
    changes = (item.event for item in items if isinstance(item.event, ModelPhaseChanged))
    return [change.model for change in changes if change.phase is Phase.READY]
