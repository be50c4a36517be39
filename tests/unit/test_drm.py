"""AMD's and Intel's GPUs, on a tree of ordinary files that stands for /sys and /proc."""

from pathlib import Path

import pytest

from llama_router.core.memory.devices import DeviceKind, DeviceReading
from llama_router.devices.drm import DrmReader, find_drm
from llama_router.devices.port import DriverReading

MIB = 2**20
AMD, INTEL = "0x1002", "0x8086"


class Machine:
    """What the kernel would show of GPUs and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()
        self.cards = 0

    def write(self, name: str, text: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def gpu(self, address: str, vendor: str, device: str = "0x744c", **files: int) -> None:
        """Add a GPU with a driver; *files* are those of its driver, in bytes."""
        folder = f"sys/bus/pci/devices/{address}"
        for name, text in (("vendor", vendor), ("device", device), ("class", "0x030000")):
            self.write(f"{folder}/{name}", text)
        for name, number in files.items():
            self.write(f"{folder}/{name.replace('__', '/')}", number)
        (self.root / folder / f"drm/renderD{128 + self.cards}").mkdir(parents=True)
        card = self.root / f"sys/class/drm/card{self.cards}"
        card.mkdir(parents=True)
        (card / "device").symlink_to(self.root / folder)
        (card.parent / f"card{self.cards}-HDMI-A-1").mkdir()
        self.cards += 1

    def amd(self, address: str, *, total_mib: int = 24560, used_mib: int = 500) -> None:
        total, used = total_mib * MIB, used_mib * MIB
        self.gpu(address, AMD, mem_info_vram_total=total, mem_info_vram_used=used)

    def node(self, number: int, *, gpu_id: int = 0, minor: int = 0, unique_id: int = 0) -> None:
        """Add a node of AMD's compute driver."""
        folder = f"sys/class/kfd/kfd/topology/nodes/{number}"
        self.write(f"{folder}/gpu_id", gpu_id)
        properties = f"simd_count 96\ndrm_render_minor {minor}\nunique_id {unique_id}"
        self.write(f"{folder}/properties", properties)

    def opens(self, pid: int, address: str, client: int, *lines: str, fd: int = 5) -> None:
        """Let a process have a GPU open."""
        (self.root / f"proc/{pid}/fd").mkdir(parents=True, exist_ok=True)
        (self.root / f"proc/{pid}/fd/{fd}").symlink_to("/dev/dri/renderD128")
        head = ("pos:\t0", "drm-driver:\tx", f"drm-pdev:\t{address}", f"drm-client-id:\t{client}")
        self.write(f"proc/{pid}/fdinfo/{fd}", "\n".join((*head, *lines)))

    def read(self, *backends: int) -> DriverReading:
        reader = find_drm(self.root)
        assert reader is not None
        return reader.read(frozenset(backends))

    def device(self) -> DeviceReading:
        (device,) = self.read().devices
        return device


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_gpus_there_is_nothing_to_read(machine: Machine) -> None:
    """Neither without the folder of the drivers, nor with another vendor's card in it."""
    assert find_drm(machine.root) is None
    machine.gpu("0000:01:00.0", "0x10de")
    assert find_drm(machine.root) is None


def test_amd_counts_its_memory(machine: Machine) -> None:
    """What all programs use; without the compute driver, nothing can choose the GPU."""
    machine.amd("0000:03:00.0")
    gpu = machine.device()
    assert (gpu.id, gpu.kind, gpu.selector) == ("amd0", DeviceKind.AMD, "")
    assert (gpu.total_mib, gpu.used_mib, gpu.processes) == (24560, 500, {})
    assert gpu.name == "AMD GPU 0000:03:00.0"


def test_the_list_of_pci_devices_names_a_gpu(machine: Machine) -> None:
    """By the name under which it is sold, and only within its vendor's part of the list."""
    machine.write(
        "usr/share/misc/pci.ids",
        "# List\n1001  Other\n\t744c  Wrong\n1002  AMD/ATI\n\t73bf  Navi 21\n"
        "\t744c  Navi 31 [Radeon RX 7900 XTX]\n\t\t1002 0e3b  Sub\n1003  Other\n\t7550  Wrong",
    )
    machine.amd("0000:03:00.0")
    machine.gpu("0000:04:00.0", AMD, "0x7550", mem_info_vram_total=2**34)
    machine.gpu("0000:05:00.0", AMD, "0x73bf", mem_info_vram_total=2**34)
    assert [gpu.name for gpu in machine.read().devices] == [
        "AMD Radeon RX 7900 XTX",
        "AMD GPU 0000:04:00.0",
        "AMD Navi 21",
    ]


def test_integrated_gpus_are_no_devices(machine: Machine) -> None:
    """Their memory is the machine's, though the firmware gives AMD's some of it."""
    machine.amd("0000:0c:00.0", total_mib=512)
    machine.gpu("0000:00:02.0", INTEL)
    assert machine.read() == DriverReading()


def test_rocm_chooses_by_uuid_or_place(machine: Machine) -> None:
    """The place counts integrated GPUs, too; the processor is a node without a GPU."""
    machine.amd("0000:0c:00.0", total_mib=512)
    machine.amd("0000:03:00.0")
    machine.amd("0000:08:00.0")
    machine.node(0)
    machine.node(1, gpu_id=4711, minor=129, unique_id=0x18F68E602B8A790F)
    machine.node(2, gpu_id=4712, minor=128)
    machine.node(3, gpu_id=4713, minor=130)
    assert [(gpu.id, gpu.selector) for gpu in machine.read().devices] == [
        ("amd0", "GPU-18f68e602b8a790f"),
        ("amd1", "2"),
    ]


def test_a_gpu_keeps_its_number(machine: Machine) -> None:
    """When one before it vanishes."""
    machine.amd("0000:03:00.0")
    machine.amd("0000:08:00.0")
    reader = DrmReader(machine.root)
    reader.read(frozenset())
    (machine.root / "sys/class/drm/card0/device").unlink()
    assert [gpu.id for gpu in reader.read(frozenset()).devices] == ["amd1"]


def test_processes_hold_what_their_open_files_say(machine: Machine) -> None:
    """Of AMD's regions those on the GPU count; units may differ."""
    machine.amd("0000:03:00.0")
    machine.opens(10, "0000:03:00.0", 1, "drm-memory-vram:\t2048 KiB", "drm-memory-gtt:\t9 MiB")
    machine.opens(11, "0000:03:00.0", 2, "drm-total-vram:\t9 MiB", "drm-resident-vram:\t4 MiB")
    machine.opens(11, "0000:03:00.0", 3, "drm-memory-vram:\t1048576", fd=6)
    machine.opens(12, "0000:99:00.0", 1, "drm-memory-vram:\t2048 KiB")
    assert machine.device().processes == {10: 2, 11: 5}


def test_a_driver_holds_host_memory_too(machine: Machine) -> None:
    """For any GPU, integrated ones above all; it is not in the process's own figures."""
    machine.amd("0000:0c:00.0", total_mib=512)
    machine.opens(10, "0000:0c:00.0", 1, "drm-memory-gtt:\t9 MiB", "drm-memory-cpu:\t1 MiB")
    machine.opens(11, "0000:0c:00.0", 2, "drm-resident-system0:\t3 MiB")
    assert machine.read(10, 11) == DriverReading(host_mib={10: 10, 11: 3})


def test_a_client_counts_once(machine: Machine) -> None:
    """It may have several files, and have passed one on to another process."""
    machine.amd("0000:03:00.0")
    for pid, fd in ((10, 5), (10, 6), (11, 5)):
        machine.opens(pid, "0000:03:00.0", 1, "drm-memory-vram:\t2048 KiB", fd=fd)
    assert machine.device().processes == {10: 2}


def test_an_old_kernel_does_not_tell_what_processes_hold(machine: Machine) -> None:
    """Then nothing is said about any of them."""
    machine.amd("0000:03:00.0")
    machine.opens(10, "0000:03:00.0", 1, "drm-engine-gfx:\t7 ns")
    machine.opens(11, "0000:03:00.0", 2, "drm-memory-vram:\t2048 KiB")
    assert machine.device().processes is None


def test_what_rocm_allocates_is_counted_by_its_driver(machine: Machine) -> None:
    """Where the files show less of it."""
    machine.amd("0000:03:00.0")
    machine.node(1, gpu_id=4711, minor=128)
    machine.opens(10, "0000:03:00.0", 1, "drm-memory-vram:\t2 MiB")
    machine.write("sys/class/kfd/kfd/proc/10/vram_4711", 7 * MIB)
    machine.write("sys/class/kfd/kfd/proc/11/vram_4711", 3 * MIB)
    assert machine.device().processes == {10: 7, 11: 3}


def test_a_new_backend_is_seen_at_once(machine: Machine) -> None:
    """Other processes are searched for GPUs every ten seconds only."""
    machine.amd("0000:03:00.0")
    reader = DrmReader(machine.root)
    machine.opens(9, "0000:03:00.0", 9, "drm-memory-vram:\t1 MiB")
    reader.read(frozenset())
    for pid in (10, 11):
        machine.opens(pid, "0000:03:00.0", pid, "drm-memory-vram:\t2 MiB")
    (gpu,) = reader.read(frozenset({10})).devices
    assert gpu.processes == {9: 1, 10: 2}


def test_intel_counts_by_its_processes(machine: Machine) -> None:
    """The driver xe shows the total only; the place counts the integrated GPU, too."""
    machine.gpu("0000:00:02.0", INTEL)
    machine.gpu("0000:03:00.0", INTEL, tile0__physical_vram_size_bytes=12216 * MIB)
    machine.opens(10, "0000:03:00.0", 1, "drm-resident-vram0:\t50 MiB", "drm-resident-gtt:\t1 MiB")
    gpu = machine.device()
    assert (gpu.id, gpu.kind, gpu.selector) == ("intel0", DeviceKind.INTEL, "1")
    assert (gpu.total_mib, gpu.used_mib, gpu.processes) == (12216, 50, {10: 50})


def test_intels_own_driver_counts_what_is_available(machine: Machine) -> None:
    """The one that Intel distributes, not the kernel's i915."""
    machine.gpu("0000:03:00.0", INTEL)
    machine.write("sys/class/drm/card0/lmem_total_bytes", 16384 * MIB)
    machine.write("sys/class/drm/card0/lmem_avail_bytes", 16000 * MIB)
    assert (machine.device().total_mib, machine.device().used_mib) == (16384, 384)


def test_a_gpu_of_unknown_size_is_a_fault(machine: Machine) -> None:
    """The sentence names it."""
    machine.gpu("0000:03:00.0", INTEL)
    reading = machine.read()
    assert reading.devices == ()
    assert "Intel GPU 0000:03:00.0" in reading.faults[0]
