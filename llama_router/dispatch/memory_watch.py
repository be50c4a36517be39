"""Feeds the scheduler with what the devices are used for, while the policy is that of memory.

No driver tells of a change by itself, so the devices are read once per second; and at once when a
backend became ready or ended, and before a decision for which the last reading is too old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import trio

from ..backends.launch_identity import this_machine as identify_machine
from ..backends.launch_plan import all_host_mib
from ..backends.learned_launches import FILE_NAME, LearnedLaunches, read_figures
from ..backends.server_programs import ServerPrograms
from ..core.config.config import Config
from ..core.config.containers import runs_container
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec, Policy
from ..core.memory.devices import HOST, Device, DeviceId, MachineReading
from ..core.memory.fit import within_host
from ..core.memory.ledger import Ledger, NotFreed, Usage
from ..core.memory.placed import placed
from ..core.memory.settings import devices_of
from ..core.memory.view import Claims, MemoryView
from ..core.memory.visibility import DeviceChoice, device_choice
from ..core.scheduling.events import MemoryChanged
from ..core.scheduling.lifecycle import RESIDENT, Phase
from ..devices.machine import Machine, this_machine
from ..errors.backends import BackendError
from ..errors.causes import MEMORY_CAUSES
from ..logs.events import log
from ..process.family import families
from ..threads import ThreadRefusedError, in_thread
from .dispatcher import Dispatcher
from .footprints import Footprints

#: Seconds between two readings.
PERIOD_S: Final = 1.0

#: The same while a driver frees memory that a model waits for.
FREEING_PERIOD_S: Final = 0.1

#: Seconds between two exact measurements of the host memory of one backend: the kernel looks at
#: each of its pages.
EXACT_PERIOD_S: Final = 30.0


class MemoryWatch:
    """Reads the devices, and keeps the ledger.

    Args:
        dispatcher: Gets the readings.
        machine: Reads the devices.
        footprints: Finds out what models take.

    Attributes:
        view: What was known last.
        faults: A sentence for each driver that could not be read.
    """

    def __init__(self, dispatcher: Dispatcher, machine: Machine, footprints: Footprints) -> None:
        self._dispatcher = dispatcher
        self._machine = machine
        self._footprints = footprints
        self._ledger = Ledger()
        self._devices: dict[DeviceId, Device] = {}
        self._warned: frozenset[str] = frozenset()
        self._measured_s: dict[ModelId, float] = {}
        self._seen_ready: frozenset[ModelId] = frozenset()
        self._squeezed: set[ModelId] = set()
        self.view = MemoryView()
        self.faults: tuple[str, ...] = ()

    async def run(self) -> NoReturn:
        """Read the devices until cancelled; wait while the policy is another one."""
        dispatcher = self._dispatcher
        dispatcher.on_end, dispatcher.on_start = self._ended, self._with_devices
        seen = dispatcher.feed.last
        while True:
            if dispatcher.config.scheduler.policy is Policy.MEMORY:
                dispatcher.reading_wanted = trio.Event()
                complete = await self._look()
                period_s = FREEING_PERIOD_S if self._ledger.is_freeing else PERIOD_S
                with trio.move_on_after(period_s if complete else 0):
                    await self._news_after(seen)
            else:
                await dispatcher.feed.wait_after(seen)
            seen = dispatcher.feed.last

    async def devices(self) -> Mapping[DeviceId, Device]:
        """Return the devices that models may use, whatever the policy."""
        config = self._dispatcher.config
        if config.scheduler.policy is Policy.MEMORY and self._devices:
            return self._devices
        reading = await self._machine.read()
        return devices_of(reading, config.devices, config.scheduler.max_models)[0]

    async def _news_after(self, seen: int) -> None:
        """Wait until there is an event after *seen* in the feed, or a reading is wanted."""
        async with trio.open_nursery() as nursery:

            async def wait_for_event() -> None:
                await self._dispatcher.feed.wait_after(seen)
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_event)
            await self._dispatcher.reading_wanted.wait()
            nursery.cancel_scope.cancel()

    async def _look(self) -> bool:
        """Read everything once; return False if more footprints are to be found out."""
        leaders = self._dispatcher.leaders
        try:
            families_of = await in_thread(families, tuple(leaders.values()), abandon_on_cancel=True)
        except ThreadRefusedError:
            return True
        none = frozenset[int]()
        pids = {model: families_of.get(each.pid, none) for model, each in leaders.items()}
        reading = await self._machine.read(none.union(*pids.values()))
        config = self._dispatcher.config
        self._devices, warnings = devices_of(reading, config.devices, config.scheduler.max_models)
        self._warn(warnings)
        self.faults = reading.faults
        await self._measure_exactly(pids)
        complete = await self._footprints.find_some(
            config.local, self._devices, self._dispatcher.wanted()
        )
        self._submit(reading, pids)
        return complete

    async def _measure_exactly(self, pids: Mapping[ModelId, frozenset[int]]) -> None:
        """Measure the host memory of backends that became ready, and of all now and then."""
        now_s = trio.current_time()
        self._measured_s = {m: t for m, t in self._measured_s.items() if m in pids}
        for model, family in pids.items():
            backend = self._dispatcher.backend(model)
            if backend is None or runs_container(backend.spec.spawn.command):
                continue
            if now_s < self._measured_s.get(model, -1e9) + EXACT_PERIOD_S:
                continue
            self._measured_s[model] = now_s
            files = [path for path in (backend.spec.path, backend.spec.mmproj) if path is not None]
            try:
                mib = await self._machine.host_footprint_mib(family, files)
            except ThreadRefusedError:
                continue
            self._ledger.note_peak(model, HOST, mib)

    def _submit(self, reading: MachineReading, pids: Mapping[ModelId, frozenset[int]]) -> None:
        """Feed the scheduler, without a checkpoint between the state it has and the new one."""
        stats = self._dispatcher.local_statistics()
        resident = {m: found for m, found in stats.items() if found.phase in RESIDENT}
        claims = {model: found.claims for model, found in resident.items()}
        loading = frozenset(
            model
            for model, found in resident.items()
            if found.phase is Phase.STARTING or self._was_loading(model, reading.at_s)
        )
        seen = self._seen_ready | frozenset(resident) - loading
        self._seen_ready = seen & frozenset(resident)
        untold = self._contained(resident)
        told = {m: family for m, family in pids.items() if m in resident and m not in untold}
        usage = _usage(reading, told)
        states, late = self._ledger.observe(reading, self._devices, usage, claims, loading, untold)
        for each in late:
            self._report(each)
        measured = {
            model: _at_least(peak, claims[model]) if model in loading else peak
            for model, peak in self._ledger.measured(claims).items()
        }
        for model, peak in measured.items():
            if model not in loading:
                self._note_measured(model, _with_untold(peak, claims[model]))
        self.view = MemoryView(
            devices=states,
            footprints=self._footprints.known(self._dispatcher.config.local, self._devices),
            measured=measured,
            load_s=self._footprints.load_s,
            at_s=trio.current_time(),
        )
        self._dispatcher.submit(MemoryChanged(self.view))

    def _with_devices(self, spec: ModelSpec, claims: Claims) -> ModelSpec:
        """Return the settings with what makes a backend use the GPUs of its claims, and no others.

        Without GPUs, with what makes it fit into its share of host memory. Unless its launch names
        its GPUs itself.
        """
        footprint = self.view.footprints.get(spec.id)
        gpus = [self._devices[name] for name in claims if name in self._devices]
        chosen = [device for device in gpus if device.is_gpu]
        if footprint is None:
            return spec
        if not chosen:
            if not footprint.is_pinned and any(each.is_gpu for each in self._devices.values()):
                return spec  # the fitting would leave as much free of GPUs that it finds, too
            share_mib = claims.get(HOST, 0)
            env = within_host(spec, footprint, share_mib, all_host_mib()) if share_mib else {}
            return placed(spec, DeviceChoice(env=env)) if env else spec
        if footprint.is_pinned:
            return spec
        view = self._footprints.view_of(spec, self._devices)
        is_shrunk = sum(claims[device.id] for device in chosen) < footprint.gpu_mib
        # llama.cpp's fitting reduces nothing where a split is given.
        choice = device_choice(chosen, view, None if is_shrunk else claims)
        if choice.fault is not None:
            log.warning("backend.devices_not_chosen", model=spec.id, reason=choice.fault)
        return placed(spec, choice)

    def _ended(self, model: ModelId, claims: Claims, error: BackendError | None) -> MemoryView:
        """Return what is known now that the backend of *model* is gone.

        One that ran out of memory needs more than it had.
        """
        peak = self._ledger.ended(model, claims, trio.current_time())
        spec = self._dispatcher.config.models.get(model)
        if spec is not None and error is not None and error.cause in MEMORY_CAUSES:
            had = {name: max(mib, peak.get(name, 0)) for name, mib in claims.items()}
            self._footprints.raise_figure(spec, had, self._devices)
        elif spec is not None and peak and model in self._seen_ready - self._squeezed:
            self._footprints.note_measured(spec, _with_untold(peak, claims))
        states = {
            name: self._ledger.with_freeing(state) for name, state in self.view.devices.items()
        }
        self.view = MemoryView(
            devices=states,
            footprints=self._footprints.known(self._dispatcher.config.local, self._devices),
            measured={m: found for m, found in self.view.measured.items() if m != model},
            load_s=self._footprints.load_s,
            at_s=self.view.at_s,
        )
        return self.view

    def _contained(self, models: Iterable[ModelId]) -> frozenset[ModelId]:
        """Return those of *models* that run in containers: the figures of no process are theirs."""
        specs = self._dispatcher.config.models
        return frozenset(
            model
            for model in models
            if (spec := specs.get(model)) is not None and runs_container(spec.spawn.command)
        )

    def _was_loading(self, model: ModelId, at_s: float) -> bool:
        """Return whether a backend that is ready now was not at *at_s*: it held less then."""
        backend = self._dispatcher.backend(model)
        return backend is not None and backend.ready_s > at_s

    def _note_measured(self, model: ModelId, claims: Claims) -> None:
        """Take note of what a model takes, unless it was squeezed: it is to have more next time."""
        backend = self._dispatcher.backend(model)
        if backend is not None and backend.squeezed:
            self._squeezed.add(model)
            return
        self._squeezed.discard(model)
        if (spec := self._dispatcher.config.models.get(model)) is not None:
            self._footprints.note_measured(spec, claims)

    def _warn(self, warnings: list[str]) -> None:
        for warning in warnings:
            if warning not in self._warned:
                log.warning("devices.setting", reason=warning)
        self._warned = frozenset(warnings)

    @staticmethod
    def _report(late: NotFreed) -> None:
        log.warning(
            "memory.not_freed",
            device=late.device,
            mib=late.mib,
            reason="a backend is gone, and the driver does not free what it held; it counts as "
            "held by other programs",
        )


async def read_once(
    config: Config, environ: Mapping[str, str], state_dir: Path
) -> tuple[MemoryView, tuple[str, ...]]:
    """Return what is known of devices and models with nothing loaded, and faults of drivers.

    Args:
        config: The configuration.
        environ: The environment of a router.
        state_dir: Its state directory.
    """
    programs, config = ServerPrograms(environ), config.local
    await programs.ask(config)
    reading = await this_machine(lambda: config.devices, state_dir).read()
    devices, warnings = devices_of(reading, config.devices, config.scheduler.max_models)
    machine_id = await in_thread(identify_machine)
    figures = await in_thread(
        partial(read_figures, state_dir / FILE_NAME, machine_id, keep_broken=True)
    )
    learned = LearnedLaunches(None, machine_id, figures, lambda write: write())
    await learned.find_launches(config)
    footprints = Footprints(environ, programs.devices_of, learned)
    while not await footprints.find_some(config, devices, ()):
        pass
    states, _ = Ledger().observe(reading, devices, {}, {}, frozenset())
    view = MemoryView(devices=states, footprints=footprints.known(config, devices))
    return view, (*reading.faults, *warnings)


def _usage(reading: MachineReading, pids: Mapping[ModelId, frozenset[int]]) -> Usage:
    """Return what each backend holds now, on the devices whose driver tells."""
    told = [device for device in reading.devices if device.processes is not None]
    return {
        model: {
            device.id: sum(device.processes.get(pid, 0.0) for pid in family)
            for device in told
            if device.processes is not None
        }
        for model, family in pids.items()
    }


def _at_least(peak: Claims, claims: Claims) -> Claims:
    """Return what was measured of a model that loads: it will take what it claims, or more."""
    names = peak.keys() | claims.keys()
    return {name: max(peak.get(name, 0), claims.get(name, 0)) for name in names}


def _with_untold(peak: Claims, claims: Claims) -> Claims:
    """Return what was measured; of devices whose driver does not tell, the claim."""
    return {**claims, **peak}
