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
    for share in shares:
        claims = with_share(spec, share, memory)
        if all(mib <= memory.devices[name].device.budget_mib for name, mib in claims.items()):
            yield claims


def usable_gpus(spec: ModelSpec, memory: MemoryView) -> list[DeviceState]:
    """Return the GPUs that a model may be placed on."""
    allowed = spec.devices
    return [
        state
        for name, state in memory.devices.items()
        if state.device.is_gpu and (allowed == "auto" or name in allowed)
    ]


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
    largest = sorted(rooms.items(), key=_room, reverse=True)
    for count in range(2, len(largest) + 1):
        chosen = largest[:count]
        total_mib = footprint.gpu_mib + (count - 1) * footprint.per_gpu_mib + count * layer_mib
        if total_mib <= sum(map(_room, chosen)):
            return _split(total_mib, chosen)
    return None


def _room(pair: tuple[DeviceId, int]) -> int:
    return pair[1]
