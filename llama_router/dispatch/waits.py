"""What requests wait for, and who is told when that changes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import attrs

from ..core.apis.notices import Wait
from ..core.config.names import ModelId
from ..core.scheduling.lifecycle import Phase
from ..event_feed import EventFeed
from .lease import Lease


class Waits:
    """Knows of each wait what the scheduler says, and how far the load is.

    Args:
        scheduled: Returns what the scheduler says that a request waits for, if it waits.
        news: Where progress is published.

    Attributes:
        watching: Who wants to hear of the wait for which model.
        loads: Requests with nothing to do once they are granted: nobody waits behind them.
    """

    def __init__(self, scheduled: Callable[[int], Wait | None], news: EventFeed) -> None:
        self._scheduled = scheduled
        self._news = news
        self._progress: dict[ModelId, float] = {}
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
            wait = attrs.evolve(wait, progress=self._progress.get(wait.model))
        return wait

    @contextmanager
    def watch(self, lease: Lease, model: ModelId, on_news: Callable[[], None]) -> Iterator[None]:
        """Within the block, let *on_news* be called when *lease*'s wait for *model* changes.

        It may be called without a reason, and must not call back at once.
        """
        lease.on_news = on_news
        self.watching[lease] = model
        try:
            yield
        finally:
            del self.watching[lease]
            lease.on_news = None

    def begin_progress(self, model: ModelId) -> None:
        """Note that *model* is being started: nothing of it is loaded yet."""
        self._progress.pop(model, None)

    def note_progress(self, model: ModelId, progress: float) -> None:
        """Take in how much of *model*, which is being started, is loaded: 0 to 1."""
        if int(progress * 100) != int(self._progress.get(model, 0.0) * 100):
            self._news.publish("progress", {"id": str(model), "progress": progress})
        self._progress[model] = progress
        self.tell({model})

    def tell(self, models: Collection[ModelId]) -> None:
        """Let those know who wait for one of *models*."""
        for lease, model in self.watching.items():
            if lease.on_news is not None and model in models:
                lease.on_news()

    def tell_all(self) -> None:
        """Let everybody know who waits."""
        self.tell(set(self.watching.values()))
