"""Host memory of real processes."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from llama_router.core.memory.devices import HOST
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
