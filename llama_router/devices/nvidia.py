"""NVIDIA's GPUs, by the driver's own library NVML (the package nvidia-ml-py).

Source: NVML API reference (device queries); CUDA C++ programming guide, CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs

from ..core.memory.devices import DeviceId, DeviceKind, DeviceReading
from .pci import display_devices
from .port import DeviceReader, DriverError, DriverMissingError, DriverReading

Nvml = Any
"""The module ``pynvml``, or one that stands for it; it has no types."""

NvmlError = Any
"""Its exception, with the number of the error as ``value``."""

#: Files of which one is there while the driver is loaded. In WSL, Windows has the driver.
_DRIVER_FILES: Final = (
    "dev/nvidiactl",
    "proc/driver/nvidia/version",
    "usr/lib/wsl/lib/libnvidia-ml.so.1",
)

#: NVIDIA's id as a vendor of PCI devices.
_VENDOR: Final = "0x10de"

#: The namespace of process ids that the driver knows. Source: Linux, PROC_PID_INIT_INO.
_FIRST_NAMESPACE: Final = "pid:[4026531836]"

_BYTES_PER_MIB: Final = 2**20


def load_nvml() -> ModuleType:
    """Return the module ``pynvml``. Importing it takes 90 ms, so only where there is a driver."""
    return import_module("pynvml")


@attrs.define(eq=False)
class NvidiaDriver:
    """Finds NVIDIA's GPUs. A GPU keeps its name as long as this exists, whatever else is lost.

    Attributes:
        root: The root of the file system; another one in tests.
        load: Imports NVML.
    """

    root: Path = Path("/")
    load: Callable[[], Nvml] = load_nvml
    _numbers: dict[str, int] = attrs.field(factory=dict)

    def find(self) -> DeviceReader | None:
        """Return what reads them, or None if there are none.

        Raises:
            DriverMissingError: if there is a GPU, and no complete driver.
            DriverError: if the driver refuses.
        """
        if not any((self.root / name).exists() for name in _DRIVER_FILES):
            if display_devices(_VENDOR, self.root):
                raise DriverMissingError(
                    "an NVIDIA GPU is in this machine, and NVIDIA's driver is not loaded: the GPU "
                    "is not used as a device"
                )
            return None
        nvml = self.load()
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            if exc.value in {nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED}:
                raise DriverMissingError(
                    "NVIDIA's driver is not complete, so its GPUs are not used as devices "
                    f"({_words(exc)}); the library libnvidia-ml.so.1 comes with it"
                ) from exc
            raise DriverError(_refusal(nvml, exc)) from exc
        return NvidiaReader(nvml, self._numbers, tells_processes=_sees_all_pids(self.root))


class NvidiaReader:
    """Reads all GPUs by NVML, which is initialized.

    Args:
        nvml: The module ``pynvml``.
        numbers: The number of each GPU by its UUID; new ones are added.
        tells_processes: Whether the process ids of the driver mean anything here.
    """

    def __init__(self, nvml: Nvml, numbers: dict[str, int], *, tells_processes: bool) -> None:
        self._nvml = nvml
        self._numbers = numbers
        self._tells_processes = tells_processes
        #: What was found at each index of NVML, which keeps it until it is initialized anew.
        self._ids: dict[int, str] = {}

    def read(self, backends: frozenset[int]) -> DriverReading:  # noqa: ARG002 -- all are exact
        """Return all GPUs that can be read; a lost or divided one is a fault.

        Raises:
            DriverError: if the driver does not answer, or not for any GPU.
        """
        nvml = self._nvml
        devices: list[DeviceReading] = []
        faults: list[str] = []
        host_mib: dict[int, float] = {}
        try:
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as exc:
            raise DriverError(_refusal(nvml, exc)) from exc
        failed = 0
        for index in range(count):
            try:
                read = self._device(index)
            except nvml.NVMLError as exc:
                read = self._fault(index, exc)
                failed += 1
            if isinstance(read, DeviceReading):
                devices.append(read)
            elif isinstance(read, str):
                faults.append(read)
            else:
                host_mib |= read
        if failed and failed == count:
            raise DriverError("; ".join(faults))
        return DriverReading(devices=tuple(devices), faults=tuple(faults), host_mib=host_mib)

    def close(self) -> None:
        """Give NVML back: a driver that was loaded anew needs another start of it."""
        try:
            self._nvml.nvmlShutdown()
        except self._nvml.NVMLError:
            return

    def _device(self, index: int) -> DeviceReading | str | dict[int, float]:
        """Return the GPU at *index*, or a fault.

        If it has no memory of its own, return what processes hold by it of the machine's.

        Raises:
            NVMLError: if it cannot be read.
        """
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        uuid = nvml.nvmlDeviceGetUUID(handle)
        number = self._numbers.setdefault(uuid, self._number(index))
        name = nvml.nvmlDeviceGetName(handle)
        self._ids[index] = f"nvidia{number} ({name})"
        if self._is_divided(handle):
            return (
                f"{self._ids[index]} is divided into instances (MIG), and the router does not "
                "choose between them: a model runs there if its env names one in "
                "CUDA_VISIBLE_DEVICES, and takes no part in the choice of devices"
            )
        memory = self._memory(handle)
        if memory is None:
            return self._processes(handle) or {}
        total_bytes, used_bytes = memory
        return DeviceReading(
            id=DeviceId(f"nvidia{number}"),
            kind=DeviceKind.NVIDIA,
            name=name,
            selector=uuid,
            total_mib=total_bytes / _BYTES_PER_MIB,
            used_mib=used_bytes / _BYTES_PER_MIB,
            processes=self._processes(handle),
        )

    def _number(self, index: int) -> int:
        """Return *index*, or the first free number if another GPU had that one."""
        taken = set(self._numbers.values())
        return index if index not in taken else max(taken) + 1

    def _is_divided(self, handle: object) -> bool:
        try:
            current, _ = self._nvml.nvmlDeviceGetMigMode(handle)
        except self._nvml.NVMLError:  # most GPUs cannot be
            return False
        return bool(current)

    def _memory(self, handle: object) -> tuple[int, int] | None:
        """Return total and used bytes, without what the driver keeps to itself.

        None for a GPU that uses the memory of the machine.
        """
        nvml = self._nvml
        try:
            try:
                memory = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
            except nvml.NVMLError as exc:
                if exc.value == nvml.NVML_ERROR_NOT_SUPPORTED:
                    raise
                # A driver before 510, which counts its own part as used.
                memory = nvml.nvmlDeviceGetMemoryInfo(handle)
                return memory.total, memory.used
        except nvml.NVMLError as exc:
            if exc.value == nvml.NVML_ERROR_NOT_SUPPORTED:
                return None
            raise
        return memory.total - memory.reserved, memory.used

    def _processes(self, handle: object) -> dict[int, float] | None:
        """Return MiB by process id; None if the driver does not tell."""
        if not self._tells_processes:
            return None
        nvml = self._nvml
        held: dict[int, float] = {}
        for list_processes in (
            nvml.nvmlDeviceGetComputeRunningProcesses,
            nvml.nvmlDeviceGetGraphicsRunningProcesses,
            nvml.nvmlDeviceGetMPSComputeRunningProcesses,
        ):
            try:
                found = list_processes(handle)
            except nvml.NVMLLibraryMismatchError:  # an older driver has another form
                return None
            except nvml.NVMLError:  # this GPU has no list of this sort
                continue
            for process in found:
                if process.usedGpuMemory is None:
                    return None
                # One that computes and draws is in two lists, with the same figure.
                mib = process.usedGpuMemory / _BYTES_PER_MIB
                held[process.pid] = max(held.get(process.pid, 0.0), mib)
        return held

    def _fault(self, index: int, exc: NvmlError) -> str:
        nvml = self._nvml
        name = self._ids.get(index, f"the NVIDIA GPU number {index}")
        if exc.value in {nvml.NVML_ERROR_UNINITIALIZED, nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH}:
            raise DriverError(_refusal(nvml, exc)) from exc
        if exc.value == nvml.NVML_ERROR_GPU_IS_LOST:
            return (
                f"{name} is lost: the driver cannot reach it any more, which usually takes a "
                "restart of the machine; the kernel's log says more (dmesg, Xid)"
            )
        return f"{name} cannot be read ({_words(exc)})"


def _refusal(nvml: Nvml, exc: NvmlError) -> str:
    """Return why the whole driver cannot be read, for people."""
    if exc.value == nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return (
            "NVIDIA's driver was updated while the old one runs, so no program can use its GPUs: "
            "restart the machine"
        )
    return f"NVIDIA's driver cannot be read ({_words(exc)})"


def _words(exc: NvmlError) -> str:
    """Return the words of NVML, without a point at their end."""
    return str(exc).rstrip(".")


def _sees_all_pids(root: Path) -> bool:
    """Return whether process ids here are those of the driver; not so in a container."""
    try:
        return str((root / "proc/self/ns/pid").readlink()) == _FIRST_NAMESPACE
    except OSError:
        return False
