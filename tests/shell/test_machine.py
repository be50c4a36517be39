"""All devices of a machine, some of which have faulty drivers."""

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from llama_router.core.config.specs import DeclaredKind, DeviceSpec
from llama_router.core.memory.devices import HOST, DeviceId, DeviceKind, DeviceReading
from llama_router.devices import machine
from llama_router.devices.machine import Driver, Machine, this_machine
from llama_router.devices.port import DriverError, DriverMissingError, DriverReading
from llama_router.process.names import name_of
from tests.events import capture_logs
from tests.limits import LIMIT_S

#: How long a call that hangs is waited for.
SHORT_S = 0.05

#: No process has this id.
NO_PID = 2**22 + 1

GPU = DeviceReading(id=DeviceId("gpu"), kind=DeviceKind.NVIDIA, name="GPU", total_mib=8, used_mib=1)

SILENT = "the driver does not answer; its devices are not read until it does"


@attrs.define(eq=False)
class Reader:
    """A driver with one device, which does what the test wants of it.

    Attributes:
        act: Called by each reading.
        device: What it reads.
        host_mib: Host memory that it holds for processes.
        backends: What the last reading was asked for.
        closed: How often it was given up.
    """

    act: Callable[[], None] = lambda: None
    device: DeviceReading = GPU
    host_mib: dict[int, float] = attrs.field(factory=dict)
    backends: frozenset[int] = frozenset()
    closed: int = 0

    def read(self, backends: frozenset[int]) -> DriverReading:
        self.act()
        self.backends = backends
        return DriverReading(devices=(self.device,), host_mib=self.host_mib)

    def close(self) -> None:
        self.closed += 1


def fail() -> None:
    raise DriverError("the driver fell over")


class Hung:
    """A driver call that returns when the test lets it."""

    def __init__(self) -> None:
        self.calls = 0
        self.called = threading.Event()
        self.returns = threading.Event()

    def __call__(self) -> None:
        self.calls += 1
        self.called.set()
        self.returns.wait()


@pytest.fixture
def hung() -> Iterator[Hung]:
    """A call that hangs until the end of the test."""
    call = Hung()
    yield call
    call.returns.set()


def driver_of(reader: Reader, *, timeout_s: float = LIMIT_S) -> Driver:
    return Driver("the driver", lambda: reader, timeout_s)


def machine_of(reader: Reader, *, timeout_s: float = LIMIT_S) -> Machine:
    """Return a machine with two drivers: one of the test's, and one without faults."""
    return Machine([driver_of(reader, timeout_s=timeout_s), Driver("another", Reader, LIMIT_S)])


async def test_all_devices_are_read_together() -> None:
    """In the order of their drivers, which hear of the backends."""
    reader = Reader()
    before_s = trio.current_time()
    reading = await machine_of(reader).read([4, 7])
    assert [device.id for device in reading.devices] == ["gpu", "gpu"]
    assert before_s <= reading.at_s <= trio.current_time()
    assert reading.faults == ()
    assert reader.backends == {4, 7}


async def test_a_driver_that_hangs_costs_only_its_own_devices(hung: Hung) -> None:
    """The others are read, and a sentence names it."""
    reading = await machine_of(Reader(hung), timeout_s=SHORT_S).read()
    assert len(reading.devices) == 1
    assert reading.faults == (SILENT,)


async def test_a_driver_that_hangs_is_not_called_again(hung: Hung) -> None:
    """No thread is added to the one that hangs, and nobody waits for it again."""
    here = machine_of(Reader(hung), timeout_s=SHORT_S)
    await here.read()
    with trio.fail_after(LIMIT_S):
        for _ in range(20):
            assert (await here.read()).faults == (SILENT,)
    await trio.to_thread.run_sync(hung.called.wait)
    assert hung.calls == 1


async def test_a_driver_that_answers_after_all_is_read_again(hung: Hung) -> None:
    """Its late answer is not used: the next one is."""
    here = machine_of(Reader(hung), timeout_s=SHORT_S)
    await here.read()
    hung.returns.set()
    with trio.fail_after(LIMIT_S):
        while (reading := await here.read()).faults:
            await trio.lowlevel.checkpoint()
    assert len(reading.devices) == 2


async def test_a_reading_can_be_cancelled(hung: Hung) -> None:
    """While its driver hangs; and it keeps nothing that the next one waits for."""
    driver = driver_of(Reader(hung))
    here = Machine([driver])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.read)
        await trio.to_thread.run_sync(hung.called.wait)
        nursery.cancel_scope.cancel()
    driver.timeout_s = SHORT_S
    assert (await here.read()).faults == (SILENT,)


async def test_the_last_reading_stands_in_for_one_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For a while, beside the fault."""
    monkeypatch.setattr(machine, "STAND_IN_S", LIMIT_S)
    reader = Reader()
    here = machine_of(reader)
    first = await here.read()
    reader.act = fail
    second = await here.read()
    assert second.devices == first.devices
    assert second.faults == ("the driver fell over",)


async def test_an_old_reading_stands_in_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known about the devices by then."""
    monkeypatch.setattr(machine, "STAND_IN_S", 0.0)
    reader = Reader()
    here = machine_of(reader)
    await here.read()
    reader.act = fail
    assert len((await here.read()).devices) == 1


async def test_a_driver_that_failed_is_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been loaded anew; what was held of the old one is given back."""
    monkeypatch.setattr(machine, "FIND_PERIOD_S", 0.0)
    readers = [Reader(), Reader(fail)]
    here = Machine([Driver("the driver", readers.pop, LIMIT_S)])
    assert (await here.read()).faults == ("the driver fell over",)
    assert len((await here.read()).devices) == 1


async def test_searches_have_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that cannot be opened costs one attempt per period, and says the same meanwhile."""
    monkeypatch.setattr(machine, "FIND_PERIOD_S", LIMIT_S)
    calls = []

    def find() -> None:
        calls.append(1)
        fail()

    here = Machine([Driver("the driver", find, LIMIT_S)])
    for _ in range(3):
        assert (await here.read()).faults == ("the driver fell over",)
    assert len(calls) == 1


async def test_a_fault_is_logged_once() -> None:
    """And again when it comes back."""
    reader = Reader(fail)
    here = Machine([driver_of(reader)])
    with capture_logs() as logs:
        for act in (fail, fail, lambda: None, fail):
            reader.act = act
            await here.read()
    assert [each["reason"] for each in logs if each["event"] == "devices.unreadable"] == [
        "the driver fell over"
    ] * 2


async def test_a_missing_driver_costs_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no fault, and is searched again without a word."""
    monkeypatch.setattr(machine, "FIND_PERIOD_S", 0.0)

    def find() -> None:
        raise DriverMissingError("a GPU is here, and no driver")

    here = Machine([Driver("the driver", find, LIMIT_S)])
    with capture_logs() as logs:
        for _ in range(3):
            assert (await here.read()).faults == ()
    missing = [each for each in logs if each["event"] == "devices.driver_missing"]
    assert [(each["log_level"], each["reason"]) for each in missing] == [
        ("info", "a GPU is here, and no driver")
    ]


async def test_devices_are_logged_when_they_change() -> None:
    """With names and sizes; use changes all the time, and is not logged."""
    reader = Reader()
    here = Machine([driver_of(reader)])
    with capture_logs() as logs:
        await here.read()
        await here.read()
    found = [each["devices"] for each in logs if each["event"] == "devices.found"]
    assert found == [("gpu: GPU (8 MiB)",)]


async def test_what_drivers_hold_of_host_memory_is_its_processes() -> None:
    """Beside what is their own; and it is in the footprint of a backend."""
    host = DeviceReading(
        id=HOST, kind=DeviceKind.HOST, name="", total_mib=9, used_mib=7, processes={4: 1.0, 5: 2.0}
    )
    gpu = Reader(host_mib={5: 3.0, NO_PID: 4.0})
    here = Machine([Driver("host", lambda: Reader(device=host), LIMIT_S), driver_of(gpu)])
    reading = await here.read()
    assert reading.devices[0].processes == {4: 1.0, 5: 5.0, NO_PID: 4.0}
    assert await here.host_footprint_mib([NO_PID], []) == 4.0


async def test_programs_that_hold_much_are_named() -> None:
    """Those that are no backends, as long as they do."""
    gpu = attrs.evolve(GPU, processes={os.getpid(): 300.0, os.getppid(): 300.0, NO_PID: 1.0})
    reader = Reader(device=gpu)
    here = Machine([driver_of(reader)])
    names = (await here.read([os.getppid()])).names
    assert names == {os.getpid(): name_of(os.getpid())}
    assert names[os.getpid()]
    reader.device = GPU
    assert (await here.read()).names == {}


async def test_this_machine_has_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the simulated GPUs of its configuration."""
    monkeypatch.setattr(machine, "Driver", partial(Driver, timeout_s=LIMIT_S))
    specs = {
        "sim": DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=1000),
        "pool": DeviceSpec(kind=DeclaredKind.POOL, amount=1),
    }
    reading = await this_machine(lambda: specs, tmp_path).read()
    ids = [device.id for device in reading.devices]
    assert ids[0] == HOST
    assert ids[-1] == "sim"
    assert reading.devices[0].total_mib > reading.devices[0].used_mib > 0
