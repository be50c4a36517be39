"""The tasks that run backends: one for each, contained; a failure becomes an event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol, TypeAlias, assert_never

import trio

from ..backends.backend import (
    Backend,
    BackendReady,
    BackendSlept,
    BackendSpawned,
    CacheMoves,
    LaunchEvent,
    LoadExpected,
    LoadProgress,
)
from ..backends.upstream import PromptCache
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.scheduling.events import Changed
from ..core.scheduling.lifecycle import Signal
from ..core.scheduling.waits import Step
from ..errors.backends import BackendError, first_error
from ..logs.events import log
from ..process.family import Leader
from ..timeouts import first_of

BackendEvent: TypeAlias = Changed | LoadExpected | LoadProgress | BackendSlept | CacheMoves
"""What the tasks report: a backend is ready or gone, fell asleep or woke up; the end of its load is
expected, or a part of it is done; its prompt cache is saved or restored."""


class Launch(Protocol):
    """Runs a backend; reports the progress of its load, that it is ready, and its sleep."""

    async def __call__(self, spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
        """Return only if cancelled; raise `BackendError` if the backend fails."""


class BackendTasks:
    """Starts and stops backends; reports each change as one event.

    Args:
        launch: Runs one backend.
        on_event: Called with the expected end and the progress of each load, when a backend
            became ready, fell asleep or woke up, and when it is gone; must not block.

    Attributes:
        ready: The ready backend of each model that has one.
        leaders: The process of each model that has one.
    """

    def __init__(self, launch: Launch, on_event: Callable[[BackendEvent], None]) -> None:
        self._launch = launch
        self._on_event = on_event
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[ModelId, trio.CancelScope] = {}
        self._leaving: dict[ModelId, trio.CancelScope] = {}  # those with something to save before
        self._last_spawned: list[ModelId] = []  # newest last
        self.ready: dict[ModelId, Backend] = {}
        self.leaders: dict[ModelId, Leader] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the backends' tasks until cancelled; backends end with this task."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def start(self, spec: ModelSpec) -> None:
        """Start a backend for the model of *spec*, which has none."""
        assert self._nursery is not None, "the dispatcher is not running"
        self._scopes[spec.id] = trio.CancelScope()
        self._nursery.start_soon(self._contain, spec)

    def stop(self, model: ModelId, reason: str, error: BackendError | None = None) -> None:
        """Stop *model*'s backend; no request begins to use it any more.

        One that works saves its prompt cache before, if it has one to save.

        Args:
            model: The model.
            reason: Why, in words for the log.
            error: The error for requests in flight, if it failed them.
        """
        log.info("backend.stopping", model=model, reason=reason)
        backend = self.ready.get(model)
        self._end(model, error)
        if error is None and backend is not None and backend.cache is not None:
            assert self._nursery is not None, "the dispatcher is not running"
            self._on_event(CacheMoves(model, Step.SAVING))
            leaving = self._leaving[model] = trio.CancelScope()
            self._nursery.start_soon(self._leave, backend.cache, leaving, self._scopes[model])
        else:
            self._scopes[model].cancel()

    async def _leave(
        self, cache: PromptCache, leaving: trio.CancelScope, running: trio.CancelScope
    ) -> None:
        """Save the prompt cache of a backend that is to be stopped, then stop it.

        Args:
            cache: Its prompt cache.
            leaving: Ends the saving: its process is gone.
            running: The scope of its task, which may be over, and another one begun.
        """
        with leaving:
            await cache.save(idle_only=False)
        running.cancel()

    def save_idle(self, model: ModelId) -> None:
        """Begin to save the idle slots of *model*, which is stopped after its last request."""
        backend = self.ready.get(model)
        if backend is not None and backend.cache is not None and self._nursery is not None:
            self._nursery.start_soon(partial(backend.cache.save, idle_only=True))

    async def save_all(self, give_up: trio.Event) -> None:
        """Save the prompt caches of all ready backends side by side, until *give_up* is set."""
        caches = [backend.cache for backend in self.ready.values() if backend.cache is not None]

        async def save() -> None:
            async with trio.open_nursery() as saving:
                for cache in caches:
                    saving.start_soon(partial(cache.save, idle_only=False))

        await first_of(save, give_up.wait)

    @property
    def running(self) -> tuple[ModelId, ...]:
        """The models with a backend: ready, starting, or being stopped."""
        return tuple(self._scopes)

    def latest_first(self) -> Iterator[Backend]:
        """Yield the ready backends, the last spawned one first."""
        for model in reversed(self._last_spawned):
            if (backend := self.ready.get(model)) is not None:
                yield backend

    async def _contain(self, spec: ModelSpec) -> None:
        """Run one backend; turn its failure into an event. The bulkhead."""
        model = spec.id
        error: BackendError | None = None
        leaving: trio.CancelScope | None = None
        with self._scopes[model] as scope:
            try:
                await self._launch(spec, partial(self._on_launch_event, scope))
            except* BackendError as group:  # expected failures only; bugs pass through
                error = first_error(group)
            finally:
                leaving = self._leaving.pop(model, None)
                if leaving is not None:
                    leaving.cancel()  # there is nothing to save from any more
                if scope.cancel_called or leaving is not None:
                    error = None  # it was stopped on purpose; its exit was logged
                self._end(model, error)  # here, because the router's own end passes through
        if leaving is not None:
            self._on_event(CacheMoves(model, None))
        del self._scopes[model]
        self.leaders.pop(model, None)
        self._on_event(Changed(model, Signal.EXITED, error))

    def _on_launch_event(self, scope: trio.CancelScope, event: LaunchEvent) -> None:
        match event:
            case LoadExpected() | LoadProgress() | CacheMoves():
                self._on_event(event)
            case BackendSlept(model, sleeping):
                backend = self.ready.get(model)
                if backend is not None and backend.sleeping is not sleeping:
                    backend.sleeping = sleeping
                    self._on_event(event)
            case BackendSpawned(model, leader):
                self.leaders[model] = leader
            case BackendReady(backend):
                if not scope.cancel_called:  # else it is being stopped already
                    self._note_ready(backend)
            case _:
                assert_never(event)

    def _note_ready(self, backend: Backend) -> None:
        model = backend.model
        self.ready[model] = backend
        self._last_spawned = [m for m in self._last_spawned if m != model]
        self._last_spawned.append(model)
        self._on_event(Changed(model, Signal.PROBE_OK, slots=backend.slots))

    def _end(self, model: ModelId, error: BackendError | None) -> None:
        """Make *model*'s backend unavailable, and close the connections to it."""
        backend = self.ready.pop(model, None)
        if backend is not None:
            backend.end(error)
