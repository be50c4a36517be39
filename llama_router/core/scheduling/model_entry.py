"""All that is known about one model, and a snapshot of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from ...errors.backends import BackendError, FileMissingError
from ..config.specs import ModelSpec
from ..memory.devices import DeviceId
from ..memory.footprint import Source
from ..memory.view import Claims, MemoryView
from .demand import Demand
from .fairness import Line
from .lifecycle import RESIDENT, Intent, Phase
from .placement import Resident
from .restart import CLOSED, Breaker


@attrs.frozen(kw_only=True)
class ModelStatistics:
    """A snapshot of one model.

    Attributes:
        phase: Phase of its backend.
        in_flight: Number of requests being served.
        limit: Most requests with a slot that it serves at once; None for no limit.
        queued: Number of requests waiting.
        failures: Failures in a row.
        last_error: Its last failure.
        failed_s: Clock time of that failure, in seconds; None if it is not known.
        crashed: It has not been started since that failure, nor was it forgiven.
        requests: Requests being served.
        waiting_since_s: Requests waiting, oldest first, and the clock time of each arrival.
        idle_since_s: Clock time since when it is ready and idle, in seconds; None if it is not.
        retry_at_s: Clock time at which a failed backend may be tried again, in seconds; None if
            it did not fail.
        stays_s: Idle seconds after which its backend is stopped; infinite for never.
        claims: What its backend takes of each device, as far as that is known.
    """

    phase: Phase
    in_flight: int
    queued: int
    failures: int
    last_error: BackendError | None
    limit: int | None = None
    failed_s: float | None = None
    crashed: bool = False
    requests: tuple[int, ...] = ()
    waiting_since_s: Mapping[int, float] = attrs.field(factory=dict[int, float])
    idle_since_s: float | None = None
    retry_at_s: float | None = None
    stays_s: float = math.inf
    claims: Claims = attrs.field(factory=dict[DeviceId, int])


@attrs.define(eq=False)
class ModelEntry:
    """Everything known about one model.

    Attributes:
        spec: The settings that its next start uses.
        phase: Phase of its backend; changed by `SchedulerState.move` only.
        intent: What becomes of it without requests; changed by `SchedulerState.cue` only.
        in_flight: Requests being served.
        queued: Requests that wait, oldest first, and the clock time of each arrival.
        loading_none: Those of them that it must not be loaded for.
        line: The queued requests in the order of their grants.
        slotless: Requests in flight or queued that do not count for ``max_in_flight``.
        slots: Requests that its backend said it serves at once; None if it never did.
        limit: Most requests with a slot that it may serve at once; infinite for no limit.
        ready_since_s: Clock time at which it became ready, in seconds.
        idle_since_s: Clock time at which it became ready or its last request ended, in seconds.
        made_way_s: Clock time at which it was last stopped for another model, in seconds.
        served: True if a request was granted since it became ready.
        breaker: Its failures, and the time of the next attempt.
        last_error: Its last failure.
        failed_s: Clock time of that failure, in seconds; None if it is not known.
        crashed: It has not been started since that failure, nor was it forgiven.
        keep_s: Idle seconds after which it is stopped, if a request set them.
        claims: What was reserved of each device when it was started.
        started_s: Clock time of its last start, in seconds.
        load_s: How long its last load took, in seconds; 0 if it was not loaded yet.
        demand: How often it is requested.
    """

    spec: ModelSpec
    phase: Phase = Phase.STOPPED
    intent: Intent = Intent.ON_DEMAND
    in_flight: set[int] = attrs.field(factory=set)
    queued: dict[int, float] = attrs.field(factory=dict)
    line: Line = attrs.field(factory=Line)
    loading_none: set[int] = attrs.field(factory=set)
    slotless: set[int] = attrs.field(factory=set)
    slots: int | None = None
    limit: float = attrs.field(init=False)
    ready_since_s: float = -math.inf
    idle_since_s: float = -math.inf
    made_way_s: float = -math.inf
    served: bool = False
    breaker: Breaker = CLOSED
    last_error: BackendError | None = None
    failed_s: float | None = None
    crashed: bool = False
    keep_s: float | None = None
    claims: Claims = attrs.field(factory=dict[DeviceId, int])
    started_s: float = -math.inf
    load_s: float = 0.0
    demand: Demand = attrs.field(factory=Demand)

    def __attrs_post_init__(self) -> None:
        """Derive the limit."""
        self.renew(self.spec, self.slots)

    def renew(self, spec: ModelSpec, slots: int | None) -> None:
        """Replace the settings, and what the backend says about its slots."""
        self.spec, self.slots = spec, slots
        most = spec.max_in_flight or slots
        self.limit = math.inf if most is None else most

    @property
    def busy(self) -> bool:
        """True if a request is in flight or queued."""
        return bool(self.in_flight or self.queued)

    @property
    def is_wanted(self) -> bool:
        """True if a request waits that it may be loaded for."""
        return len(self.queued) > len(self.loading_none)

    @property
    def is_coming(self) -> bool:
        """True if it is loaded, or will be without a further request."""
        if self.phase in (Phase.STARTING, Phase.READY) or self.intent is Intent.RETURN:
            return True
        if self.is_wanted:
            return True
        held_off = self.intent is Intent.HELD_OFF or self.phase is Phase.FAILED
        return self.spec.keep_loaded and not held_off

    @property
    def stays_s(self) -> float:
        """Idle seconds after which it is stopped; infinite for never."""
        return (self.spec.ttl_s or math.inf) if self.keep_s is None else self.keep_s

    @property
    def turn_s(self) -> float:
        """Clock time since when it is this model's turn, in seconds. It must have a queue."""
        return max(next(iter(self.queued.values())), self.made_way_s)

    @property
    def lacks_file(self) -> bool:
        """True if it was given up for a file; a `FileRestored` then makes it eligible again."""
        return self.phase is Phase.FAILED and isinstance(self.last_error, FileMissingError)

    @property
    def free_slots(self) -> float:
        """Number of further requests that it may serve at the same time; infinite for no limit."""
        return self.limit - len(self.in_flight) + len(self.slotless & self.in_flight)

    def has_room(self, *, takes_slot: bool) -> bool:
        """Return whether it may serve one more request at the same time."""
        return not takes_slot or len(self.in_flight) < self.limit or self.free_slots > 0

    def take(self, now_s: float, max_yield_s: float) -> list[int]:
        """Remove the queued requests that it may serve now, and return them in order."""
        granted = [each for each in self.queued if each in self.slotless] if self.slotless else []
        for request in granted:
            self.line.discard(request)
        granted += self.line.take(self.free_slots, now_s, max_yield_s)
        for request in granted:
            del self.queued[request]
        return granted

    def claims_in(self, memory: MemoryView) -> Claims:
        """Return what it takes of each device: what was measured, else what was reserved.

        While it loads, it may still take what was reserved, or more; and a figure of the settings
        counts as long as it is not exceeded.
        """
        measured = memory.measured.get(self.spec.id)
        if measured is None:
            return self.claims
        known = memory.footprints.get(self.spec.id)
        is_configured = known is not None and known.source is Source.CONFIGURED
        if self.phase is not Phase.STARTING and not is_configured:
            return {**self.claims, **measured}
        return {
            name: max(self.claims.get(name, 0), measured.get(name, 0))
            for name in self.claims.keys() | measured.keys()
        }

    def resident(self, memory: MemoryView, now_s: float) -> Resident:
        """Return it as placement policies see it."""
        return Resident(
            spec=self.spec,
            phase=self.phase,
            in_flight=len(self.in_flight),
            queued=len(self.queued),
            ready_since_s=self.ready_since_s,
            idle_since_s=self.idle_since_s,
            claims=self.claims_in(memory),
            load_s=self.load_s or memory.load_s.get(self.spec.id, 0.0),
            demand=self.demand.at(now_s),
        )

    def statistics(self, *, never_expires: bool, memory: MemoryView) -> ModelStatistics:
        """Return a snapshot.

        Args:
            never_expires: It stays loaded however long it is idle.
            memory: What is known of devices.
        """
        idle = self.phase is Phase.READY and not self.busy
        failing = self.phase in (Phase.BACKOFF, Phase.FAILED)
        return ModelStatistics(
            phase=self.phase,
            in_flight=len(self.in_flight),
            limit=None if self.limit == math.inf else int(self.limit),
            queued=len(self.queued),
            failures=self.breaker.failures,
            last_error=self.last_error,
            failed_s=self.failed_s,
            crashed=self.crashed,
            requests=tuple(self.in_flight),
            waiting_since_s=dict(self.queued),
            idle_since_s=self.idle_since_s if idle else None,
            retry_at_s=self.breaker.retry_at_s if failing and not self.lacks_file else None,
            stays_s=math.inf if never_expires else self.stays_s,
            claims=self.claims_in(memory) if self.phase in RESIDENT else {},
        )
