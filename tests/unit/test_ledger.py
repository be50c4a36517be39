"""The ledger: what backends hold, what is being freed, what others hold."""

from __future__ import annotations

from llama_router.core.config.names import ModelId
from llama_router.core.memory.devices import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    DeviceReading,
    MachineReading,
)
from llama_router.core.memory.ledger import FREEING_LIMIT_S, Ledger, NotFreed
from llama_router.core.memory.view import Claims, DeviceState

GPU = DeviceId("nvidia0")
A, B = ModelId("a"), ModelId("b")
NONE: frozenset[ModelId] = frozenset()


class Machine:
    """A ledger and the readings of one GPU of 24,000 MiB and 32,000 MiB of host memory."""

    def __init__(self, *, tells: bool = True, reserve_mib: int = 0) -> None:
        self.ledger = Ledger()
        self.tells = tells
        self.devices = {
            GPU: Device(
                id=GPU, kind=DeviceKind.NVIDIA, capacity_mib=24000, reserve_mib=reserve_mib
            ),
            HOST: Device(id=HOST, kind=DeviceKind.HOST, capacity_mib=32000, reserve_mib=3000),
        }
        self.late: list[NotFreed] = []

    def read(
        self,
        at_s: float,
        used_mib: float,
        claims: dict[ModelId, Claims] | None = None,
        usage: dict[ModelId, dict[DeviceId, float]] | None = None,
        *,
        host_mib: float = 0,
        loading: frozenset[ModelId] = NONE,
        processes: dict[int, float] | None = None,
        names: dict[int, str] | None = None,
        untold: frozenset[ModelId] = NONE,
    ) -> dict[DeviceId, DeviceState]:
        reading = MachineReading(
            at_s=at_s,
            devices=(
                DeviceReading(
                    id=GPU,
                    kind=DeviceKind.NVIDIA,
                    name="",
                    total_mib=24000,
                    used_mib=used_mib,
                    processes=(processes or {}) if self.tells else None,
                ),
                DeviceReading(
                    id=HOST, kind=DeviceKind.HOST, name="", total_mib=32000, used_mib=host_mib
                ),
            ),
            names=names or {},
        )
        states, late = self.ledger.observe(
            reading, self.devices, usage or {}, claims or {}, loading, untold
        )
        self.late += late
        return states


def test_what_no_backend_holds_is_held_by_others() -> None:
    """The driver says what each process holds."""
    machine = Machine()
    states = machine.read(0, 9000, {A: {GPU: 8000}}, {A: {GPU: 6000.0}})
    assert states[GPU].others_mib == 3000
    assert states[GPU].available_mib == 21000


def test_programs_are_named_with_what_they_hold() -> None:
    """Processes of one name count together, largest first; what is small there has no name."""
    held = {11: 1000.0, 12: 2000.0, 13: 4000.0, 14: 900.0, 15: 20.0}
    names = {11: "ComfyUI/main.py", 12: "ComfyUI/main.py", 13: "game", 15: "Xorg"}
    states = Machine().read(0, 7920, processes=held, names=names)
    assert list(states[GPU].programs.items()) == [("game", 4000), ("ComfyUI/main.py", 3000)]
    assert not states[HOST].programs
    assert not Machine(tells=False).read(0, 7920, processes=held, names=names)[GPU].programs


def test_a_backend_in_a_container_holds_what_it_claims() -> None:
    """Its processes are not those that the router started, so none of them is known as its own."""
    machine = Machine()
    claims: dict[ModelId, Claims] = {A: {GPU: 8000}}
    container = {77: 7900.0}
    untold = frozenset({A})

    def others(used_mib: float, at_s: float, *, loading: frozenset[ModelId] = NONE) -> int:
        states = machine.read(
            at_s, used_mib, claims, processes=container, untold=untold, loading=loading
        )
        return states[GPU].others_mib

    assert others(1000, 0, loading=untold) == 0  # how much of that is its own is not known
    assert others(9000, 1) == 1000
    assert others(12000, 2) == 4000
    assert machine.ledger.measured({A: None}) == {}


def test_the_reserve_is_for_others_first() -> None:
    """What they hold within it takes nothing from models."""
    machine = Machine(reserve_mib=2000)
    assert machine.read(0, 1500)[GPU].available_mib == 22000
    assert machine.read(1, 2500)[GPU].available_mib == 21500
    assert machine.read(2, 0, host_mib=2500)[HOST].available_mib == 29000


def test_what_memory_mib_leaves_out_is_for_others_first() -> None:
    """A limit of 10,000 MiB stays 10,000 MiB while others use the other 14,000."""
    machine = Machine()
    machine.devices[GPU] = Device(
        id=GPU, kind=DeviceKind.NVIDIA, capacity_mib=10000, beyond_mib=14000
    )
    assert machine.read(0, 14000)[GPU].available_mib == 10000
    assert machine.read(1, 15000)[GPU].available_mib == 9000


def test_where_a_driver_does_not_tell_the_claims_count() -> None:
    """While a model is loaded, what changes is taken for the model's."""
    machine = Machine(tells=False)
    machine.read(0, 1000)
    claims: dict[ModelId, Claims] = {A: {GPU: 8000}}
    assert machine.read(1, 5000, claims, loading=frozenset({A}))[GPU].others_mib == 1000
    assert machine.read(2, 9000, claims)[GPU].others_mib == 1000
    assert machine.read(3, 12000, claims)[GPU].others_mib == 4000


def test_memory_is_not_free_before_the_driver_says_so() -> None:
    """The process is gone, the memory is still in use: neither free nor another program's."""
    machine = Machine()
    machine.read(0, 9000, {A: {GPU: 8000}}, {A: {GPU: 8000.0}})
    machine.ledger.ended(A, {GPU: 8000}, now_s=1.0)
    assert machine.ledger.is_freeing
    stale = machine.read(0.9, 9000)[GPU]  # read before the process was gone
    assert (stale.freeing_mib, stale.others_mib) == (8000, 1000)
    slow = machine.read(1.5, 6000)[GPU]
    assert (slow.freeing_mib, slow.others_mib) == (5000, 1000)
    free = machine.read(2.0, 1010)[GPU]
    assert (free.freeing_mib, free.available_mib) == (10, 22990)
    assert not machine.ledger.is_freeing


def test_memory_that_is_never_freed_counts_as_held_by_others() -> None:
    """After a time limit, which is reported once."""
    machine = Machine()
    machine.read(0, 8000, {A: {GPU: 8000}}, {A: {GPU: 8000.0}})
    machine.ledger.ended(A, {GPU: 8000}, now_s=1.0)
    machine.read(2.0, 8000)
    assert machine.late == []
    state = machine.read(1.5 + FREEING_LIMIT_S, 8000)[GPU]
    assert machine.late == [NotFreed(GPU, 8000)]
    assert (state.freeing_mib, state.others_mib) == (0, 8000)
    machine.read(20.0, 8000)
    assert len(machine.late) == 1


def test_host_memory_is_free_when_the_process_is_gone() -> None:
    """The kernel takes it back before the parent learns of the exit."""
    machine = Machine()
    machine.read(0, 0, {A: {HOST: 8000}}, {A: {HOST: 8000.0}}, host_mib=9000)
    machine.ledger.ended(A, {HOST: 8000}, now_s=1.0)
    assert not machine.ledger.is_freeing


def test_the_peak_of_a_backend_is_what_it_is_measured_at() -> None:
    """Loading and serving; it is forgotten with the process."""
    machine = Machine()
    for at_s, mib in ((0, 5000.0), (1, 8000.0), (2, 7000.0)):
        machine.read(at_s, mib, {A: {GPU: 6000}}, {A: {GPU: mib}})
    assert machine.ledger.measured({A: None, B: None}) == {A: {GPU: 8000}}
    assert machine.ledger.ended(A, {GPU: 8000}, now_s=3.0) == {GPU: 8000}
    assert machine.ledger.measured({A: None}) == {}


def test_a_device_that_vanished_has_nothing_known_about_it() -> None:
    """Its driver said nothing this time: what it was used for is not invented."""
    machine = Machine()
    reading = MachineReading(at_s=0, devices=(), faults=("the driver hangs",))
    states, _ = machine.ledger.observe(reading, machine.devices, {}, {}, NONE)
    assert states[GPU] == DeviceState(device=machine.devices[GPU])
