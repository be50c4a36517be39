"""All devices of this machine: read together, and none can keep the others from being read.

A driver may hang for ever in the kernel. Each is read on a thread of its own, with a deadline,
and is asked again only when that thread has returned.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from ..core.config.specs import DeviceSpec
from ..core.memory.devices import HOST, DeviceReading, MachineReading
from ..logs.events import log
from ..process.names import name_of
from ..threads import ThreadRefusedError, in_thread
from .drm import find_drm
from .host import HostReader
from .nvidia import NvidiaDriver
from .port import DeviceReader, DriverError, DriverMissingError, DriverReading
from .process_memory import host_footprint_mib
from .simulated import SimulatedReader

#: Seconds for one reading of a driver. They take milliseconds.
READ_TIMEOUT_S: Final = 2.0

#: Seconds between searches for a driver that was missing, or that failed.
FIND_PERIOD_S: Final = 30.0

#: Seconds for which the last reading of a driver stands in for one that failed. A driver that is
#: busy for some seconds must not make models fit nowhere.
STAND_IN_S: Final = 30.0

#: A process that holds this much of a device is worth a name in explanations.
NAMED_MIB: Final = 256.0

#: Seconds to find names: microseconds each, but a process in uninterruptible sleep may hang.
NAMES_TIMEOUT_S: Final = 0.5

Find = Callable[[], DeviceReader | None]
"""Returns what reads the devices of one driver, or None if there are none.

Blocks. Raises `DriverError` or `DriverMissingError` if there are some, and they cannot be read.
"""


@attrs.define(eq=False)
class Driver:
    """One driver: searched for, and read on a thread.

    Attributes:
        name: What people call it, at the beginning of a sentence.
        find: Finds its devices.
        timeout_s: Seconds for one reading.
    """

    name: str
    find: Find
    timeout_s: float = READ_TIMEOUT_S
    _reader: DeviceReader | None = None
    _find_at_s: float = float("-inf")
    _fault: str | None = None
    _missing: str | None = None
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    _hangs: bool = False
    _last: DriverReading = attrs.field(factory=DriverReading)
    _last_s: float = float("-inf")
    _logged: tuple[str, ...] = ()

    async def read(self, backends: frozenset[int]) -> DriverReading:
        """Return what the driver says, in time. A failure is a fault in it."""
        now_s = trio.current_time()
        reading = await self._ask(backends, now_s)
        if isinstance(reading, str):
            stands_in = now_s - self._last_s < STAND_IN_S
            last = self._last if stands_in else DriverReading()
            reading = attrs.evolve(last, faults=(reading,))
        else:
            self._last, self._last_s = reading, now_s
        for fault in reading.faults:
            if fault not in self._logged:
                log.warning("devices.unreadable", reason=fault)
        self._logged = reading.faults
        return reading

    async def _ask(self, backends: frozenset[int], now_s: float) -> DriverReading | str:
        """Return what the driver says, or why it says nothing."""
        silence = f"{self.name} does not answer; its devices are not read until it does"
        if self._hangs and self._limiter.borrowed_tokens:
            return silence
        with trio.move_on_after(self.timeout_s):
            try:
                return await in_thread(
                    self._read, backends, now_s, abandon_on_cancel=True, limiter=self._limiter
                )
            except (DriverError, ThreadRefusedError) as exc:
                return str(exc)
        self._hangs = True
        return silence

    def _read(self, backends: frozenset[int], now_s: float) -> DriverReading:
        """Read the devices; search for them before, if it is time to. On a thread.

        Raises:
            DriverError: if the driver is there and cannot be read.
        """
        if self._reader is None:
            self._reader = self._search(now_s)
        if self._reader is None:
            return DriverReading()
        try:
            return self._reader.read(backends)
        except DriverError:
            if now_s >= self._find_at_s:
                self._reader.close()
                self._reader = None
            raise

    def _search(self, now_s: float) -> DeviceReader | None:
        if now_s >= self._find_at_s:
            self._find_at_s = now_s + FIND_PERIOD_S
            self._fault = None
            try:
                return self.find()
            except DriverMissingError as exc:
                if self._missing is None:
                    log.info("devices.driver_missing", reason=str(exc))
                self._missing = str(exc)
            except DriverError as exc:
                self._fault = str(exc)
        if self._fault is not None:
            raise DriverError(self._fault)
        return None


class Machine:
    """The devices of this machine.

    Args:
        drivers: What reads them, in the order of the result.
    """

    def __init__(self, drivers: Sequence[Driver]) -> None:
        self._drivers = drivers
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._host_mib: Mapping[int, float] = {}
        self._names: dict[int, str] = {}
        self._names_limiter = trio.CapacityLimiter(1)
        self._known: tuple[str, ...] | None = None

    async def read(self, backends: Iterable[int] = ()) -> MachineReading:
        """Return what all drivers say now. Takes milliseconds, or `READ_TIMEOUT_S` if one hangs.

        The last reading of a driver that fails stands in for `STAND_IN_S`, beside its fault.

        Args:
            backends: The processes of all backends; their memory is counted more exactly.
        """
        pids = frozenset(backends)
        readings: dict[int, DriverReading] = {}

        async def read(place: int) -> None:
            readings[place] = await self._drivers[place].read(pids)

        async with self._lock:
            at_s = trio.current_time()
            async with trio.open_nursery() as nursery:
                for place in range(len(self._drivers)):
                    nursery.start_soon(read, place)
        in_order = [readings[place] for place in sorted(readings)]
        self._host_mib = _summed(reading.host_mib for reading in in_order)
        devices = tuple(
            self._with_drivers(device) if device.id == HOST else device
            for reading in in_order
            for device in reading.devices
        )
        self._log(devices)
        await self._find_names(_large(devices) - pids)
        return MachineReading(
            at_s=at_s,
            devices=devices,
            faults=tuple(fault for reading in in_order for fault in reading.faults),
            names=dict(self._names),
        )

    async def host_footprint_mib(
        self, pids: Collection[int], model_files: Collection[str]
    ) -> float:
        """Return what the processes of one backend need of host memory, see `process_memory`.

        What drivers hold for them is that of the last reading.

        Args:
            pids: The processes.
            model_files: Paths of the files that count in full as far as they are mapped.

        Raises:
            ThreadRefusedError: if the system refuses a thread.
        """
        own_mib = await in_thread(
            _footprint_mib, pids, model_files, abandon_on_cancel=True, limiter=self._limiter
        )
        return own_mib + sum(self._host_mib.get(pid, 0.0) for pid in pids)

    def _with_drivers(self, host: DeviceReading) -> DeviceReading:
        """Return host memory with what drivers hold of it for processes."""
        return attrs.evolve(host, processes=_summed((host.processes or {}, self._host_mib)))

    async def _find_names(self, pids: frozenset[int]) -> None:
        """Keep the names of *pids*, and find those of new ones; skip that if a process hangs."""
        self._names = {pid: name for pid, name in self._names.items() if pid in pids}
        new = sorted(pids - self._names.keys())
        if not new or self._names_limiter.borrowed_tokens:
            return
        with trio.move_on_after(NAMES_TIMEOUT_S), suppress(ThreadRefusedError):
            found = await in_thread(
                _names_of, new, abandon_on_cancel=True, limiter=self._names_limiter
            )
            self._names |= found

    def _log(self, devices: tuple[DeviceReading, ...]) -> None:
        """Log all devices whenever there are others than before."""
        known = tuple(f"{each.id}: {each.name} ({each.total_mib:.0f} MiB)" for each in devices)
        if known != self._known:
            self._known = known
            log.info("devices.found", devices=known)


def _footprint_mib(pids: Collection[int], model_files: Collection[str]) -> float:
    """Return the memory of processes. Blocks; files may be behind links, mapped ones are not."""
    return host_footprint_mib(pids, [os.path.realpath(path) for path in model_files])


def _large(devices: Iterable[DeviceReading]) -> frozenset[int]:
    """Return the processes that hold much of a device."""
    return frozenset(
        pid
        for device in devices
        for pid, mib in (device.processes or {}).items()
        if mib >= NAMED_MIB
    )


def _names_of(pids: Iterable[int]) -> dict[int, str]:
    return {pid: name_of(pid) for pid in pids}


def _summed(figures: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """Return the sums of *figures*, process by process."""
    result: dict[int, float] = {}
    for each in figures:
        for pid, mib in each.items():
            result[pid] = result.get(pid, 0.0) + mib
    return result


def this_machine(specs: Callable[[], Mapping[str, DeviceSpec]], state_dir: Path) -> Machine:
    """Return the machine that this router runs on, with the devices that are only simulated.

    Args:
        specs: Returns the tables ``[devices.NAME]`` in force.
        state_dir: The router's state directory.
    """
    simulated = SimulatedReader(specs, state_dir / "simulated")
    return Machine(
        [
            Driver("the kernel", HostReader),
            Driver("NVIDIA's driver", NvidiaDriver().find),
            Driver("the driver of an AMD or Intel GPU", find_drm),
            Driver("the simulation", lambda: simulated),
        ]
    )
