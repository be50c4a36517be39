"""The state of each request's wait for its model, and callbacks for its changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import attrs
import trio

from ..core.config.names import ModelId
from ..core.scheduling.lifecycle import Phase
from ..core.scheduling.waits import Step, Wait
from ..event_feed import EventFeed, LoadProgressed
from .lease import Lease


class Waits:
    """The scheduler's view of each wait, with the progress of the load.

    Args:
        scheduled: Returns the scheduler's view of a request's wait; None if it does not wait.
        feed: Receives the progress.

    Attributes:
        watching: Leases with a callback, and the model that each waits for.
        loads: Requests that only load a model. They end when they are granted, so requests
            behind them do not count them as ahead.
    """

    def __init__(self, scheduled: Callable[[int], Wait | None], feed: EventFeed) -> None:
        self._scheduled = scheduled
        self._feed = feed
        self._progress: dict[ModelId, float] = {}
        self._ready_s: dict[ModelId, float] = {}
        self._started_s: dict[ModelId, float] = {}
        self._steps: dict[ModelId, Step] = {}
        self.watching: dict[Lease, ModelId] = {}
        self.loads: set[int] = set()

    def of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not."""
        wait = self._scheduled(request)
        if wait is not None and wait.ahead and self.loads:
            earlier = [self._scheduled(load) for load in self.loads if load < request]
            idle = sum(other is not None and other.model == wait.model for other in earlier)
            wait = attrs.evolve(wait, ahead=max(0, wait.ahead - idle))
        if wait is not None and wait.phase is Phase.STARTING:
            progress = self._progress.get(wait.model)
            wait = attrs.evolve(wait, progress=progress, left_s=self.left_s(wait.model))
        return wait if wait is None or not self._steps else self._with_steps(wait)

    def _with_steps(self, wait: Wait) -> Wait:
        blockers = (
            attrs.evolve(blocker, step=None if blocker.model is None else self.step(blocker.model))
            for blocker in wait.blockers
        )
        return attrs.evolve(wait, step=self.step(wait.model), blockers=tuple(blockers))

    def step(self, model: ModelId) -> Step | None:
        """Return what is done for the backend of *model* now, beside its load."""
        return self._steps.get(model)

    def note_step(self, model: ModelId, step: Step | None) -> None:
        """Record what is done for the backend of *model* now; None at its end."""
        if step is None:
            self._steps.pop(model, None)
        else:
            self._steps[model] = step
        self.notify_all()  # also those that wait until it has left

    @contextmanager
    def watch(self, lease: Lease, model: ModelId, on_news: Callable[[], None]) -> Iterator[None]:
        """Call *on_news* within the block whenever *lease*'s wait for *model* changes.

        It may be called without a change, and must not use the dispatcher before it returns.
        """
        lease.on_news = on_news
        self.watching[lease] = model
        try:
            yield
        finally:
            del self.watching[lease]
            lease.on_news = None

    def begin_progress(self, model: ModelId) -> None:
        """Record that *model* is started: nothing of it is loaded yet."""
        self._progress.pop(model, None)
        self._ready_s.pop(model, None)
        self._started_s[model] = trio.current_time()

    def note_expected(self, model: ModelId, ready_s: float) -> None:
        """Record the clock time at which *model*, which is being started, should be ready."""
        self._ready_s[model] = ready_s
        self.notify({model})

    def started_s(self, model: ModelId) -> float | None:
        """Return the clock time of the latest start of *model*, in seconds; None before one."""
        return self._started_s.get(model)

    def left_s(self, model: ModelId) -> float | None:
        """Return how long the start of *model* should still take, in seconds.

        None if that is not known, or if it takes longer than expected.
        """
        left_s = self._ready_s.get(model, 0.0) - trio.current_time()
        return left_s if left_s > 0 else None

    def progress(self, model: ModelId) -> float | None:
        """Return the loaded part of *model*, 0 to 1; None if its backend does not report it."""
        return self._progress.get(model)

    def note_progress(self, model: ModelId, progress: float) -> None:
        """Record the loaded part of *model*, which is being started: 0 to 1."""
        if int(progress * 100) != int(self._progress.get(model, 0.0) * 100):
            self._feed.publish(LoadProgressed(model, progress))
        self._progress[model] = progress
        self.notify({model})

    def notify(self, models: Collection[ModelId]) -> None:
        """Call back the leases that wait for one of *models*."""
        for lease, model in self.watching.items():
            if lease.on_news is not None and model in models:
                lease.on_news()

    def notify_all(self) -> None:
        """Call back all watched leases."""
        self.notify(set(self.watching.values()))
