"""Host memory, on a tree of ordinary files that stands for /proc and the control groups."""

from pathlib import Path

import pytest

from llama_router.devices.cgroup_memory import memory_limits
from llama_router.devices.host import HostReader
from llama_router.devices.port import DriverError
from llama_router.devices.process_memory import host_footprint_mib, memory_of

KIB_PER_GIB = 2**20
PAGES_PER_GIB = 2**18


class Kernel:
    """What the kernel would show.

    Attributes:
        proc: Stands for /proc.
        groups: Stands for /sys/fs/cgroup.
    """

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.groups = folder / "cgroup"
        self.write("proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\n")

    def write(self, name: str, text: str) -> None:
        path = self.proc.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def process(
        self,
        pid: int,
        *,
        anon_gib: float = 0,
        shared_gib: float = 0,
        file_gib: float = 0,
        parent: int = 1,
        locked_gib: float = 0,
        part: float | None = None,
        maps: str = "",
    ) -> None:
        """Add a process; *part* is the part of its pages that is its own."""
        sizes = anon_gib, file_gib, shared_gib
        anon, file, shared = (int(gib * KIB_PER_GIB) for gib in sizes)
        pages = int(sum(sizes) * PAGES_PER_GIB)
        locked = int(locked_gib * KIB_PER_GIB)
        shared_pages = pages - int(anon_gib * PAGES_PER_GIB)
        self.write(f"proc/{pid}/statm", f"9999999 {pages} {shared_pages} 0 0 0 0\n")
        self.write(
            f"proc/{pid}/status",
            f"Name:\ta b: 7\nPPid:\t{parent}\nVmLck:\t{locked} kB\nRssAnon:\t{anon} kB\n"
            f"RssFile:\t{file} kB\nRssShmem:\t{shared} kB\n",
        )
        if part is not None:
            self.write(
                f"proc/{pid}/smaps_rollup",
                "00400000-7ffe0000 ---p 00000000 00:00 0   [rollup]\n"
                f"Pss_Anon: {anon * part:.0f} kB\nPss_File: {file * part:.0f} kB\n"
                f"Pss_Shmem: {shared * part:.0f} kB\nSwapPss: 0 kB\nLocked: {locked} kB\n",
            )
        self.write(f"proc/{pid}/maps", maps)

    def group(self, name: str, *, v2: bool = True, **files: object) -> None:
        """Add a control group; double underscores stand for points in names of files."""
        folder = "cgroup" if v2 else "cgroup/memory"
        for file, content in files.items():
            self.write(f"{folder}/{name}/{file.replace('__', '.')}", f"{content}\n")

    def inside(self, group: str, *, root: str = "/", v2: bool = True) -> None:
        """Put this process into *group*, seen through a mount of *root*."""
        self.write("proc/self/cgroup", f"0::{group}\n" if v2 else f"0::/x\n4:cpu,memory:{group}\n")
        kind = "cgroup2 cgroup2 rw" if v2 else "cgroup cgroup rw,memory"
        point = self.groups if v2 else self.groups / "memory"
        self.write(
            "proc/self/mountinfo",
            "20 1 0:18 / /sys rw - sysfs sysfs rw\n"
            f"29 20 0:26 {root} {point} rw,nosuid shared:4 - {kind}\n",
        )

    def read(self, *backends: int):
        (device,) = HostReader(self.proc).read(frozenset(backends)).devices
        return device


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_what_is_not_available_is_used(kernel: Kernel) -> None:
    """Without a limit, the kernel's own figures count."""
    device = kernel.read()
    assert (device.total_mib, device.used_mib) == (65536, 16384)


def test_without_a_figure_of_the_kernel_there_is_a_fault(kernel: Kernel) -> None:
    """It says what is missing."""
    kernel.write("proc/meminfo", "")
    with pytest.raises(DriverError, match="MemTotal"):
        kernel.read()


def test_the_cache_of_zfs_is_available(kernel: Kernel) -> None:
    """But for its least size."""
    kernel.write(
        "proc/spl/kstat/zfs/arcstats",
        f"9 1 0x01 147 39984 1 2\nname type data\nc_min 4 {2 * GIB}\nsize 4 {10 * GIB}\n",
    )
    assert kernel.read().used_mib == 8192


GIB = 2**30


@pytest.mark.parametrize("limit", ["memory.max", "memory.high"])
def test_the_limit_of_a_control_group_is_the_machine(kernel: Kernel, limit: str) -> None:
    """What the group's files take can be taken back; what its processes hold cannot."""
    kernel.inside("/service")
    kernel.group(
        "service",
        memory__max="max",
        memory__current=7 * GIB,
        memory__stat=f"anon {GIB}\nactive_file {2 * GIB}\ninactive_file {3 * GIB}\nfile 9",
    )
    kernel.write(f"cgroup/service/{limit}", str(8 * GIB))
    device = kernel.read()
    assert (device.total_mib, device.used_mib) == (8192, 2048)


def test_groups_above_limit_too(kernel: Kernel) -> None:
    """The tightest total, and the least that is available, which may be another group's."""
    kernel.inside("/slice/service/router")
    kernel.group("slice", memory__max=10 * GIB, memory__current=9 * GIB, memory__stat="")
    kernel.group("slice/service", memory__max=4 * GIB, memory__current=GIB, memory__stat="")
    kernel.group("slice/service/router", memory__max="max", memory__current=0, memory__stat="")
    device = kernel.read()
    assert (device.total_mib, device.used_mib) == (4096, 3072)


def test_a_limit_above_the_machine_is_none(kernel: Kernel) -> None:
    """The machine has no more than it has."""
    kernel.inside("/service")
    kernel.group("service", memory__max=512 * GIB, memory__current=GIB, memory__stat="")
    assert kernel.read().total_mib == 65536


def test_version_1_limits_too(kernel: Kernel) -> None:
    """Its statistics have other names, and no limit is a very large number."""
    kernel.inside("/docker/a", v2=False)
    for name, limit in (("docker", 9223372036854771712), ("docker/a", 2 * GIB)):
        kernel.group(
            name,
            v2=False,
            memory__limit_in_bytes=limit,
            memory__usage_in_bytes=GIB,
            memory__stat=f"active_file 1\ntotal_active_file {GIB // 2}",
        )
    device = kernel.read()
    assert (device.total_mib, device.used_mib) == (2048, 512)


def test_in_a_container_the_mount_begins_at_its_group(kernel: Kernel) -> None:
    """The path of the group is counted from what is mounted."""
    kernel.inside("/docker/a/service", root="/docker/a")
    kernel.group("service", memory__max=GIB, memory__current=0, memory__stat="")
    assert [each.limit_bytes for each in memory_limits(kernel.proc / "self")] == [GIB]


@pytest.mark.parametrize("group", ["/../outside", "/elsewhere"])
def test_a_group_that_is_not_mounted_sets_no_limit(kernel: Kernel, group: str) -> None:
    """It cannot be read."""
    kernel.inside(group, root="/docker")
    assert memory_limits(kernel.proc / "self") == []


def test_processes_hold_what_cannot_be_taken_from_them(kernel: Kernel) -> None:
    """Memory of their own and shared memory; pages of files only where they are locked."""
    kernel.process(10, anon_gib=2, file_gib=30)
    kernel.process(11, shared_gib=1)
    kernel.process(12, anon_gib=1, file_gib=4, locked_gib=4)
    kernel.process(13, anon_gib=0.0001)
    assert kernel.read().processes == {10: 2048, 11: 1024, 12: 5120}


def test_a_process_that_ended_meanwhile_holds_nothing(kernel: Kernel) -> None:
    """Its folder is there, and its files are not."""
    (kernel.proc / "14").mkdir()
    assert kernel.read().processes == {}


def test_what_forked_processes_share_counts_once(kernel: Kernel) -> None:
    """For backends; to look at every page of all other processes would take too long."""
    for parent in (10, 20):
        kernel.process(parent, anon_gib=2, part=0.5)
        kernel.process(parent + 1, anon_gib=2, part=0.5, parent=parent)
    assert kernel.read(10, 11).processes == {10: 1024, 11: 1024, 20: 2048, 21: 2048}


def test_shared_memory_of_backends_counts_once(kernel: Kernel) -> None:
    """Each of those that share it has its part."""
    kernel.process(10, shared_gib=4, part=0.25)
    kernel.process(11, anon_gib=1, part=0.5)
    assert kernel.read(10, 11).processes == {10: 1024, 11: 1024}


def test_a_kernel_that_does_not_tell_parts_tells_all(kernel: Kernel) -> None:
    """Another user's process: its pages may not be looked at."""
    kernel.process(10, shared_gib=1)
    assert kernel.read(10).processes == {10: 1024}


MODEL = "/models/a model.gguf"


def mapping(gib: float, path: str = MODEL, *, offset_gib: float = 0) -> str:
    first = 0x7F0000000000
    offset = int(offset_gib * GIB)
    return f"{first:x}-{first + int(gib * GIB):x} r--s {offset:08x} fe:01 4711    {path}\n"


def test_a_mapped_model_counts_in_full(kernel: Kernel) -> None:
    """Also the part that was not read yet, and under the name of a removed file."""
    kernel.process(10, anon_gib=1, file_gib=0.5, part=1, maps=mapping(4, f"{MODEL} (deleted)"))
    assert host_footprint_mib([10], [MODEL], kernel.proc) == 5120


def test_a_model_that_several_processes_map_counts_once(kernel: Kernel) -> None:
    """Their mappings are put together by their places in the file."""
    kernel.process(10, anon_gib=1, part=1, maps=mapping(3))
    kernel.process(11, anon_gib=1, part=1, maps=mapping(3, offset_gib=1))
    assert host_footprint_mib([10, 11], [MODEL], kernel.proc) == 6144


def test_a_model_on_a_gpu_counts_as_far_as_it_is_mapped(kernel: Kernel) -> None:
    """llama.cpp unmaps what it has copied to the GPU; libraries count as far as they are read."""
    maps = mapping(0.25) + mapping(2, "/usr/lib/libcublasLt.so")
    kernel.process(10, anon_gib=1, file_gib=1, part=1, maps=maps)
    assert host_footprint_mib([10], [MODEL], kernel.proc) == 2048


def test_a_backend_that_is_gone_needs_nothing(kernel: Kernel) -> None:
    """No file of it can be read."""
    assert host_footprint_mib([99], [MODEL], kernel.proc) == 0
    assert memory_of(99, kernel.proc).held_mib == 0
