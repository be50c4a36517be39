"""What backends say about their models: asked once per load, kept after they are gone."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from ...backends.backend import Backend
from ...backends.client import ask
from ...core.config.names import ModelId
from ...core.scheduling.lifecycle import Phase
from ...dispatch.dispatcher import Dispatcher
from ...errors.backends import UpstreamError
from ...timeouts import move_on_after_running
from .entries import BackendInfo, read_backend_info

#: How long a backend may take to say it, in seconds; it has just become ready.
ASK_TIMEOUT_S: Final = 5.0

#: Longest answer that is read, in bytes.
_MAX_BYTES: Final = 1024 * 1024


class ModelInfo:
    """Follows the models of *dispatcher*, and asks each backend that becomes ready."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._known: dict[ModelId, tuple[int, BackendInfo | None]] = {}  # pid, and what it said
        self._news = trio.Event()

    def get(self, model: ModelId) -> BackendInfo | None:
        """Return what the last backend of *model* said, if it said anything."""
        found = self._known.get(model)
        return None if found is None else found[1]

    async def settled(self, model: ModelId) -> BackendInfo | None:
        """Return the same once the backend that runs now was asked, if one runs."""
        while True:
            backend = self._dispatcher.backend(model)
            if backend is None or self._known.get(model, (None,))[0] == backend.pid:
                return self.get(model)
            await self._news.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask until cancelled."""
        news = self._dispatcher.news
        async with trio.open_nursery() as nursery:
            for backend in self._dispatcher.ready_backends():
                nursery.start_soon(self._ask, backend)
            number = news.last
            task_status.started()
            while True:
                await news.wait_after(number)
                items = news.after(number)
                number = news.last
                if items is None:  # far behind: nobody is left out who runs now
                    ready = self._dispatcher.ready_backends()
                else:
                    models = [
                        item.data["id"]
                        for item in items
                        if item.kind == "model" and item.data["phase"] == Phase.READY.value
                    ]
                    found = (self._dispatcher.backend(ModelId(model)) for model in models)
                    ready = [backend for backend in found if backend is not None]
                for backend in ready:
                    nursery.start_soon(self._ask, backend)
                self._forget_removed()
                self._tell()  # whoever waits for one that is gone

    async def _ask(self, backend: Backend) -> None:
        info = None

        async def learn() -> None:
            nonlocal info
            with suppress(UpstreamError):  # many backends have no such list
                answer = await ask(backend, b"/v1/models", max_bytes=_MAX_BYTES)
                if answer.status == 200:
                    info = read_backend_info(answer.body)

        await move_on_after_running(learn, ASK_TIMEOUT_S)
        if info is None:
            info = self.get(backend.model)
        self._known[backend.model] = (backend.pid, info)
        self._tell()

    def _forget_removed(self) -> None:
        models = self._dispatcher.config.models
        for model in [model for model in self._known if model not in models]:
            del self._known[model]

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()
