"""Sentences about memory: what a model needs, and what holds it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ..config.specs import ModelSpec
from ..memory.devices import HOST, DeviceId, DeviceKind
from ..memory.view import Claims, DeviceState, MemoryView
from .placement import Occupancy, Resident

#: Most models, and most other programs, that one sentence names for a device.
_MOST_NAMED: Final = 3

#: What other programs hold beside those with a name is said from this size on.
_WORTH_SAYING_MIB: Final = 256


def why_it_waits(
    spec: ModelSpec, claims: Claims, occupancy: Occupancy, in_the_way: Sequence[Resident] = ()
) -> str:
    """Return why a model has to wait: what it needs, and what holds that.

    Args:
        spec: Its settings.
        claims: What it would take.
        occupancy: The moment.
        in_the_way: The residents that have to leave for it. Without any, all of them are named.
    """
    memory = occupancy.memory
    needs = f"model {str(spec.id)!r} needs {said(claims, memory)}"
    short = [
        name
        for name, mib in claims.items()
        if mib > memory.devices[name].available_mib - _taken_mib(name, occupancy.residents)
    ]
    named = in_the_way or occupancy.residents
    held = [(name, _holders(memory.devices[name], named)) for name in short]
    parts = [f"{name} is held by {_listed(each)}" for name, each in held if each]
    if not parts and in_the_way:
        return _why_alone(spec, in_the_way, memory)
    return f"{'; '.join((needs, *parts))}."


def _why_alone(spec: ModelSpec, in_the_way: Sequence[Resident], memory: MemoryView) -> str:
    """Return why a model does not run beside others, although all of them would fit."""
    alone = next((each.spec for each in in_the_way if memory.runs_alone(each.spec)), spec)
    why = (
        "is set to run alone (exclusive)"
        if alone.exclusive
        else "runs alone until it is known how much memory it takes"
    )
    return f"model {str(alone.id)!r} {why}."


def why_kept_models_prevent_it(
    spec: ModelSpec, claims: Claims, kept: Sequence[Resident], memory: MemoryView
) -> str:
    """Return why a model does not fit beside the models that are kept loaded, without a stop."""
    names = ", ".join(sorted(repr(str(each.model)) for each in kept))
    held = [(name, _holders(memory.devices[name], kept)) for name in claims]
    parts = (f"{name} is held by {_listed(each)}" for name, each in held if each)
    needs = "; ".join((f"it needs {said(claims, memory)}", *parts))
    return (
        f"model {str(spec.id)!r} does not fit beside the models that are kept loaded ({names}): "
        f"{needs}"
    )


def why_no_device(spec: ModelSpec, memory: MemoryView) -> str:
    """Return why a model cannot be placed that names its devices, without a stop."""
    there = ", ".join(memory.devices) or "none"
    return (
        f"model {str(spec.id)!r} may be on {' or '.join(spec.devices)} only (devices), and there "
        f"is no such GPU (found: {there})"
    )


def why_too_large(spec: ModelSpec, memory: MemoryView) -> str:
    """Return why a model fits nowhere, without a stop."""
    footprint = memory.footprints[spec.id]
    needs = {HOST: footprint.host_mib, **footprint.fixed_mib}
    needs |= {DeviceId(name): units for name, units in spec.needs.items()}
    wanted = [
        f"{_said_amount(name, mib, memory)} of {name}"
        for name, mib in needs.items()
        if mib and name in memory.devices and mib > memory.devices[name].device.budget_mib
    ]
    if footprint.gpu_mib and not wanted:
        wanted = [f"{said_mib(footprint.gpu_mib)} of GPU memory"]
    budgets = ", ".join(
        f"{name} {_said_amount(name, state.device.budget_mib, memory)}"
        for name, state in memory.devices.items()
    )
    return (
        f"model {str(spec.id)!r} needs {' and '.join(wanted)} ({footprint.source}), more than "
        f"models may take here: {budgets}"
    )


def holders_of(
    names: Iterable[DeviceId],
    residents: Sequence[Resident],
    memory: MemoryView,
    *,
    anonymous: bool,
) -> str:
    """Return what holds the memory of devices, in words; empty if nothing does.

    Args:
        names: The devices.
        residents: The models that are loaded.
        memory: The devices, and what other programs hold.
        anonymous: Leave out the names of models and programs.
    """
    found = (
        (name, _holders(state, residents, anonymous=anonymous))
        for name in names
        if (state := memory.devices.get(name)) is not None and _is_memory(memory, name)
    )
    return "; ".join(f"{name} was held by {_listed(each)}" for name, each in found if each)


def _holders(
    state: DeviceState, residents: Sequence[Resident], *, anonymous: bool = False
) -> list[str]:
    """Return what holds a device: models, programs, and what is being freed."""
    name = state.device.id
    models = [(f"model {str(each.model)!r}", each.claims.get(name, 0)) for each in residents]
    models = sorted((pair for pair in models if pair[1]), key=_amount, reverse=True)
    programs = _programs(state)
    if anonymous:
        models = [("other models", sum(map(_amount, models)))] if models else []
        programs = [("other programs", state.others_mib)] if programs else []
    elif len(models) > _MOST_NAMED:
        rest = models[_MOST_NAMED:]
        models[_MOST_NAMED:] = [(f"{len(rest)} more models", sum(map(_amount, rest)))]
    is_pool = state.device.kind is DeviceKind.POOL
    held = [
        f"{holder} ({mib if is_pool else said_mib(mib)})" for holder, mib in (*models, *programs)
    ]
    if state.freeing_mib:
        held.append(f"an ended backend ({said_mib(state.freeing_mib)}, being freed)")
    return held


def _programs(state: DeviceState) -> list[tuple[str, int]]:
    """Return what other programs hold of a device, if that is more than is left to them."""
    if not state.others_mib:
        return []
    named = list(state.programs.items())[:_MOST_NAMED]
    rest_mib = state.others_mib - sum(map(_amount, named))
    if not named or rest_mib >= _WORTH_SAYING_MIB:
        named.append(("other programs", rest_mib))
    return named


def _amount(pair: tuple[str, int]) -> int:
    return pair[1]


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _taken_mib(name: DeviceId, residents: Iterable[Resident]) -> int:
    return sum(each.claims.get(name, 0) for each in residents)


def said(claims: Claims, memory: MemoryView) -> str:
    """Return claims as words: ``4.2 GiB of nvidia0 and 300 MiB of host``."""
    parts = [f"{_said_amount(name, mib, memory)} of {name}" for name, mib in claims.items()]
    return " and ".join(parts) or "nothing"


def _said_amount(name: DeviceId, mib: int, memory: MemoryView) -> str:
    return said_mib(mib) if _is_memory(memory, name) else str(mib)


def _is_memory(memory: MemoryView, name: DeviceId) -> bool:
    state = memory.devices.get(name)
    return state is None or state.device.kind is not DeviceKind.POOL


def said_mib(mib: float) -> str:
    """Return an amount of memory as words."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
