"""NVIDIA's GPUs, as a library that stands for NVML tells about them."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from llama_router.core.memory.devices import DeviceKind
from llama_router.devices.nvidia import NvidiaDriver, load_nvml
from llama_router.devices.port import DriverError, DriverMissingError, DriverReading

# An environment that was made before nvidia-ml-py became a dependency lacks it.
pynvml = pytest.importorskip("pynvml")

MIB = 2**20


@attrs.define(eq=False)
class Gpu:
    """One GPU of `Nvml`; *error* is what every question about it is answered with."""

    uuid: str
    computing: dict[int, int | None] = attrs.field(factory=dict)
    drawing: dict[int, int | None] = attrs.field(factory=dict)
    divided: bool | None = None
    has_memory: bool = True
    error: int | None = None


class Nvml:
    """What the module pynvml does with these GPUs."""

    def __init__(self, *gpus: Gpu, init_error: int | None = None, is_old: bool = False) -> None:
        self.gpus = list(gpus)
        self.error = init_error
        self.is_old = is_old
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def fail(self, error: int | None) -> None:
        if error is not None:
            raise pynvml.NVMLError(error)

    def nvmlInit(self) -> None:  # noqa: N802 -- NVML
        self.fail(self.error)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 -- NVML
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 -- NVML
        self.fail(self.error)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:  # noqa: N802 -- NVML
        self.fail(self.gpus[index].error)
        return self.gpus[index]

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:  # noqa: N802 -- NVML
        return gpu.uuid

    def nvmlDeviceGetName(self, _: Gpu) -> str:  # noqa: N802 -- NVML
        return "NVIDIA GeForce RTX 4090"

    def nvmlDeviceGetMigMode(self, gpu: Gpu) -> list[int]:  # noqa: N802 -- NVML
        self.fail(pynvml.NVML_ERROR_NOT_SUPPORTED if gpu.divided is None else None)
        return [int(bool(gpu.divided)), 0]

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu, version: int | None = None) -> Any:  # noqa: N802 -- NVML
        self.fail(None if gpu.has_memory else pynvml.NVML_ERROR_NOT_SUPPORTED)
        if version is None:
            return SimpleNamespace(total=24564 * MIB, used=1364 * MIB)
        self.fail(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND if self.is_old else None)
        assert version == pynvml.nvmlMemory_v2
        return SimpleNamespace(total=24564 * MIB, reserved=364 * MIB, used=1000 * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, gpu: Gpu) -> list[Any]:  # noqa: N802 -- NVML
        if self.is_old:
            raise pynvml.NVMLLibraryMismatchError("use another version")
        return processes(gpu.computing)

    def nvmlDeviceGetGraphicsRunningProcesses(self, gpu: Gpu) -> list[Any]:  # noqa: N802 -- NVML
        return processes(gpu.drawing)

    def nvmlDeviceGetMPSComputeRunningProcesses(self, _: Gpu) -> list[Any]:  # noqa: N802 -- NVML
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def processes(mib: dict[int, int | None]) -> list[Any]:
    return [
        SimpleNamespace(pid=pid, usedGpuMemory=None if held is None else held * MIB)
        for pid, held in mib.items()
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with NVIDIA's driver, outside of any container."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    return tmp_path


@pytest.fixture
def read(root: Path) -> Callable[[Nvml], DriverReading]:
    """A function that finds and reads GPUs."""

    def read(nvml: Nvml) -> DriverReading:
        reader = NvidiaDriver(root, lambda: nvml).find()
        assert reader is not None
        return reader.read(frozenset())

    return read


def test_a_gpu_is_chosen_by_its_uuid(read) -> None:
    """The driver's own part belongs neither to the memory nor to what is used of it."""
    (gpu,) = read(Nvml(Gpu("GPU-a"))).devices
    assert (gpu.id, gpu.kind, gpu.selector) == ("nvidia0", DeviceKind.NVIDIA, "GPU-a")
    assert gpu.name == "NVIDIA GeForce RTX 4090"
    assert (gpu.total_mib, gpu.used_mib, gpu.processes) == (24200, 1000, {})


def test_processes_that_compute_and_draw_count_once(read) -> None:
    """Each list has all of their memory."""
    (gpu,) = read(Nvml(Gpu("GPU-a", computing={10: 500, 11: 20}, drawing={11: 20, 12: 90}))).devices
    assert gpu.processes == {10: 500, 11: 20, 12: 90}


def test_a_driver_may_not_tell_what_processes_hold(read) -> None:
    """As in WSL."""
    (gpu,) = read(Nvml(Gpu("GPU-a", computing={10: None}))).devices
    assert gpu.processes is None


def test_in_a_container_the_ids_of_processes_mean_nothing(root: Path, read) -> None:
    """The driver has the ids of the machine, which are other processes here, or none."""
    (root / "proc/self/ns/pid").unlink()
    (root / "proc/self/ns/pid").symlink_to("pid:[4026532711]")
    (gpu,) = read(Nvml(Gpu("GPU-a", computing={10: 500}))).devices
    assert gpu.processes is None


def test_an_old_driver_is_read_as_far_as_it_tells(read) -> None:
    """It has no figure for its own part, and none for processes in this form."""
    (gpu,) = read(Nvml(Gpu("GPU-a"), is_old=True)).devices
    assert (gpu.total_mib, gpu.used_mib, gpu.processes) == (24564, 1364, None)


def test_a_divided_gpu_is_left_alone(read) -> None:
    """A sentence names it; the others are used."""
    reading = read(Nvml(Gpu("GPU-a", divided=True), Gpu("GPU-b", divided=False)))
    assert [gpu.id for gpu in reading.devices] == ["nvidia1"]
    assert "nvidia0 (NVIDIA GeForce RTX 4090) is divided" in reading.faults[0]


def test_a_gpu_without_memory_of_its_own_is_no_device(read) -> None:
    """It uses the memory of the machine, where its processes count; that is no fault."""
    reading = read(Nvml(Gpu("GPU-a", has_memory=False, computing={10: 500})))
    assert reading == DriverReading(host_mib={10: 500})


def test_a_lost_gpu_costs_only_itself(root: Path) -> None:
    """It is named as it was; the others keep their names, also when their places change."""
    nvml = Nvml(Gpu("GPU-a"), Gpu("GPU-b"))
    driver = NvidiaDriver(root, lambda: nvml)
    reader = driver.find()
    reader.read(frozenset())
    nvml.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    reading = reader.read(frozenset())
    assert [gpu.id for gpu in reading.devices] == ["nvidia1"]
    assert reading.faults[0].startswith("nvidia0 (NVIDIA GeForce RTX 4090) is lost")
    del nvml.gpus[0]
    nvml.gpus += [Gpu("GPU-c"), Gpu("GPU-a")]
    devices = driver.find().read(frozenset()).devices
    assert {gpu.selector: gpu.id for gpu in devices} == {
        "GPU-b": "nvidia1",
        "GPU-c": "nvidia2",
        "GPU-a": "nvidia0",
    }


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart the machine"),
        (pynvml.NVML_ERROR_UNKNOWN, "Unknown"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "Permission"),
    ],
)
def test_a_driver_that_refuses_is_a_fault(read, error: int, words: str) -> None:
    """With its own words, or with what to do."""
    with pytest.raises(DriverError, match=words):
        read(Nvml(Gpu("GPU-a"), init_error=error))


@pytest.mark.parametrize(
    "error",
    [pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_UNINITIALIZED],
)
def test_a_driver_may_fail_later(root: Path, error: int) -> None:
    """For all GPUs, or at the first one: it is to be opened anew."""
    nvml = Nvml(Gpu("GPU-a"), Gpu("GPU-b"))
    reader = NvidiaDriver(root, lambda: nvml).find()
    nvml.gpus[0].error = error
    with pytest.raises(DriverError):
        reader.read(frozenset())
    nvml.gpus[0].error, nvml.error = None, error
    with pytest.raises(DriverError):
        reader.read(frozenset())


def test_if_no_gpu_can_be_read_the_driver_cannot(root: Path) -> None:
    """So that it is opened anew; the sentence still names the GPU."""
    nvml = Nvml(Gpu("GPU-a"))
    reader = NvidiaDriver(root, lambda: nvml).find()
    reader.read(frozenset())
    nvml.gpus[0].error = pynvml.NVML_ERROR_GPU_IS_LOST
    with pytest.raises(DriverError, match="nvidia0"):
        reader.read(frozenset())


def test_the_library_is_given_back(root: Path) -> None:
    """However often it is found and closed."""
    nvml = Nvml(Gpu("GPU-a"))
    reader = NvidiaDriver(root, lambda: nvml).find()
    assert nvml.open == 1
    reader.close()
    assert nvml.open == 0


def test_without_a_driver_nothing_is_imported(tmp_path: Path) -> None:
    """Most machines have none."""
    assert NvidiaDriver(tmp_path, lambda: pytest.fail("imported")).find() is None


def test_a_gpu_without_a_driver_is_said(tmp_path: Path) -> None:
    """An NVIDIA card that another driver has, or none."""
    card = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "vendor").write_text("0x10de\n")
    (card / "class").write_text("0x030000\n")
    with pytest.raises(DriverMissingError, match="not loaded"):
        NvidiaDriver(tmp_path).find()


def test_an_incomplete_driver_is_said(read) -> None:
    """The kernel's part is there, and the library is not."""
    with pytest.raises(DriverMissingError, match=r"libnvidia-ml\.so\.1"):
        read(Nvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))


def test_the_package_has_what_is_used() -> None:
    """The names of the real one; they must not be the fake's invention."""
    used = {name for name in vars(Nvml) if name.startswith("nvml")}
    assert all(hasattr(load_nvml(), name) for name in used)
