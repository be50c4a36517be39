"""Ledger: who holds what of each device, by what the drivers say one reading after another. Pure.

What a driver says is in use is held by running backends, by backends that ended and whose memory
the driver has not freed yet, or by other programs. The ledger keeps the three apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from ..config.names import ModelId
from .devices import HOST, Device, DeviceId, DeviceKind, DeviceReading, MachineReading
from .view import Claims, DeviceState

#: Time that a driver has to free what a backend held, in seconds. After that, it counts as held
#: by others.
FREEING_LIMIT_S: Final = 10.0

#: Differences that are not held against a driver, in MiB.
_TOLERANCE_MIB: Final = 64.0

Usage = Mapping[ModelId, Mapping[DeviceId, float]]
"""What each backend holds now, in MiB, on the devices whose driver tells."""


@attrs.frozen
class NotFreed:
    """A driver did not free memory in time."""

    device: DeviceId
    mib: int


@attrs.define
class _Freeing:
    """Memory that a driver is to free: how much, and since when, in seconds."""

    mib: float
    since_s: float


class Ledger:
    """Keeps what is known from earlier readings: what others held, what is being freed, peaks."""

    def __init__(self) -> None:
        self._others: dict[DeviceId, float] = {}
        self._freeing: dict[DeviceId, _Freeing] = {}
        self._held: dict[ModelId, dict[DeviceId, float]] = {}
        self._peaks: dict[ModelId, dict[DeviceId, float]] = {}

    @property
    def is_freeing(self) -> bool:
        """True if a driver is to free memory: the next reading should come soon."""
        return bool(self._freeing)

    def measured(self, models: Mapping[ModelId, object]) -> dict[ModelId, Claims]:
        """Return the most that each of *models* was seen to hold since its start."""
        return {
            model: {name: round(mib) for name, mib in self._peaks[model].items()}
            for model in models
            if model in self._peaks
        }

    def note_peak(self, model: ModelId, device: DeviceId, mib: float) -> None:
        """Record what a running backend holds of a device, if that is more than before."""
        peaks = self._peaks.setdefault(model, {})
        peaks[device] = max(mib, peaks.get(device, 0.0))

    def ended(self, model: ModelId, claims: Claims, now_s: float) -> Claims:
        """Record that the backend of a model is gone; return the most that it held.

        The memory of the machine is free when a process is gone; that of other devices when
        their drivers say so.

        Args:
            model: The model.
            claims: What counted as taken by it.
            now_s: Clock time, in seconds.
        """
        held = self._held.pop(model, {})
        for name in claims.keys() | held.keys():
            mib = held.get(name, float(claims.get(name, 0)))
            if name == HOST or name not in self._others or not mib:
                continue
            freeing = self._freeing.setdefault(name, _Freeing(0.0, now_s))
            freeing.mib += mib
            freeing.since_s = now_s
        peaks = self._peaks.pop(model, {})
        return {name: round(mib) for name, mib in peaks.items()}

    def observe(
        self,
        reading: MachineReading,
        devices: Mapping[DeviceId, Device],
        usage: Usage,
        claims: Mapping[ModelId, Claims],
        loading: frozenset[ModelId],
        untold: frozenset[ModelId] = frozenset(),
    ) -> tuple[dict[DeviceId, DeviceState], list[NotFreed]]:
        """Return the state of each device after a reading, and what was not freed in time.

        Args:
            reading: What the drivers say.
            devices: The devices that are used.
            usage: What each backend holds. Where a driver does not tell, its claim counts.
            claims: What counts as taken by each backend.
            loading: Backends that are being loaded: they do not hold their claim yet.
            untold: Backends of which no driver tells what they hold: their processes are those of
                a container.
        """
        used = {each.id: each for each in reading.devices}
        states: dict[DeviceId, DeviceState] = {}
        late: list[NotFreed] = []
        for name, device in devices.items():
            if device.kind is DeviceKind.POOL or name not in used:
                states[name] = DeviceState(device=device)
                continue
            told = used[name].processes is not None or name == HOST
            hidden = untold if told else claims.keys()
            if any(claims.get(model, {}).get(name) for model in loading & hidden):
                # How much of the change is the model's can be said when it is loaded.
                rest_mib = self._others.get(name, 0.0) + self._freeing_mib(name)
            else:
                ours_mib = sum(
                    float(held.get(name, 0))
                    if model in hidden
                    else usage.get(model, {}).get(name, 0.0)
                    for model, held in claims.items()
                )
                rest_mib = max(0.0, used[name].used_mib - ours_mib)
            state = self._state(device, rest_mib, reading.at_s, late)
            programs = _programs(used[name], reading.names)
            states[name] = attrs.evolve(state, programs=programs)
        for model, held in usage.items():
            self._held[model] = dict(held)
            for name, mib in held.items():
                if name != HOST:
                    self.note_peak(model, name, mib)
        return states, late

    def with_freeing(self, state: DeviceState) -> DeviceState:
        """Return the state of a device with what it is to free now, before the next reading."""
        return attrs.evolve(state, freeing_mib=round(self._freeing_mib(state.device.id)))

    def _freeing_mib(self, name: DeviceId) -> float:
        return self._freeing[name].mib if name in self._freeing else 0.0

    def _state(
        self, device: Device, rest_mib: float, at_s: float, late: list[NotFreed]
    ) -> DeviceState:
        """Divide what no running backend holds into what is being freed, and what others hold."""
        name = device.id
        others_mib, freeing_mib = rest_mib, 0.0
        if (freeing := self._freeing.get(name)) is not None:
            if at_s <= freeing.since_s:  # read before the backend was gone
                freeing_mib, others_mib = freeing.mib, self._others.get(name, 0.0)
            else:
                unexplained_mib = rest_mib - self._others.get(name, 0.0)
                freeing_mib = min(freeing.mib, max(0.0, unexplained_mib))
                others_mib = rest_mib - freeing_mib
                freeing.mib = freeing_mib
                if freeing_mib <= _TOLERANCE_MIB:
                    del self._freeing[name]
                elif at_s - freeing.since_s > FREEING_LIMIT_S:
                    late.append(NotFreed(name, round(freeing_mib)))
                    del self._freeing[name]
                    others_mib, freeing_mib = rest_mib, 0.0
        self._others[name] = others_mib
        return DeviceState(
            device=device,
            others_mib=max(0, round(others_mib) - device.reserve_mib - device.beyond_mib),
            freeing_mib=round(freeing_mib),
        )


def _programs(device: DeviceReading, names: Mapping[int, str]) -> dict[str, int]:
    """Return what programs with a name hold of a device, largest first."""
    mib: dict[str, float] = {}
    for pid, each in (device.processes or {}).items():
        if name := names.get(pid):
            mib[name] = mib.get(name, 0.0) + each
    largest = sorted(mib.items(), key=lambda pair: pair[1], reverse=True)
    return {name: round(each) for name, each in largest if each >= _TOLERANCE_MIB}
