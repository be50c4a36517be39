"""Placement policies: which models may run at the same time, and which leave for another. Pure.

A policy only answers questions about a moment, which it gets as a value. The order of turns,
dwell and residency times are in `turns`, and hold for every policy; idle models and the home
model are in `idle_policy`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Any, ClassVar, Protocol

import attrs

from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..memory.devices import DeviceId
from ..memory.view import NOTHING_KNOWN, Claims, MemoryView
from .lifecycle import Phase


@attrs.frozen(kw_only=True)
class Resident:
    """A model with a process, or one that may still exist.

    Attributes:
        spec: Its settings.
        phase: STARTING: memory is reserved and being filled; READY: it is in use; DRAINING: it
            will be released after the last request; STOPPING: it is being released.
        in_flight: Requests being served.
        queued: Requests that wait for it.
        ready_since_s: Clock time at which it became ready, in seconds; minus infinity if it
            never was.
        idle_since_s: Clock time at which it became ready or its last request ended, in seconds.
        claims: What it takes of each device.
        load_s: How long its last load took, in seconds; 0 if that is not known.
        demand: Its grants lately: a count that halves every ten minutes.
    """

    spec: ModelSpec
    phase: Phase
    in_flight: int = 0
    queued: int = 0
    ready_since_s: float = -float("inf")
    idle_since_s: float = -float("inf")
    claims: Claims = attrs.field(factory=dict[DeviceId, int])
    load_s: float = 0.0
    demand: float = 0.0

    @property
    def model(self) -> ModelId:
        """Its id."""
        return self.spec.id

    @property
    def leaving(self) -> bool:
        """True if it is being stopped, or drains in order to be stopped."""
        return self.phase in (Phase.DRAINING, Phase.STOPPING)


@attrs.frozen(kw_only=True)
class Waiter:
    """A model that could be started and has requests waiting.

    Attributes:
        spec: Its settings.
        queued: Requests that wait for it.
        turn_s: Clock time since when it is its turn, in seconds.
    """

    spec: ModelSpec
    queued: int
    turn_s: float


@attrs.frozen(kw_only=True)
class Occupancy:
    """All that runs, and all that waits to be started, at one moment.

    Attributes:
        residents: Every model that occupies memory, those with ``keep_loaded`` included.
        waiters: The demand, oldest turn first, as far as the policy looks ahead.
        now_s: Clock time, in seconds.
        memory: What is known of devices, and of what models take.
        memo: For policies: what they found out about this moment and may need again. Shared with
            the next moment if no phase, setting, device or second has changed in between.
    """

    residents: tuple[Resident, ...]
    waiters: tuple[Waiter, ...]
    now_s: float
    memory: MemoryView = NOTHING_KNOWN
    memo: dict[object, Any] = attrs.field(factory=dict[object, Any], eq=False, repr=False)

    def with_started(self, spec: ModelSpec, claims: Claims) -> Occupancy:
        """Return the occupancy if the model of *spec* were started now, with *claims*."""
        started = Resident(spec=spec, phase=Phase.STARTING, claims=claims)
        return attrs.evolve(self, residents=(*self.residents, started), memo={})

    def without(self, model: ModelId) -> Occupancy:
        """Return the occupancy if *model* had no process."""
        residents = tuple(each for each in self.residents if each.model != model)
        return attrs.evolve(self, residents=residents, memo={})


class Obstacle(Enum):
    """Why a model cannot start whatever leaves: requests for it are refused."""

    TOO_LARGE = auto()  # no device is large enough for it
    NO_DEVICE = auto()  # none of the devices that its settings name is there
    KEPT = auto()  # models with ``keep_loaded`` hold what it needs


@attrs.frozen(kw_only=True)
class Verdict:
    """Verdict on the start of a model: allowed, or the reason why it has to wait.

    Attributes:
        blockers: Residents that have to leave first. A model with ``keep_loaded`` must not be
            among them: it never leaves for another.
        reason: Why it must wait, as a sentence for its clients; empty if the blockers are the
            whole reason.
        look_again_s: Clock time at which the answer may be another one although nothing
            happened, in seconds; infinite if it depends on events only.
        claims: What it will take of each device, if the policy chooses that.
        obstacle: Set if waiting is in vain.
    """

    blockers: tuple[ModelId, ...] = ()
    reason: str = ""
    look_again_s: float = float("inf")
    claims: Claims = attrs.field(factory=dict[DeviceId, int])
    obstacle: Obstacle | None = None

    @property
    def allowed(self) -> bool:
        """True if the model may start now."""
        return not self.blockers and not self.reason


class Placement(Protocol):
    """A placement policy: a value made from a configuration, and replaced with it.

    The scheduler starts a model only if `may_start` allows it. `max_queue_wait_s` apart, every
    wait is bounded if

    * `may_start` allows any model if nothing but ``keep_loaded`` models is resident;
    * `victims` names at least one blocker once all blockers are idle;
    * models that can take each other's place again and again have one `dwell_key`.

    Attributes:
        lookahead: How many of the models that wait to be started are looked at, oldest turn
            first; None for all. The price of a decision is proportional to it.
    """

    @property
    def lookahead(self) -> int | None:
        """Return that number."""

    def dwell_key(self, spec: ModelSpec) -> str:
        """Return what models have in common that share one dwell time.

        The time in which they are granted while others wait begins when the first of them is
        ready, and ends for all of them at once.
        """

    def may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        """Return whether a model without a process may start, and what is in its way.

        The answer must not depend on how many requests a resident has: blockers are granted
        no more after their dwell time *because* they are blockers.

        Args:
            spec: Settings of the model. It may be among the waiters, or one of those that
                start without a request.
            occupancy: The moment to decide about.
        """

    def victims(
        self, spec: ModelSpec, occupancy: Occupancy, closed: frozenset[ModelId]
    ) -> tuple[ModelId, ...]:
        """Return the residents to stop now so that a model which may not start can.

        Every one of them must be idle (`is_idle`) and not leaving. Empty if nothing is gained
        by stopping one now; the question is asked again after each event.

        Args:
            spec: Settings of the model; the one with the oldest turn, if it waits.
            occupancy: The moment to decide about.
            closed: Residents past their dwell and residency times, which are granted no more.
        """


def is_idle(resident: Resident, closed: frozenset[ModelId]) -> bool:
    """Return whether no request is in flight, and none is queued that may still be granted."""
    return not resident.in_flight and not (resident.queued and resident.model not in closed)


@attrs.frozen
class GroupPlacement:
    """The policy of groups: models of one group run side by side, one group at a time.

    A model without a group is a group of its own. Models with ``keep_loaded`` do not take part:
    they run beside every group.
    """

    lookahead: ClassVar[None] = None

    def dwell_key(self, spec: ModelSpec) -> str:
        """Return the group; a model with ``keep_loaded`` is not in one."""
        return f"model:{spec.id}" if spec.keep_loaded else spec.group_key

    def may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        """Allow it unless a model of another group is resident."""
        blockers = tuple(resident.model for resident in _in_the_way(spec, occupancy))
        return Verdict(blockers=blockers)

    def victims(
        self, spec: ModelSpec, occupancy: Occupancy, closed: frozenset[ModelId]
    ) -> tuple[ModelId, ...]:
        """Return all blockers once all are idle, and a closed one as soon as it is idle.

        While one is busy, stopping its idle neighbour would gain nothing.
        """
        staying = [each for each in _in_the_way(spec, occupancy) if not each.leaving]
        idle = [each.model for each in staying if is_idle(each, closed)]
        if len(idle) == len(staying):
            return tuple(idle)
        return tuple(model for model in idle if model in closed)


def _in_the_way(spec: ModelSpec, occupancy: Occupancy) -> Iterator[Resident]:
    """Yield the residents of groups other than that of *spec*."""
    if spec.keep_loaded:
        return
    for resident in occupancy.residents:
        if not resident.spec.keep_loaded and resident.spec.group_key != spec.group_key:
            yield resident


def most_instances(models: Iterable[ModelSpec]) -> int:
    """Return how many of *models* can run at the same time: a group, and those kept loaded."""
    groups = Counter(spec.group_key for spec in models if not spec.keep_loaded)
    kept = sum(spec.keep_loaded for spec in models)
    return kept + max(groups.values(), default=0)
