"""The ways in which a model can be placed on devices: on one GPU, or split over several. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ..config.specs import ModelSpec
from ..memory.devices import HOST, DeviceId
from ..memory.footprint import Footprint
from ..memory.settings import MAX_MODELS
from ..memory.view import Claims, DeviceState, MemoryView

#: A split is in whole layers, so a GPU may get one more than its share: that part of a model.
_LAYER: Final = 1 / 32


def ways_of(spec: ModelSpec, memory: MemoryView) -> tuple[Claims, ...]:
    """Return the claims with which a model could run if no other one did, the simplest first."""
    known: tuple[ModelSpec, tuple[Claims, ...]] | None = memory.memo.get(spec.id)
    if known is None or known[0] is not spec:
        known = memory.memo[spec.id] = spec, tuple(_find_ways(spec, memory))
    return known[1]


def _find_ways(spec: ModelSpec, memory: MemoryView) -> Iterator[Claims]:
    footprint = memory.footprints[spec.id]
    gpus = usable_gpus(spec, memory)
    shares: Iterable[Claims] = ({},)
    if footprint.gpu_mib:
        shares = _shares(footprint, gpus) if gpus else ({HOST: footprint.gpu_mib},)
    found = False
    for share in shares:
        claims = with_share(spec, share, memory)
        if _fits_budgets(claims, memory):
            found = True
            yield claims
    if not found:
        rooms = {name: state.device.budget_mib for name, state in memory.devices.items()}
        less = shrunk(spec, memory, rooms)
        if less is not None and _fits_budgets(less, memory):
            yield less


def _fits_budgets(claims: Claims, memory: MemoryView) -> bool:
    return all(mib <= memory.devices[name].device.budget_mib for name, mib in claims.items())


def shrunk(spec: ModelSpec, memory: MemoryView, rooms: Mapping[DeviceId, int]) -> Claims | None:
    """Return what a model takes that llama.cpp fits into what is left; None if that is too little.

    It gets less context. Layers stay on GPUs, unless the GPUs are too small for them in any case.

    Args:
        spec: Its settings.
        memory: The devices, and what models take.
        rooms: What is left on each device.
    """
    footprint = memory.footprints[spec.id]
    if footprint.least_gpu_mib is None or footprint.least_host_mib is None:
        return None
    gpus = usable_gpus(spec, memory) if footprint.gpu_mib else []
    if not gpus:
        full_mib = footprint.host_mib + footprint.gpu_mib
        host_mib = min(full_mib, rooms.get(HOST, full_mib))
        if host_mib < footprint.least_host_mib + footprint.least_gpu_mib:
            return None
        return with_share(spec, {HOST: host_mib - footprint.host_mib}, memory)
    names = [state.device.id for state in gpus]
    gpu_mib = sum(max(0, rooms[name]) for name in names)
    if gpu_mib < min(footprint.least_gpu_mib, sum(map(_budget_mib, gpus))):
        return None
    share = {name: max(0, rooms[name]) for name in names}
    moved_mib = max(0, footprint.least_gpu_mib - gpu_mib)
    return with_share(spec, {**share, HOST: moved_mib}, memory)


def usable_gpus(spec: ModelSpec, memory: MemoryView) -> list[DeviceState]:
    """Return the GPUs that a model may be placed on."""
    allowed = spec.devices
    return [
        state
        for name, state in memory.devices.items()
        if state.device.is_gpu and (allowed == "auto" or name in allowed)
    ]


def lacks_device(spec: ModelSpec, memory: MemoryView) -> bool:
    """Return whether a model may be on some GPUs only, and none of them is there."""
    allowed = spec.devices
    if allowed == "auto" or not allowed or HOST in allowed:
        return False
    return not usable_gpus(spec, memory)


def with_share(spec: ModelSpec, share: Claims, memory: MemoryView) -> Claims:
    """Return what a model takes of all devices if it takes *share* of GPUs."""
    footprint = memory.footprints[spec.id]
    always = {HOST: footprint.host_mib, **footprint.fixed_mib, MAX_MODELS: 1}
    always |= {DeviceId(name): units for name, units in spec.needs.items()}
    if spec.keep_loaded:
        del always[MAX_MODELS]
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


def split_over(footprint: Footprint, rooms: Mapping[DeviceId, int]) -> Claims | None:
    """Return the shares of the fewest GPUs over which a model can be split; None if it cannot.

    Args:
        footprint: What it takes.
        rooms: What is left on each GPU.
    """
    layer_mib = math.ceil(footprint.gpu_mib * _LAYER)
    if footprint.gpu_mib + footprint.per_gpu_mib + 2 * layer_mib > sum(
        mib for mib in rooms.values() if mib > 0
    ):
        return None  # with the fewest GPUs it takes least
    largest = sorted(rooms.items(), key=_room, reverse=True)
    for count in range(2, len(largest) + 1):
        chosen = largest[:count]
        total_mib = footprint.gpu_mib + (count - 1) * footprint.per_gpu_mib + count * layer_mib
        if total_mib <= sum(map(_room, chosen)):
            return _split(total_mib, chosen)
    return None


def _room(pair: tuple[DeviceId, int]) -> int:
    return pair[1]
