"""The load log: the loads that are going on or lasting, and the last ones that ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

import attrs
import trio

from ..core.config.names import ModelId
from ..core.scheduling.causes import StartCause, StopCause, StopReason
from ..errors.backends import BackendError

#: Ended loads that are kept.
KEPT: Final = 1000

#: A model that is loaded again within this time after it made way for another one is thrashing,
#: in seconds.
THRASHING_S: Final = 60.0


#: Time that a driver may take to free memory before the next model starts, in seconds.
FREEING_S: Final = 10.0


@attrs.define(eq=False, kw_only=True)
class LoadRecord:
    """One process of a model, from its start to its end. Clock times are in seconds.

    Attributes:
        model: The model.
        cause: Why it was started.
        devices: The devices that it was placed on, as far as placement chose them.
        after_failure: The process before it failed.
        thrashing: The process before it made way for another model less than `THRASHING_S` ago.
        began_at: Time of the start, in seconds since 1970.
        began_s: Clock time of the start.
        swap_s: Clock time at which the first model began to leave for it; None if none did.
        ready_s: Clock time at which it was ready; None if it was not.
        stopping_s: Clock time at which it was told to stop; None if it was not.
        stop_cause: Why it was stopped.
        reason: The same in words; of a failure, its sentence.
        for_model: The model that it made way for.
        failure: Cause of its end, if that was a failure.
        ended_s: Clock time of its end; None before.
    """

    model: ModelId
    cause: StartCause
    devices: tuple[str, ...] = ()
    after_failure: bool = False
    thrashing: bool = False
    began_at: float
    began_s: float
    swap_s: float | None = None
    ready_s: float | None = None
    stopping_s: float | None = None
    stop_cause: StopCause | None = None
    reason: str | None = None
    for_model: ModelId | None = None
    failure: str | None = None
    ended_s: float | None = None

    def at(self, clock_s: float | None) -> float | None:
        """Return the clock time *clock_s* in seconds since 1970."""
        return None if clock_s is None else round(self.began_at + clock_s - self.began_s, 3)


@attrs.define(eq=False)
class _Swap:
    """Models that leave for another one: since when, which ones, and when the last was gone."""

    began_s: float
    leaving: set[ModelId] = attrs.field(factory=set)
    free_s: float = 0.0


class LoadLog:
    """The loads of a router. Written by the dispatcher.

    Attributes:
        running: The load of each model that has a process.
        ended: The last `KEPT` loads that ended, the latest at the end.
    """

    def __init__(self) -> None:
        self.running: dict[ModelId, LoadRecord] = {}
        self.ended: deque[LoadRecord] = deque(maxlen=KEPT)
        self._latest: dict[ModelId, LoadRecord] = {}
        self._swaps: dict[ModelId, _Swap] = {}  # by the model that others leave for
        self._listeners: list[Callable[[LoadRecord], None]] = []

    def listen(self, listener: Callable[[LoadRecord], None]) -> None:
        """Call *listener* with each load when it begins, is ready, and ends; must not block."""
        self._listeners.append(listener)

    def started(self, model: ModelId, cause: StartCause, devices: tuple[str, ...]) -> None:
        """Note that *model*'s process is being started."""
        now_s = trio.current_time()
        former = self._latest.get(model)
        record = LoadRecord(
            model=model,
            cause=cause,
            devices=devices,
            after_failure=former is not None and former.failure is not None,
            thrashing=former is not None and _made_way(former, now_s),
            began_at=time.time(),
            began_s=now_s,
            swap_s=self._swap_s(model, now_s),
        )
        self.running[model] = self._latest[model] = record
        self._tell(record)

    def ready(self, model: ModelId) -> None:
        """Note that *model*'s process is ready."""
        if (record := self.running.get(model)) is not None:
            record.ready_s = trio.current_time()
            self._tell(record)

    def stopping(self, model: ModelId, reason: StopReason) -> None:
        """Note that *model*'s process is told to stop."""
        if (record := self.running.get(model)) is None:
            return
        record.stopping_s = trio.current_time()
        record.stop_cause, record.reason = reason.cause, reason.words
        record.for_model = reason.for_model
        if reason.for_model is not None:
            swap = self._swaps.setdefault(reason.for_model, _Swap(began_s=record.stopping_s))
            swap.leaving.add(model)

    def gone(self, model: ModelId, error: BackendError | None) -> None:
        """Note that *model*'s process is gone, with *error* if it failed."""
        if (record := self.running.pop(model, None)) is None:
            return
        record.ended_s = trio.current_time()
        if error is not None:
            record.failure, record.reason = error.cause or error.code, str(error)
        if record.for_model is not None and (swap := self._swaps.get(record.for_model)) is not None:
            swap.leaving.discard(model)
            swap.free_s = record.ended_s
        self.ended.append(record)
        self._tell(record)

    def _swap_s(self, model: ModelId, now_s: float) -> float | None:
        """Return when the first model began to leave for *model*, which starts now."""
        swap = self._swaps.pop(model, None)
        if swap is None or swap.leaving or now_s - swap.free_s > FREEING_S:
            return None  # it starts for another reason, after it was not wanted any more
        return swap.began_s

    def forget_removed(self, models: AbstractSet[ModelId]) -> None:
        """Forget what is known of models that are not among *models*, the configured ones."""
        for model in self._latest.keys() - models - self.running.keys():
            del self._latest[model]
        for model in self._swaps.keys() - models:
            del self._swaps[model]

    def _tell(self, record: LoadRecord) -> None:
        for listener in self._listeners:
            listener(record)


def _made_way(former: LoadRecord, now_s: float) -> bool:
    return (
        former.for_model is not None
        and former.ended_s is not None
        and now_s - former.ended_s < THRASHING_S
    )
