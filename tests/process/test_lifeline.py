"""Backends end with their router, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from llama_router.errors.backends import SpawnError
from llama_router.process import procfs, treekill
from llama_router.process.lifeline import Lifeline
from tests.events import capture_logs
from tests.limits import LIMIT_S, stretched_s
from tests.process.harness import start_time

pytestmark = pytest.mark.process

#: A router: a lifeline, and one backend with relatives of every kind. It prints the
#: guardian's pid, then those of its backend and its backend's relatives.
ROUTER = """
import os, sys
from functools import partial
import trio
from llama_router.process import procfs
from llama_router.process.lifeline import Lifeline
from llama_router.process.process import run_process

BACKEND = '''
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def sleeper(**options): return subprocess.Popen(["sleep", "1000"], **options).pid
def daemon():
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(w, str(os.getpid()).encode())
            os.execvp("sleep", ["sleep", "1000"])
        os._exit(0)
    os.wait()
    return int(os.read(r, 20))
wiped = {"PATH": os.environ["PATH"]}
print(os.getpid(), sleeper(), sleeper(process_group=0), sleeper(start_new_session=True),
      sleeper(env=wiped), sleeper(env=wiped, start_new_session=True), daemon(), flush=True)
while True: signal.pause()
'''

async def main(instance, registers):
    lifeline = Lifeline(instance)
    said = trio.Event()
    def relay(data):
        print(lifeline.guardian_pid, data.decode(), end="", flush=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(lifeline.run)
        spawned = await nursery.start(partial(
            run_process, [sys.executable, "-S", "-c", BACKEND],
            env={"PATH": os.environ["PATH"], procfs.INSTANCE_VARIABLE: instance},
            cwd=None, stdin="null", grace_s=0.2, force_stop=trio.Event(), on_output=relay,
            on_unkillable=print, marker=instance + ".1",
        ))
        if registers:
            lifeline.register(spawned.pid, spawned.start_time, instance + ".1")
        await trio.sleep_forever()

procfs.adopt_orphans()
trio.run(main, sys.argv[1], sys.argv[2] == "registers")
"""


@pytest.fixture(autouse=True)
async def deadline():
    """No test takes longer than this."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def instance(request):
    """Return a marker for this test, and see to it that nothing of it stays."""
    marker = f"test-{os.getpid()}-{request.node.name.translate({ord(c): '.' for c in '[] '})}"
    yield marker
    assert treekill.Trees({}, {marker}).end(timeout_s=5) == {}


async def gone(pid: int) -> None:
    """Wait until process *pid*, child or not, has ended."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        await trio.lowlevel.wait_readable(handle)
    finally:
        os.close(handle)


async def all_gone(pids: list[int]) -> None:
    """Wait until all of *pids* have ended."""
    async with trio.open_nursery() as nursery:
        for pid in pids:
            nursery.start_soon(gone, pid)


@pytest.fixture
async def router(nursery, instance):
    """Return a function that starts a router; it gives it, its guardian, and its family."""

    async def start(registers: str = "registers"):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", ROUTER, instance, registers], stdout=subprocess.PIPE
        )
        started.append(process)
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive_some()
        guardian_pid, *family = map(int, line.split())
        return process, guardian_pid, family

    started: list[trio.Process] = []
    yield start
    for process in started:
        process.stdout.close()
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@pytest.mark.parametrize("registers", ["registers", "forgets"])
async def test_killed_router_takes_everything_along(router, registers) -> None:
    """After SIGKILL of the router its backend and all relatives are gone within two seconds.

    Also if it was killed before it could tell the guardian of the backend: then by the marker.
    """
    process, guardian_pid, family = await router(registers)
    assert len(family) == 7
    assert [pid for pid in family if procfs.state(pid) in {None, "Z"}] == []
    process.kill()
    with trio.fail_after(stretched_s(2)):
        await all_gone([*family, guardian_pid])


async def test_router_that_is_told_to_stop_by_force_takes_everything_along(router) -> None:
    """The default action of SIGTERM, without any Python code run, is as good as SIGKILL."""
    process, guardian_pid, family = await router()
    process.send_signal(signal.SIGTERM)
    with trio.fail_after(stretched_s(2)):
        await all_gone([*family, guardian_pid])


async def test_interrupted_router_stops_in_good_order(router) -> None:
    """Ctrl-C cancels the run: the backends are stopped, then the guardian goes."""
    process, guardian_pid, family = await router()
    process.send_signal(signal.SIGINT)
    await process.wait()
    for pid in [*family, guardian_pid]:
        assert procfs.state(pid) in {None, "Z"}


@pytest.fixture
def starts(monkeypatch):
    """Report every guardian that is started, through a channel."""
    send, receive = trio.open_memory_channel(100)
    start = Lifeline._start

    async def report(self):
        process = await start(self)
        send.send_nowait(process)
        return process

    monkeypatch.setattr(Lifeline, "_start", report)
    return receive


def sleeper():
    """Return a process that a guardian may end."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True, env={})
    yield child
    child.kill()
    child.wait()


victim = pytest.fixture(sleeper)
bystander = pytest.fixture(sleeper)


async def test_guardian_holds_nothing_of_the_router(nursery, instance) -> None:
    """It has its pipe and two null devices, its own session, and no working directory."""
    extra = os.open("/dev/zero", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        line = Lifeline(instance)
        await nursery.start(line.run)
        folder = Path("/proc", str(line.guardian_pid))
        files: dict[str, str] = {}
        for path in (folder / "fd").iterdir():
            with suppress(FileNotFoundError):  # while it starts, it opens and closes modules
                files[path.name] = str(path.readlink())
        assert {"0", "1", "2"} <= files.keys()
        assert "/dev/zero" not in files.values()
        assert files["0"].startswith("pipe:")
        assert files["1"] == files["2"] == "/dev/null"
        assert (folder / "cwd").readlink() == Path("/")
        assert procfs.read_stat(line.guardian_pid or 0).session == line.guardian_pid
    finally:
        os.close(extra)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_guardian_is_not_ended_by_what_ends_a_router(instance, victim, signum) -> None:
    """It outlives the signals of terminals and service managers, and does its duty after."""
    code = (
        "import os, sys; from llama_router.process import guardian; read = os.read\n"
        "def say_and_read(*given): os.write(1, b'.'); return read(*given)\n"
        "os.read = say_and_read; guardian.main(sys.argv[1:])"
    )
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", code, instance], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert await process.stdout.receive_some() == b"."  # its signals are set up
    process.send_signal(signum)
    await process.stdin.send_all(f"+ {victim.pid} {start_time(victim.pid)} -\n".encode())
    assert await process.stdout.receive_some() == b"."
    await process.stdin.aclose()
    assert await process.wait() == 0
    await process.stdout.aclose()
    assert victim.wait() == -signal.SIGKILL


async def test_dead_guardian_is_replaced_and_told_everything(
    instance, starts, victim, bystander
) -> None:
    """A guardian that was killed has a successor that knows all backends but the past ones."""
    line = Lifeline(instance)
    with trio.CancelScope() as scope, capture_logs() as logs:
        async with trio.open_nursery() as running:
            await running.start(line.run)
            first = await starts.receive()
            line.register(victim.pid, start_time(victim.pid), "a")
            line.register(bystander.pid, start_time(bystander.pid), "b")
            line.unregister(bystander.pid)
            first.kill()
            second = await starts.receive()
            assert second.pid != first.pid
            scope.cancel()
    assert [entry["event"] for entry in logs] == ["guardian.exited"]
    assert logs[0]["returncode"] == -signal.SIGKILL
    assert logs[0]["backends"] == 1
    # Nobody unregistered the victim, so the end of the lifeline is its end.
    assert victim.wait() == -signal.SIGKILL
    assert bystander.poll() is None


async def test_guardian_that_does_not_read_is_replaced(instance, starts) -> None:
    """A stopped guardian never blocks the router: it gets a successor."""
    line = Lifeline(instance)
    async with trio.open_nursery() as running:
        await running.start(line.run)
        first = await starts.receive()
        first.send_signal(signal.SIGSTOP)
        with capture_logs():
            for pid in range(2**22, 2**22 + 10000):  # far more than a pipe holds
                line.register(pid, 1, "nobody")
                line.unregister(pid)
            await starts.receive()
        assert await first.wait() == -signal.SIGKILL
        running.cancel_scope.cancel()


async def test_orderly_end_is_quick(instance) -> None:
    """With nothing registered the guardian leaves by itself, with success."""
    line = Lifeline(instance)
    async with trio.open_nursery() as running:
        await running.start(line.run)
        process = line._process
        line.register(2**22, 1, "nobody")
        line.unregister(2**22)
        running.cancel_scope.cancel()
    assert process.returncode == 0
    assert line.guardian_pid is None
    assert procfs.start_time(process.pid) is None


async def test_registered_pid_of_a_stranger_is_spared(instance, victim) -> None:
    """A pid that was reused means somebody else."""
    line = Lifeline(instance)
    async with trio.open_nursery() as running:
        await running.start(line.run)
        line.register(victim.pid, start_time(victim.pid) + 1, "a")
        running.cancel_scope.cancel()
    assert victim.poll() is None


async def test_first_guardian_must_start(instance, monkeypatch) -> None:
    """A router that cannot be guarded does not start."""
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(SpawnError, match="cannot start the guardian"):
        await Lifeline(instance).run()


async def test_later_guardian_is_tried_again(nursery, instance, starts, monkeypatch) -> None:
    """Failing to replace a guardian is an error in the log, and is retried."""
    line = Lifeline(instance)
    failures: list[object] = []
    start = Lifeline._start

    async def fail_once(self):
        if not failures:
            failures.append(1)
            raise OSError("no more processes are allowed")
        return await start(self)

    await nursery.start(line.run)
    first = await starts.receive()
    monkeypatch.setattr(Lifeline, "_start", fail_once)
    with capture_logs() as logs:
        first.kill()
        await starts.receive()
    assert [entry["event"] for entry in logs] == ["guardian.exited", "guardian.failed"]
    nursery.cancel_scope.cancel()


ORPHANS = """
import os, subprocess, sys
from functools import partial
import trio
import trio.testing
from tests.events import capture_logs
from llama_router.process import procfs
from llama_router.process.lifeline import Lifeline
from llama_router.process.orphans import reap_orphans

DAEMON = "setsid env -i sleep {} >/dev/null & echo $!"

def adopt(seconds):
    shell = subprocess.run(
        ["sh", "-c", DAEMON.format(seconds)], stdout=subprocess.PIPE, start_new_session=True
    )
    return int(shell.stdout)

async def changed(pid, wanted):
    while procfs.state(pid) not in wanted:
        await trio.sleep(0.01)

async def main(instance):
    line = Lifeline(instance)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.run)
        procfs.adopt_orphans()
        helper = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
        owner = subprocess.Popen(
            ["sleep", "1000"], stdout=subprocess.DEVNULL, start_new_session=True
        )
        line.register(owner.pid, procfs.start_time(owner.pid), "m")
        SCENARIO
        helper.kill(); helper.wait()
        assert helper.returncode == -9
        owner.kill(); owner.wait()
        nursery.cancel_scope.cancel()

with capture_logs() as logs:
    trio.run(main, sys.argv[1])
print([entry["event"] for entry in logs])
"""


@pytest.mark.parametrize(
    ("scenario", "events"),
    [
        pytest.param(
            """
        nursery.start_soon(partial(reap_orphans, line, interval_s=0.05))
        orphan = adopt(0)
        await changed(orphan, {None})
            """,
            [],
            id="dead orphans are reaped",
        ),
        pytest.param(
            """
        nursery.start_soon(partial(reap_orphans, line, interval_s=0.05))
        orphan = adopt(1000)
        while orphan not in line.guarded:
            await trio.sleep(0.01)
        line.unregister(owner.pid)
        owner.kill(); owner.wait()
        await changed(orphan, {None})
        while orphan in line.guarded:
            await trio.sleep(0.01)
            """,
            ["orphan.adopted", "orphan.killed"],
            id="orphans end with the last that may own them",
        ),
        pytest.param(
            """
        async with trio.open_nursery() as tending:
            tending.start_soon(partial(reap_orphans, line, interval_s=1000))
            await trio.testing.wait_all_tasks_blocked()
            orphan = adopt(1000)
            line.unregister(owner.pid)
            owner.kill(); owner.wait()
            tending.cancel_scope.cancel()
        assert procfs.state(orphan) is None
            """,
            [],
            id="the last look ends all",
        ),
    ],
)
async def test_orphans_that_escaped_every_way(instance, scenario, events) -> None:
    """Without session, parent and marker, an orphan is still found, and does not stay."""
    code = ORPHANS.replace("SCENARIO", scenario.strip())
    run = await trio.run_process(
        [sys.executable, "-c", code, instance],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert run.stderr.decode() == ""
    assert run.stdout.decode().strip() == repr(events)
