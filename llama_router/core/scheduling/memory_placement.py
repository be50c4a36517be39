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
from collections.abc import Callable, Mapping, Sequence
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
        most = math.inf if best is None else best.cost
        plan = _with_room(claims, free, ranked, may_leave, apart, memory, most)
        if plan is not None and (best is None or _rank(plan) < _rank(best)):
            best = plan
    if best is not None and not best.cost:
        return best
    limit = math.inf if best is None else best.cost
    plan = _split(spec, occupancy, may_leave, limit)
    return plan or best


def _rank(plan: _Plan) -> tuple[float, bool, int]:
    return plan.cost, not plan.is_free, plan.left_mib


def _split(
    spec: ModelSpec, occupancy: Occupancy, may_leave: Callable[[Resident], bool], limit: float
) -> _Plan | None:
    """Return the cheapest way to split a model over what is left on several GPUs.

    Args:
        spec: Its settings.
        occupancy: The moment.
        may_leave: Returns whether a resident may leave for it.
        limit: What the way must cost less than.
    """
    memory = occupancy.memory
    footprint = memory.footprints[spec.id]
    gpus = tuple(state.device.id for state in usable_gpus(spec, memory))
    if len(gpus) < 2 or not footprint.gpu_mib:
        return None
    split_cost = _SPLIT_LOADS * _load_s(memory.load_s.get(spec.id, 0.0), footprint.gpu_mib)
    alone = memory.runs_alone(spec)
    apart, free, ranked = _by_value(occupancy, alone=alone)
    cost = split_cost + sum(map(value_of, apart))
    if cost >= limit:
        return None
    room = {name: free[name] for name in gpus}
    share = split_over(footprint, room)
    for value, each in _cheapest(occupancy, gpus, alone=alone):
        if share is not None or cost + value >= limit:
            break
        if may_leave(each):
            cost += value
            for name, mib in each.claims.items():
                if name in room:
                    room[name] += mib
            share = split_over(footprint, room)
    if share is None:
        return None
    plan = _with_room(with_share(spec, share, memory), free, ranked, may_leave, apart, memory)
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
    apart, free, ranked = _by_value(occupancy, alone=memory.runs_alone(spec))
    if not all(map(may_leave, apart)):
        return None
    room = dict(free)
    for name, residents in ranked.items():
        room[name] += sum(each.claims[name] for each in residents if may_leave(each))
    claims = shrunk(spec, memory, room)
    if claims is None:
        return None
    return _with_room(claims, free, ranked, may_leave, apart, memory)


def _cheapest(
    occupancy: Occupancy, gpus: tuple[DeviceId, ...], *, alone: bool
) -> Sequence[tuple[float, Resident]]:
    """Return the residents on *gpus* and their values, those that are worth least first."""
    key = ("cheapest", alone, gpus)
    if (known := occupancy.memo.get(key)) is None:
        _, _, ranked = _by_value(occupancy, alone=alone)
        there = {each.model: each for name in gpus for each in ranked[name]}
        known = [(value_of(each), each) for each in sorted(there.values(), key=_order)]
        occupancy.memo[key] = known
    found: Sequence[tuple[float, Resident]] = known
    return found


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
    load_s = _load_s(resident.load_s, sum(resident.claims.values()))
    return load_s * (1.0 + resident.demand)


def _load_s(known_s: float, mib: int) -> float:
    """Return how long a load takes: as the last one did, else by its size."""
    return max(known_s or mib / _LOAD_MIB_S, _MIN_LOAD_S)


def _with_room(
    claims: Claims,
    free: Mapping[DeviceId, int],
    ranked: Mapping[DeviceId, Sequence[Resident]],
    may_leave: Callable[[Resident], bool],
    apart: Sequence[Resident],
    memory: MemoryView,
    most: float = math.inf,
) -> _Plan | None:
    """Return the plan for one way; None if not even all that may leave make room for it.

    None, too, if it costs more than *most*.
    """
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
    cost = sum(map(value_of, gone))
    if cost > most:
        return None
    left_mib = sum(
        free[name] - mib + sum(each.claims.get(name, 0) for each in leaving.values())
        for name, mib in claims.items()
        if memory.devices[name].device.is_gpu
    )
    return _Plan(
        claims=claims,
        leaving=tuple(gone),
        cost=cost,
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

    if all(lacks(claims, lambda state: state.device.budget_mib) for claims in ways):
        reason = sentences.why_kept_models_prevent_it(spec, ways[0], kept, memory)
        return Verdict(obstacle=Obstacle.KEPT, reason=reason)
    return Verdict(reason=sentences.why_it_waits(spec, ways[0], occupancy))
