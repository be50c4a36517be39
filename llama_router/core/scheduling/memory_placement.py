"""The policy of memory: models stay loaded side by side as long as they fit. Pure.

A model may start if its footprint fits into what every device has left: on one GPU, or split over
several if that costs less than to load again what leaves. Where it does not fit, residents are in
its way: those that are worth least, and no more of them than necessary.

The value of a resident is what it costs to load it again, times how often it was granted lately.
It rises by grants only, and a resident in the way of a waiting model is granted no more after its
dwell time. So the choice stays the same while a model waits, and the wait is bounded.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import ClassVar, Final

import attrs

from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..memory.devices import DeviceId
from ..memory.view import Claims, DeviceState, MemoryView
from . import memory_sentences as sentences
from .lifecycle import Phase
from .memory_ways import lacks_device, shrunk, split_over, usable_gpus, ways_of, with_share
from .placement import Obstacle, Occupancy, Resident, Verdict, is_idle

#: Assumed speed of a load whose duration is not known, in MiB per second.
_LOAD_MIB_S: Final = 1000.0

#: Shortest duration of a load that is counted, in seconds.
_MIN_LOAD_S: Final = 0.05

#: What it costs to split a model that fits one GPU, in loads of it: each further GPU holds buffers,
#: and has no place for a model that needs a whole one. Residents that are requested seldom are
#: worth less, and leave instead.
_SPLIT_LOADS: Final = 2.0


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
        if lacks_device(spec, occupancy.memory):
            reason = sentences.why_no_device(spec, occupancy.memory)
            return Verdict(obstacle=Obstacle.NO_DEVICE, reason=reason)
        if not (ways := ways_of(spec, occupancy.memory)):
            return Verdict(
                obstacle=Obstacle.TOO_LARGE, reason=sentences.why_too_large(spec, occupancy.memory)
            )
        plan = _best(spec, ways, occupancy, _may_leave_some_time)
        plan = plan or _shrunk(spec, occupancy, _may_leave_some_time)
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

        ways = ways_of(spec, occupancy.memory)
        plan = _best(spec, ways, occupancy, may_leave_now)
        if plan is not None:
            return tuple(each.model for each in plan.leaving if not each.leaving)
        plan = _best(spec, ways, occupancy, _may_leave_some_time)
        if plan is None and (plan := _shrunk(spec, occupancy, may_leave_now)) is not None:
            return tuple(each.model for each in plan.leaving if not each.leaving)
        plan = plan or _shrunk(spec, occupancy, _may_leave_some_time)
        if plan is None:
            return ()
        return tuple(
            each.model
            for each in plan.leaving
            if not each.leaving and each.model in closed and may_leave_now(each)
        )


def _may_leave_some_time(resident: Resident) -> bool:
    return not resident.spec.keep_loaded


# -- the choice ---------------------------------------------------------------------------


_Valued = tuple[float, ModelId, Resident]
"""A resident with what would be lost with it. Sorted, those that are worth least come first."""


@attrs.frozen
class _Moment:
    """What a start finds.

    Attributes:
        apart: Residents that have to be gone for it in any case.
        apart_cost: Sum of their values.
        free: What is left of each device beside all others, when everything is freed that is
            being freed: the residents in the way are those that are left then.
        freeing: How much of it is not free yet.
        ranked: The residents on each device that may leave, those that are worth least first.
        freed: What is free of each device in addition, with the first of them gone, with the
            first two, and so on.
    """

    apart: tuple[Resident, ...]
    apart_cost: float
    free: dict[DeviceId, int]
    freeing: dict[DeviceId, int]
    ranked: dict[DeviceId, list[_Valued]]
    freed: dict[DeviceId, list[int]]


def _moment(
    spec: ModelSpec, occupancy: Occupancy, may_leave: Callable[[Resident], bool]
) -> _Moment | None:
    """Return what the start of a model finds; None if one must be gone that may not leave."""
    memory = occupancy.memory
    alone = memory.runs_alone(spec)
    if may_leave is not _may_leave_some_time:
        return _look_around(occupancy, may_leave, alone=alone)
    if alone not in occupancy.memo:
        occupancy.memo[alone] = _look_around(occupancy, may_leave, alone=alone)
    found: _Moment | None = occupancy.memo[alone]
    return found


def _look_around(
    occupancy: Occupancy, may_leave: Callable[[Resident], bool], *, alone: bool
) -> _Moment | None:
    memory = occupancy.memory
    soon, freeing = _rooms(memory)
    free = soon.copy()
    ranked: dict[DeviceId, list[_Valued]] = {name: [] for name in free}
    apart: list[Resident] = []
    for each in occupancy.residents:
        if not each.spec.keep_loaded and (alone or memory.runs_alone(each.spec)):
            if not may_leave(each):
                return None
            apart.append(each)
            continue
        valued = (value_of(each), each.model, each) if may_leave(each) else None
        for name, mib in each.claims.items():
            if name in free:
                free[name] -= mib
                if valued is not None:
                    ranked[name].append(valued)
    for some in ranked.values():
        some.sort(key=_order)
    freed = {
        name: [*accumulate(each.claims[name] for _, _, each in some)]
        for name, some in ranked.items()
    }
    return _Moment(tuple(apart), sum(map(value_of, apart)), free, freeing, ranked, freed)


def _rooms(memory: MemoryView) -> tuple[dict[DeviceId, int], dict[DeviceId, int]]:
    """Return what models may take of each device soon, and how much of that is not free yet."""
    if (known := memory.memo.get(_rooms)) is None:
        states = memory.devices.items()
        soon = {name: state.soon_mib for name, state in states}
        known = memory.memo[_rooms] = (
            soon,
            {name: soon[name] - state.available_mib for name, state in states},
        )
    found: tuple[dict[DeviceId, int], dict[DeviceId, int]] = known
    return found


def _order(valued: _Valued) -> tuple[float, ModelId]:
    return valued[:2]


def _best(
    spec: ModelSpec,
    ways: Sequence[Claims],
    occupancy: Occupancy,
    may_leave: Callable[[Resident], bool],
) -> _Plan | None:
    """Return the way that costs least, and of those the tightest one; None if there is none."""
    moment = _moment(spec, occupancy, may_leave)
    if moment is None:
        return None
    best: _Plan | None = None
    for claims in ways:
        plan = _with_room(claims, moment, occupancy.memory, best)
        best = plan or best
    if best is not None and not best.cost:
        return best
    limit = math.inf if best is None else best.cost
    return _split(spec, occupancy.memory, moment, limit) or best


def _split(spec: ModelSpec, memory: MemoryView, moment: _Moment, limit: float) -> _Plan | None:
    """Return the cheapest way to split a model over what is left on several GPUs.

    Args:
        spec: Its settings.
        memory: The devices, and what models take.
        moment: What it finds.
        limit: What the way must cost less than.
    """
    footprint = memory.footprints[spec.id]
    split_cost = _SPLIT_LOADS * _load_s(memory.load_s.get(spec.id, 0.0), footprint.gpu_mib)
    cost = split_cost + moment.apart_cost
    if cost >= limit or not footprint.gpu_mib:
        return None
    room = {state.device.id: moment.free[state.device.id] for state in usable_gpus(spec, memory)}
    if len(room) < 2:
        return None
    share = split_over(footprint, room)
    if share is None:
        there = {valued[1]: valued for name in room for valued in moment.ranked[name]}
        for value, _, each in sorted(there.values(), key=_order):
            cost += value
            if cost >= limit:
                return None
            for name, mib in each.claims.items():
                if name in room:
                    room[name] += mib
            if (share := split_over(footprint, room)) is not None:
                break
        else:
            return None
    plan = _with_room(with_share(spec, share, memory), moment, memory, None)
    return plan if plan is not None and plan.cost + split_cost < limit else None


def _shrunk(
    spec: ModelSpec, occupancy: Occupancy, may_leave: Callable[[Resident], bool]
) -> _Plan | None:
    """Return the way of a model that llama.cpp fits into what is left if all leave that may.

    That is for a model that does not fit beside others in full: beside kept models and other
    programs.
    """
    memory = occupancy.memory
    if not memory.footprints[spec.id].shrinks:
        return None
    moment = _moment(spec, occupancy, may_leave)
    if moment is None:
        return None
    room = {
        name: mib + sum(each.claims[name] for _, _, each in moment.ranked[name])
        for name, mib in moment.free.items()
    }
    claims = shrunk(spec, memory, room)
    return None if claims is None else _with_room(claims, moment, memory, None)


def value_of(resident: Resident) -> float:
    """Return what would be lost with a resident: the duration of its load times its demand.

    One that leaves anyway is worth nothing; one that is being loaded is worth more than any
    other, because it has not served yet.
    """
    if resident.leaving:
        return 0.0
    if resident.phase is Phase.STARTING:
        return math.inf
    load_s = _load_s(resident.load_s, sum(resident.claims.values()))
    return load_s * (1.0 + resident.demand)


def _load_s(known_s: float, mib: int) -> float:
    """Return how long a load takes: as the last one did, else by its size."""
    return max(known_s or mib / _LOAD_MIB_S, _MIN_LOAD_S)


def _with_room(
    claims: Claims, moment: _Moment, memory: MemoryView, rival: _Plan | None
) -> _Plan | None:
    """Return the plan for one way; None if not even all that may leave make room for it.

    None, too, if it is no better than *rival*.
    """
    limit = math.inf if rival is None else rival.cost
    free = moment.free
    if any(mib > free[n] and _costs_more(n, mib, moment, limit) for n, mib in claims.items()):
        return None
    left = {name: free[name] - mib for name, mib in claims.items()}
    leaving = _first_to_leave(moment, left)
    if len(leaving) > 1:  # a large one may have sufficed
        _spare(leaving, left)
    cost = moment.apart_cost + sum(value for value, _, _ in leaving.values())
    if cost > limit:
        return None
    plan = _Plan(
        claims=claims,
        leaving=(*moment.apart, *(each for _, _, each in leaving.values())),
        cost=cost,
        left_mib=sum(mib for name, mib in left.items() if memory.devices[name].device.is_gpu),
        is_free=all(mib <= free[n] - moment.freeing[n] for n, mib in claims.items()),
    )
    return plan if rival is None or _rank(plan) < _rank(rival) else None


def _costs_more(name: DeviceId, mib: int, moment: _Moment, limit: float) -> bool:
    """Return whether it costs more than *limit* to have so much of a device, or cannot be had.

    All residents that are worth less than a certain one do not suffice, so it costs that one.
    """
    last = bisect_left(moment.freed[name], mib - moment.free[name])
    ranked = moment.ranked[name]
    return last == len(ranked) or moment.apart_cost + ranked[last][0] > limit


def _first_to_leave(moment: _Moment, left: dict[DeviceId, int]) -> dict[ModelId, _Valued]:
    """Return the residents that are worth least on devices of which too little is left.

    Args:
        moment: They suffice.
        left: What is left of each device; what they hold is added.
    """
    leaving: dict[ModelId, _Valued] = {}
    for name in tuple(left):
        for valued in moment.ranked[name]:
            if left[name] >= 0:
                break
            if valued[1] not in leaving:
                leaving[valued[1]] = valued
                held = valued[2].claims
                for each in left:
                    left[each] += held.get(each, 0)
    return leaving


def _spare(leaving: dict[ModelId, _Valued], left: dict[DeviceId, int]) -> None:
    """Remove the residents that need not leave, those that are worth most first."""
    for valued in sorted(leaving.values(), key=_order, reverse=True):
        held = valued[2].claims
        if not valued[2].leaving and all(held.get(name, 0) <= mib for name, mib in left.items()):
            del leaving[valued[1]]
            for name in left:
                left[name] -= held.get(name, 0)


def _rank(plan: _Plan) -> tuple[float, bool, int]:
    return plan.cost, not plan.is_free, plan.left_mib


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

    if all(lacks(claims, lambda state: state.device.budget_mib) for claims in ways):
        reason = sentences.why_kept_models_prevent_it(spec, ways[0], kept, memory)
        return Verdict(obstacle=Obstacle.KEPT, reason=reason)
    return Verdict(reason=sentences.why_it_waits(spec, ways[0], occupancy))
