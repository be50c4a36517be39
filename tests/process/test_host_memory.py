"""Host memory of real processes."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio

from llama_router.core.memory.devices import HOST
from llama_router.devices.cgroup_memory import _groups
from llama_router.devices.host import HostReader
from llama_router.devices.process_memory import host_footprint_mib
from tests.limits import LIMIT_S

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

ALLOCATES = """
import mmap, sys
held = mmap.mmap(-1, 100 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, len(held), 4096):
    held[page] = 1
print("ready", flush=True)
sys.stdin.read()
"""

SHARES = ALLOCATES.replace("MAP_PRIVATE", "MAP_SHARED").replace(
    'print("ready"', 'import os; os.fork() or sum(held[::4096]); print("ready"'
)

MAPS = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    held = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
held[0]
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
async def child(nursery: trio.Nursery) -> Callable:
    """A function that starts a program, and returns its pid once it says that it is ready."""

    async def start(code: str, *arguments: str, lines: int = 1) -> int:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", code, *arguments], stdin=-1, stdout=-1
        )
        nursery.start_soon(end_with_test, process)
        output = b""
        while output.count(b"\n") < lines:
            output += await process.stdout.receive_some()
        return process.pid

    async def end_with_test(process: trio.Process) -> None:
        try:
            await trio.sleep_forever()
        finally:
            process.stdin.close()  # its own children end with it, too
            process.kill()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LIMIT_S):
                await process.wait()

    return start


def held_mib(pid: int, *backends: int) -> float:
    (device,) = HostReader().read(frozenset(backends)).devices
    assert device.id == HOST
    assert device.processes is not None
    return device.processes[pid]


async def test_a_process_holds_what_it_allocated(child) -> None:
    """The reading has it by its pid, and the machine has less available."""
    pid = await child(ALLOCATES)
    assert 100 <= held_mib(pid) < 130
    assert host_footprint_mib([pid], []) >= held_mib(pid)


async def test_what_processes_of_a_backend_share_counts_once(child) -> None:
    """Both have all of the shared memory in use, and each counts with its half."""
    pid = await child(SHARES, lines=2)
    assert held_mib(pid) >= 100
    assert 50 <= held_mib(pid, pid) < 80


async def test_a_mapped_file_is_needed_and_not_held(child, tmp_path: Path) -> None:
    """All of it is in the footprint, though one page of it was read."""
    model = tmp_path / "model.gguf"
    with model.open("wb") as file:
        file.truncate(300 << 20)
    pid = await child(MAPS, str(model))
    assert held_mib(pid) < 50
    assert 300 <= host_footprint_mib([pid], [model]) < 350
    assert host_footprint_mib([pid], []) < 50


#: Reads host memory, then again with 100 MiB of its own, and of a file of 100 MiB.
READS = """
import mmap, sys
from pathlib import Path
from llama_router.devices.cgroup_memory import _groups
from llama_router.devices.host import HostReader
Path(sys.argv[2], "cgroup.procs").write_text("0")
def read():
    (device,) = HostReader().read(frozenset()).devices
    print(device.total_mib, device.used_mib, flush=True)
read()
held = bytearray(100 << 20)
held[::4096] = bytes(len(held) // 4096 * [1])
read()
with open(sys.argv[1], "wb") as file:
    file.write(held)
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(mapped[::4096])
read()
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with 512 MiB."""
    own = next(_groups(Path("/proc/self")), None)
    if own is None:
        pytest.skip("this machine has no control groups that count memory")
    path = own[0] / f"llama-router-test-{os.getpid()}"
    limit = path / ("memory.max" if own[1] else "memory.limit_in_bytes")
    try:
        path.mkdir()
    except OSError as exc:
        pytest.skip(f"control groups cannot be made here: {exc.strerror}")
    try:
        if not limit.exists():
            pytest.skip("control groups made here do not count memory")
        limit.write_text(str(512 << 20))
        yield path
    finally:
        path.rmdir()


async def test_a_control_group_limits_host_memory(group: Path, tmp_path: Path) -> None:
    """What its processes allocate is used; what they read of files is not."""
    done = await trio.run_process(
        [sys.executable, "-c", READS, str(tmp_path / "file"), str(group)],
        capture_stdout=True,
    )
    totals, used = zip(
        *(map(float, line.split()) for line in done.stdout.splitlines()), strict=True
    )
    assert set(totals) == {512}
    assert 90 < used[1] - used[0] < 120
    assert abs(used[2] - used[1]) < 20
