"""Simulated GPUs: what processes write of them counts, as long as they live."""

import os
import subprocess
import sys
from pathlib import Path

from llama_router.core.config.specs import DeclaredKind, DeviceSpec
from llama_router.core.memory.devices import DeviceKind
from llama_router.devices.port import DriverReading
from llama_router.devices.simulated import SimulatedReader

SPECS = {
    "gpu": DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=8000),
    "slots": DeviceSpec(kind=DeclaredKind.POOL, amount=2),
    "nvidia0": DeviceSpec(reserve_mib=0),
}


def read(folder: Path) -> DriverReading:
    return SimulatedReader(lambda: SPECS, folder).read(frozenset())


def test_nothing_is_used_until_a_process_says_so(tmp_path: Path) -> None:
    """Neither the folder nor the file has to be there; only simulated devices are."""
    (device,) = read(tmp_path / "simulated").devices
    assert (device.id, device.kind) == ("gpu", DeviceKind.SIMULATED)
    assert (device.total_mib, device.used_mib, device.processes) == (8000, 0, {})


def test_only_live_processes_hold_memory(tmp_path: Path) -> None:
    """A driver frees what a process held when it ends."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (tmp_path / "gpu.json").write_text(f'{{"{os.getpid()}": 2048, "{gone.pid}": 1.5}}')
    (device,) = read(tmp_path).devices
    assert device.used_mib == 2048
    assert device.processes == {os.getpid(): 2048}


def test_a_file_that_makes_no_sense_is_a_fault(tmp_path: Path) -> None:
    """Of its device, which is not read; the sentence names it."""
    (tmp_path / "gpu.json").write_text('{"4711": "much"}')
    reading = read(tmp_path)
    assert reading.devices == ()
    assert "gpu" in reading.faults[0]
