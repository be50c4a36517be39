"""The policy of memory: models stay loaded side by side as long as they fit. Pure.

A model may start if its footprint fits into what every device has left. Where it does not fit,
residents are in its way: those that are worth least, and no more of them than necessary.

The value of a resident is what it costs to load it again, times how often it was granted lately.
It rises by grants only, and a resident in the way of a waiting model is granted no more after its
dwell time. So the choice stays the same while a model waits, and the wait is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Final

import attrs

from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..memory.devices import HOST, DeviceId
from ..memory.footprint import Footprint
from ..memory.settings import MAX_MODELS
from ..memory.view import Claims, DeviceState, MemoryView
from . import memory_sentences as sentences
from .lifecycle import Phase
from .placement import Obstacle, Occupancy, Resident, Verdict, is_idle

#: Assumed speed of a load whose duration is not known, in MiB per second.
_LOAD_MIB_S: Final = 1000.0

#: Shortest duration of a load that is counted, in seconds.
_MIN_LOAD_S: Final = 0.05


@attrs.frozen(kw_only=True)
class _Plan:
    """A way to start a model.

    Attributes:
        claims: What it would take of each device.
        leaving: Residents that have to be gone first.
        cost: Sum of their values.
        left_mib: What is left on the chosen GPUs, for the best fit.
        is_free: No driver has to free something first.
    """

    claims: Claims
    leaving: tuple[Resident, ...] = ()
    cost: float = 0.0
    left_mib: int = 0
    is_free: bool = True


@attrs.frozen(kw_only=True)
class MemoryPlacement:
    """Models run side by side as long as they fit into the memory of every device.

    Attributes:
        min_residency_s: Seconds for which a ready model is not stopped.
    """

    lookahead: ClassVar[int] = 8

    min_residency_s: float = 0.0

    @classmethod
    def of(cls, config: Config) -> MemoryPlacement:
        """Return the policy of a configuration."""
        return cls(min_residency_s=config.router.min_residency_s)

    def dwell_key(self, spec: ModelSpec) -> str:
        """Return a key of the model's own: each has a dwell time for itself."""
        return f"model:{spec.id}"

    def may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        """Allow it where it fits; else name the residents that are worth least."""
        if spec.id not in occupancy.memory.footprints:
            return Verdict(reason=f"Finding out how much memory model '{spec.id}' takes.")
        key = ("verdict", spec.id)
        if (known := occupancy.memo.get(key)) is None:
            known = occupancy.memo[key] = self._may_start(spec, occupancy)
        verdict: Verdict = known
        return verdict

    def _may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        ways = _ways(spec, occupancy.memory)
        if not ways:
            return Verdict(
                obstacle=Obstacle.TOO_LARGE, reason=sentences.why_too_large(spec, occupancy.memory)
            )
        plan = _best(spec, ways, occupancy, _may_leave_some_time)
        if plan is None:
            return _no_room(spec, ways, occupancy)
        if not plan.leaving:
            reason = "" if plan.is_free else sentences.why_it_waits(spec, plan.claims, occupancy)
            return Verdict(claims=plan.claims, reason=reason)
        guarded_s = (each.ready_since_s + self.min_residency_s for each in plan.leaving)
        return Verdict(
            blockers=tuple(each.model for each in plan.leaving),
            reason=sentences.why_it_waits(spec, plan.claims, occupancy, plan.leaving),
            look_again_s=min((t for t in guarded_s if t > occupancy.now_s), default=math.inf),
            claims=plan.claims,
        )

    def victims(
        self, spec: ModelSpec, occupancy: Occupancy, closed: frozenset[ModelId]
    ) -> tuple[ModelId, ...]:
        """Return the idle models that are worth least, if stopping them is enough.

        Otherwise those in the way that are idle and granted no more.
        """
        if spec.id not in occupancy.memory.footprints:
            return ()
        now = {each.model: each for each in occupancy.residents}

        def may_leave_now(remembered: Resident) -> bool:
            resident = now[remembered.model]
            if resident.spec.keep_loaded:
                return False
            if resident.leaving:
                return True
            guarded = resident.ready_since_s + self.min_residency_s > occupancy.now_s
            return is_idle(resident, closed) and not guarded

        ways = _ways(spec, occupancy.memory)
        plan = _best(spec, ways, occupancy, may_leave_now)
        if plan is not None:
            return tuple(each.model for each in plan.leaving if not each.leaving)
        plan = _best(spec, ways, occupancy, _may_leave_some_time)
        if plan is None:
            return ()
        return tuple(
            each.model
            for each in plan.leaving
            if not each.leaving and each.model in closed and may_leave_now(each)
        )


def _may_leave_some_time(resident: Resident) -> bool:
    return not resident.spec.keep_loaded


# -- ways to place a model ----------------------------------------------------------------


def _ways(spec: ModelSpec, memory: MemoryView) -> tuple[Claims, ...]:
    """Return the claims with which a model could run if no other one did, the simplest first."""
    known: tuple[ModelSpec, tuple[Claims, ...]] | None = memory.memo.get(spec.id)
    if known is None or known[0] is not spec:
        known = memory.memo[spec.id] = spec, tuple(_find_ways(spec, memory))
    return known[1]


def _find_ways(spec: ModelSpec, memory: MemoryView) -> Iterator[Claims]:
    footprint = memory.footprints[spec.id]
    always = {HOST: footprint.host_mib, **footprint.fixed_mib, MAX_MODELS: 1}
    always |= {DeviceId(name): units for name, units in spec.needs.items()}
    if spec.keep_loaded:
        del always[MAX_MODELS]
    gpus = _usable_gpus(spec, memory)
    if footprint.gpu_mib and not gpus:
        always[HOST] += footprint.gpu_mib
    for share in _shares(footprint, gpus) if footprint.gpu_mib and gpus else ({},):
        claims = _added(always, share, memory)
        if all(mib <= memory.devices[name].device.budget_mib for name, mib in claims.items()):
            yield claims


def _usable_gpus(spec: ModelSpec, memory: MemoryView) -> list[DeviceState]:
    allowed = spec.devices
    return [
        state
        for name, state in memory.devices.items()
        if state.device.is_gpu and (allowed == "auto" or name in allowed)
    ]


def _added(
    always: Mapping[DeviceId, int], share: Claims, memory: MemoryView
) -> dict[DeviceId, int]:
    """Return the sum of two claims, without devices that there are not and zeros."""
    names = [*always, *(name for name in share if name not in always)]
    sums = {name: always.get(name, 0) + share.get(name, 0) for name in names}
    return {name: mib for name, mib in sums.items() if mib and name in memory.devices}


def _shares(footprint: Footprint, gpus: Sequence[DeviceState]) -> Iterator[Claims]:
    """Yield the shares of GPUs: each one alone if it is large enough, else the fewest."""
    single = [each for each in gpus if each.device.budget_mib >= footprint.gpu_mib]
    for each in single:
        yield {each.device.id: footprint.gpu_mib}
    if single:
        return
    for by_size in (_budget_mib, _available_mib):
        largest = sorted(gpus, key=by_size, reverse=True)
        for count in range(2, len(gpus) + 1):
            chosen = largest[:count]
            total_mib = footprint.gpu_mib + (count - 1) * footprint.per_gpu_mib
            room_mib = sum(map(by_size, chosen))
            if total_mib <= room_mib:
                yield _split(total_mib, [(each.device.id, by_size(each)) for each in chosen])
                break


def _budget_mib(state: DeviceState) -> int:
    return state.device.budget_mib


def _available_mib(state: DeviceState) -> int:
    return state.available_mib


def _split(total_mib: int, rooms: Sequence[tuple[DeviceId, int]]) -> Claims:
    """Return shares of *total_mib* in proportion to the room on each device."""
    room_mib = sum(room for _, room in rooms)
    return {name: min(room, math.ceil(total_mib * room / room_mib)) for name, room in rooms}


# -- the choice ---------------------------------------------------------------------------


def _best(
    spec: ModelSpec,
    ways: Sequence[Claims],
    occupancy: Occupancy,
    may_leave: Callable[[Resident], bool],
) -> _Plan | None:
    """Return the way that costs least, and of those the tightest one; None if there is none."""
    memory = occupancy.memory
    alone = memory.runs_alone(spec)
    apart, free, ranked = _by_value(occupancy, alone=alone)
    if not all(map(may_leave, apart)):
        return None
    best: _Plan | None = None
    for claims in ways:
        plan = _with_room(claims, free, ranked, may_leave, apart, memory)
        if plan is not None and (best is None or _rank(plan) < _rank(best)):
            best = plan
    return best


def _rank(plan: _Plan) -> tuple[float, bool, int]:
    return plan.cost, not plan.is_free, plan.left_mib


_Found = tuple[list[Resident], dict[DeviceId, int], dict[DeviceId, list[Resident]]]


def _by_value(occupancy: Occupancy, *, alone: bool) -> _Found:
    """Return what a start finds: residents to be gone, room beside the others, those by value.

    Args:
        occupancy: The moment.
        alone: The model must not run beside others.
    """
    if (known := occupancy.memo.get(alone)) is None:
        memory = occupancy.memory
        apart = [
            each
            for each in occupancy.residents
            if not each.spec.keep_loaded and (alone or memory.runs_alone(each.spec))
        ]
        staying = [each for each in occupancy.residents if each not in apart]
        # What is being freed is free soon: the residents in the way are those that are left then.
        free = {name: state.soon_mib for name, state in memory.devices.items()}
        for each in staying:
            for name, mib in each.claims.items():
                if name in free:
                    free[name] -= mib
        ranked: dict[DeviceId, list[Resident]] = {name: [] for name in memory.devices}
        for each in sorted(staying, key=_order):
            for name in each.claims:
                if name in ranked:
                    ranked[name].append(each)
        known = occupancy.memo[alone] = apart, free, ranked
    found: _Found = known
    return found


def _order(resident: Resident) -> tuple[float, ModelId]:
    return value_of(resident), resident.model


def value_of(resident: Resident) -> float:
    """Return what would be lost with a resident: the duration of its load times its demand.

    One that leaves anyway is worth nothing; one that is being loaded is worth more than any
    other, because it has not served yet.
    """
    if resident.leaving:
        return 0.0
    if resident.phase is Phase.STARTING:
        return math.inf
    load_s = resident.load_s or sum(resident.claims.values()) / _LOAD_MIB_S
    return max(load_s, _MIN_LOAD_S) * (1.0 + resident.demand)


def _with_room(
    claims: Claims,
    free: Mapping[DeviceId, int],
    ranked: Mapping[DeviceId, Sequence[Resident]],
    may_leave: Callable[[Resident], bool],
    apart: Sequence[Resident],
    memory: MemoryView,
) -> _Plan | None:
    """Return the plan for one way; None if not even all that may leave make room for it."""
    leaving: dict[ModelId, Resident] = {}
    for name, mib in claims.items():
        lacking = mib - free[name]
        if lacking > 0:
            lacking -= sum(each.claims.get(name, 0) for each in leaving.values())
            for each in ranked[name]:
                if lacking > 0 and each.model not in leaving and may_leave(each):
                    leaving[each.model] = each
                    lacking -= each.claims[name]
        if lacking > 0:
            return None
    if len(leaving) > 1:  # a large one may have sufficed
        for each in sorted(leaving.values(), key=_order, reverse=True):
            if not each.leaving and _suffice(claims, free, leaving, without=each.model):
                del leaving[each.model]
    gone = [*apart, *leaving.values()]
    left_mib = sum(
        free[name] - mib + sum(each.claims.get(name, 0) for each in leaving.values())
        for name, mib in claims.items()
        if memory.devices[name].device.is_gpu
    )
    return _Plan(
        claims=claims,
        leaving=tuple(gone),
        cost=sum(map(value_of, gone)),
        left_mib=left_mib,
        is_free=all(
            mib <= free[name] - (state.soon_mib - state.available_mib)
            for name, mib in claims.items()
            for state in (memory.devices[name],)
        ),
    )


def _suffice(
    claims: Claims,
    free: Mapping[DeviceId, int],
    leaving: Mapping[ModelId, Resident],
    *,
    without: ModelId,
) -> bool:
    """Return whether there is room for *claims* if all that are *leaving* leave, but one."""
    return all(
        mib
        <= free[name]
        + sum(each.claims.get(name, 0) for each in leaving.values() if each.model != without)
        for name, mib in claims.items()
    )


# -- no way --------------------------------------------------------------------------------


def _no_room(spec: ModelSpec, ways: Sequence[Claims], occupancy: Occupancy) -> Verdict:
    """Return why a model cannot start even if all others leave that may."""
    memory = occupancy.memory
    kept = [each for each in occupancy.residents if each.spec.keep_loaded]

    def lacks(claims: Claims, room: Callable[[DeviceState], int]) -> list[DeviceId]:
        return [
            name
            for name, mib in claims.items()
            if mib > room(memory.devices[name]) - sum(each.claims.get(name, 0) for each in kept)
        ]

    if all(lacks(claims, _budget_mib) for claims in ways):
        reason = sentences.why_kept_models_prevent_it(spec, ways[0], kept, memory)
        return Verdict(obstacle=Obstacle.KEPT, reason=reason)
    return Verdict(reason=sentences.why_it_waits(spec, ways[0], occupancy))
