"""A program and everything it starts end together, however they end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from llama_router.errors.backends import BackendUnreapableError, SpawnError
from llama_router.process import process, process_tree, procfs, treekill
from llama_router.process.process import run_process
from tests.limits import LIMIT_S

pytestmark = pytest.mark.process

PREAMBLE = """
import os, signal, subprocess, sys
def block(): signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
def say(*words): print(*words, flush=True)
def sleeper(**options): return subprocess.Popen(["sleep", "1000"], **options).pid
def daemon(run):
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(w, str(os.getpid()).encode())
            run()
        os._exit(0)
    os.wait()
    return int(os.read(r, 20))
def exec_sleep(): os.execvp("sleep", ["sleep", "1000"])
"""
POLITE = "block(); say('up'); signal.sigwait({signal.SIGTERM}); say('bye')"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('up')\nwhile True: signal.pause()"

#: Code that starts some relatives and gives their pids.
RELATIVES = {
    "grandchild": "[sleeper()]",
    "stubborn grandchild": (
        "[sleeper(preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))]"
    ),
    "own group": "[sleeper(process_group=0)]",
    "own session": "[sleeper(start_new_session=True)]",
    "own session, no environment": "[sleeper(start_new_session=True, env={'PATH': '/bin'})]",
    "daemon": "[daemon(exec_sleep)]",
    "many": "[sleeper() for _ in range(20)] + [daemon(exec_sleep)]",
}
#: Of those, the one that cannot be told from a stranger once its parent is gone.
LOST_WITHOUT_PARENT = "own session, no environment"

ENV = {"PATH": os.environ["PATH"]}

# Of this run alone: another one on the same machine must not take our processes for its own.
MARKER = f"test-process.{os.getpid()}.1"


@attrs.define(eq=False)
class Heard:
    """What a program printed."""

    data: bytes = b""
    _pending: bytes = b""
    _send: trio.MemorySendChannel = attrs.field(init=False)
    _receive: trio.MemoryReceiveChannel = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Open the channel."""
        self._send, self._receive = trio.open_memory_channel(1000)

    def __call__(self, data: bytes) -> None:
        """Take output."""
        self.data += data
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._send.send_nowait(line.decode())

    async def line(self) -> str:
        """Wait for the next whole line."""
        return await self._receive.receive()


@pytest.fixture(autouse=True)
async def deadline():
    """No test takes longer than this."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def heard():
    """Return a listener."""
    return Heard()


@pytest.fixture(params=[True, False], ids=["adopting", "not adopting"])
def adopting(request):
    """Run the test as a process that adopts orphans, and as one that does not."""
    procfs._prctl(procfs._PR_SET_CHILD_SUBREAPER, int(request.param))
    yield request.param
    procfs._prctl(procfs._PR_SET_CHILD_SUBREAPER, 0)


@pytest.fixture
def nothing_left():
    """Check that the test left no child, not even a zombie, and no open file."""
    children = procfs.children(os.getpid())
    yield
    assert procfs.children(os.getpid()) == children


@pytest.fixture
def program(heard, nothing_left):
    """Return a function that binds `run_process` to Python source."""

    def bind(code, **options):
        given = {
            "env": ENV,
            "cwd": None,
            "stdin": "null",
            "grace_s": 10.0,
            "force_stop": trio.Event(),
            "on_output": heard,
            "on_unkillable": pytest.fail,
            "marker": MARKER,
        }
        argv = code if isinstance(code, list) else [sys.executable, "-S", "-c", PREAMBLE + code]
        return partial(run_process, argv, **(given | options))

    return bind


async def stop(start, until_up: Heard | None = None):
    """Run, wait until it is up, cancel; return the process and its first line."""
    async with trio.open_nursery() as nursery:
        spawned = await nursery.start(start)
        line = await until_up.line() if until_up else ""
        nursery.cancel_scope.cancel()
    return spawned, line


async def test_polite_program_says_its_last_words(program, heard) -> None:
    """A cancelled run gets SIGTERM and time to say goodbye, and is heard to the end."""
    spawned, line = await stop(program(POLITE), heard)
    assert line == "up"
    assert spawned.returncode == 0
    assert spawned.exited.is_set()
    assert heard.data.endswith(b"bye\n")


async def test_program_that_waits_for_an_order_gets_it(program, heard) -> None:
    """A llama-server is deaf to SIGTERM alone, while its router holds its standard input."""
    code = "block(); say('up'); say(sys.stdin.readline().strip())"
    spawned, _ = await stop(program(code, stdin="pipe", exit_command=b"now exit\n"), heard)
    assert spawned.returncode == 0
    assert heard.data == b"up\nnow exit\n"


async def test_stubborn_program_is_killed_after_the_grace(program, heard) -> None:
    """SIGTERM ignored means SIGKILL, not before the grace is over."""
    begun_s = trio.current_time()
    spawned, _ = await stop(program(STUBBORN, grace_s=0.2), heard)
    assert spawned.returncode == -signal.SIGKILL
    assert trio.current_time() - begun_s >= 0.2


async def test_no_grace_after_force_stop(program, heard) -> None:
    """Once a hard shutdown is under way, a stubborn program is killed at once."""
    force_stop = trio.Event()
    force_stop.set()
    spawned, _ = await stop(program(STUBBORN, grace_s=1000, force_stop=force_stop), heard)
    assert spawned.returncode == -signal.SIGKILL


async def test_force_stop_cuts_a_grace_short(nursery, program, heard, monkeypatch) -> None:
    """A hard shutdown that begins during the grace ends it."""
    force_stop = trio.Event()
    killpg = os.killpg

    async def hasten() -> None:
        await trio.testing.wait_all_tasks_blocked()
        force_stop.set()

    def watch(pid, signum):
        killpg(pid, signum)
        if signum == signal.SIGTERM:
            nursery.start_soon(hasten)

    monkeypatch.setattr(os, "killpg", watch)
    spawned, _ = await stop(program(STUBBORN, grace_s=1000, force_stop=force_stop), heard)
    assert spawned.returncode == -signal.SIGKILL


async def test_exit_by_itself_is_returned(program, heard) -> None:
    """The exit status comes back, with all that was printed to either stream."""
    assert await program("say('out'); sys.stderr.write('err\\n'); sys.exit(7)")() == 7
    assert heard.data == b"out\nerr\n"


async def test_death_by_signal_is_returned(program) -> None:
    """A crash is a negative number, as in `subprocess`."""
    assert await program("os.kill(os.getpid(), signal.SIGSEGV)")() == -signal.SIGSEGV


@pytest.mark.parametrize("kind", RELATIVES)
@pytest.mark.parametrize("manners", [POLITE, STUBBORN], ids=["polite", "stubborn"])
async def test_relatives_end_with_a_stopped_program(
    program, heard, adopting, kind, manners
) -> None:
    """When a run is cancelled, nothing that it started lives on."""
    code = f"say(*{RELATIVES[kind]}); {manners}"
    spawned, line = await stop(program(code, grace_s=0.3), heard)
    relatives = [int(pid) for pid in line.split()]
    assert relatives
    assert [pid for pid in relatives if procfs.state(pid) not in {None, "Z"}] == []
    if adopting:
        assert [pid for pid in relatives if procfs.start_time(pid)] == []
    assert procfs.start_time(spawned.pid) is None


@pytest.mark.parametrize("kind", [kind for kind in RELATIVES if kind != LOST_WITHOUT_PARENT])
async def test_relatives_end_with_a_program_that_ends(program, heard, adopting, kind) -> None:
    """A program that ends by itself leaves nobody behind either."""
    assert await program(f"say(*{RELATIVES[kind]})")() == 0
    relatives = [int(pid) for pid in (await heard.line()).split()]
    assert relatives
    assert [pid for pid in relatives if procfs.state(pid) not in {None, "Z"}] == []
    if adopting:
        assert [pid for pid in relatives if procfs.start_time(pid)] == []


async def test_forking_relatives_do_not_get_away(program, heard, adopting) -> None:
    """A group that keeps forking while it is killed is killed whole."""
    code = """
for _ in range(3):
    if os.fork() == 0:
        for _ in range(5000):  # seconds, not for ever: this test may fail
            if os.fork(): os._exit(0)
say('up')
"""
    assert await program(code)() == 0
    assert procfs.marked(MARKER) == set()


async def test_siblings_are_left_alone(program, heard, adopting) -> None:
    """Stopping one run touches no process of another, wherever that may be."""
    async with trio.open_nursery() as nursery:
        other = Heard()
        code = f"say(*{RELATIVES['many']}, *{RELATIVES['own session']}); {POLITE}"
        await nursery.start(program(code, on_output=other, marker=MARKER + "0"))
        living = [int(pid) for pid in (await other.line()).split()]
        await stop(program(f"say(*{RELATIVES['many']}); {POLITE}"), heard)
        assert [pid for pid in living if procfs.state(pid) in {None, "Z"}] == []
        nursery.cancel_scope.cancel()
    assert [pid for pid in living if procfs.state(pid) not in {None, "Z"}] == []


async def test_flood_neither_blocks_the_program_nor_starves_others(program, heard) -> None:
    """However much is printed, it is all read, and everybody else gets a turn per read."""
    reads = turns = 0
    size_bytes = 0

    def count(data: bytes) -> None:
        nonlocal reads, size_bytes
        reads += 1
        size_bytes += len(data)

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take_turns)
        code = "piece = bytes(65536)\nfor _ in range(512): sys.stdout.buffer.write(piece)"
        assert await program(code, on_output=count)() == 0
        nursery.cancel_scope.cancel()
    assert size_bytes == 512 * 65536
    assert turns >= reads


async def test_endless_flood_can_be_stopped(program, heard) -> None:
    """A program that only prints still dies of SIGTERM."""
    got_some = trio.Event()
    async with trio.open_nursery() as nursery:
        spawned = await nursery.start(program(["yes"], on_output=lambda _: got_some.set()))
        await got_some.wait()
        nursery.cancel_scope.cancel()
    assert spawned.returncode == -signal.SIGTERM


@pytest.mark.parametrize("floods", [True, False])
async def test_stranger_who_holds_the_pipe_delays_nothing(program, heard, floods) -> None:
    """Output ends with the family, though somebody else could still write to the pipe."""
    flooder = None
    up = trio.Event()
    async with trio.open_nursery() as nursery:
        spawned = await nursery.start(program(POLITE, on_output=lambda _: up.set()))
        await up.wait()
        writer = os.open(f"/proc/{spawned.pid}/fd/1", os.O_WRONLY)
        try:
            if floods:
                flooder = await trio.lowlevel.open_process(
                    ["yes"], stdout=writer, stderr=subprocess.DEVNULL
                )
            begun_s = trio.current_time()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await spawned.exited.wait()
        finally:
            os.close(writer)
    assert trio.current_time() - begun_s < 5
    assert spawned.returncode == 0
    if flooder is not None:
        assert await flooder.wait() == -signal.SIGPIPE  # nobody reads any more


async def test_stuck_process_is_reported_once_and_awaited(
    nursery, program, heard, monkeypatch
) -> None:
    """What survives SIGKILL keeps the run going until it is really gone."""
    stuck = trio.Event()
    calls = []
    killpg, kill = os.killpg, treekill.kill
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    monkeypatch.setattr(treekill, "kill", lambda *_: False)
    monkeypatch.setattr(process, "REAP_TIMEOUT_S", 0.05)

    def on_unkillable() -> None:
        calls.append(1)
        stuck.set()

    spawned, ended = None, trio.Event()

    async def run() -> None:
        nonlocal spawned
        async with trio.open_nursery() as inner:
            spawned = await inner.start(program(STUBBORN, grace_s=0, on_unkillable=on_unkillable))
            await heard.line()
            inner.cancel_scope.cancel()
        ended.set()

    nursery.start_soon(run)
    await stuck.wait()
    await trio.sleep(0.2)  # several timeouts long: it must go on waiting, and say no more
    assert not ended.is_set()
    assert not spawned.exited.is_set()
    monkeypatch.setattr(os, "killpg", killpg)
    monkeypatch.setattr(treekill, "kill", kill)
    os.kill(spawned.pid, signal.SIGKILL)
    await ended.wait()
    assert spawned.exited.is_set()
    assert calls == [1]


async def test_unkillable_process_is_given_up_after_force_stop(program, heard, monkeypatch) -> None:
    """On a hard shutdown a survivor of SIGKILL costs bounded time, and is said to be there."""
    force_stop, spawned = trio.Event(), None
    with monkeypatch.context() as patch:
        patch.setattr(os, "killpg", lambda *_: None)
        patch.setattr(treekill, "kill", lambda *_: False)
        patch.setattr(process, "REAP_TIMEOUT_S", 0.05)
        with pytest.RaisesGroup(BackendUnreapableError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                spawned = await nursery.start(
                    program(
                        STUBBORN, grace_s=1000, force_stop=force_stop, on_unkillable=force_stop.set
                    )
                )
                await heard.line()
                force_stop.set()
                nursery.cancel_scope.cancel()
    assert not spawned.exited.is_set()
    os.kill(spawned.pid, signal.SIGKILL)
    await spawned._process.wait()


async def test_cancelled_spawn_leaves_nothing(program, monkeypatch) -> None:
    """A start that is cancelled while the thread starts the program is undone."""
    pids: list[int] = []
    popen = subprocess.Popen

    def cancel_halfway(*args, **options):
        trio.from_thread.run_sync(scope.cancel)
        child = popen(*args, **options)
        pids.append(child.pid)
        return child

    monkeypatch.setattr(subprocess, "Popen", cancel_halfway)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(program(["sleep", "1000"]))
    assert scope.cancelled_caught
    assert len(pids) == 1
    assert procfs.start_time(pids[0]) is None


async def test_cancelled_before_the_spawn_starts_nothing(program, monkeypatch) -> None:
    """A scope that is cancelled already does not start a program."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with trio.CancelScope() as scope:
        scope.cancel()
        await program(["sleep", "1000"])()
    assert scope.cancelled_caught


async def test_failing_listener_stops_the_program(program) -> None:
    """A bug in whoever takes the output is raised, after the program has been ended."""

    def broken(_: bytes) -> None:
        raise RuntimeError("a bug")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a bug")):
        await program(POLITE, on_output=broken)()


@pytest.fixture
def unusable(tmp_path):
    """Make files that cannot be executed, each for its own reason."""
    files = {
        "plain": ("", 0o644),
        "no_interpreter": ("#!/no/such/interpreter\n", 0o755),
        "no_format": ("neither a script nor a program", 0o755),
    }
    for name, (content, mode) in files.items():
        path = tmp_path / name
        path.write_text(content)
        path.chmod(mode)
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "cwd", "why"),
    [
        (["no-such-program-anywhere"], None, "no such program on PATH"),
        (["/no/such/program"], None, "no such file"),
        (["./plain"], ".", "permission denied; is it an executable file?"),
        (["./no_interpreter"], ".", "the interpreter or loader that it names does not exist"),
        (["./no_format"], ".", "it is neither a program for this machine nor a script"),
        (["sleep", "9"], "missing", "cannot be entered (No such file or directory)"),
        (["sleep", "9"], "plain", "cannot be entered (Not a directory)"),
        (["sleep", "9\0"], None, "embedded null byte"),
        ([], None, "its command is empty"),
    ],
)
async def test_spawn_error_says_why(program, unusable, argv, cwd, why) -> None:
    """A program that cannot be started is one clear sentence, and not worth a retry."""
    with pytest.raises(SpawnError) as caught:
        await program(argv, cwd=unusable / cwd if cwd else None)()
    assert why in str(caught.value)
    assert not argv or repr(argv[0]) in str(caught.value)
    assert not caught.value.retryable
    assert caught.value.cause == (None if argv[:1] in (["sleep"], []) else "command_missing")


async def test_too_many_open_files_may_pass(program) -> None:
    """Running out of descriptors is said, and is worth a retry."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(SpawnError, match="too many open files") as caught:
            await program(["sleep", "9"])()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.retryable


async def test_no_descriptor_leaks(program, heard) -> None:
    """Runs that end, are stopped or cannot start leave no file open."""
    await program("pass")()  # opens what is kept for good

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(3):
        await program("say('x')", stdin="pipe")()
        await heard.line()
        await stop(program(POLITE, stdin="pipe"), heard)
        assert await heard.line() == "bye"
        with pytest.raises(SpawnError):
            await program(["no-such-program-anywhere"], stdin="pipe")()
    assert open_files() == before


async def test_standard_input(nursery, program, heard) -> None:
    """What is written arrives; what cannot be written is said, and harms nobody."""
    code = "say(sys.stdin.readline().strip()); say(repr(sys.stdin.read()))"
    async with trio.open_nursery() as running:
        spawned = await running.start(program(code, stdin="pipe"))
        assert spawned.write(b"hello\n")
        assert await heard.line() == "hello"
        spawned.close_stdin()
        spawned.close_stdin()
        assert not spawned.write(b"too late\n")
        assert await heard.line() == "''"
    assert not spawned.write(b"far too late\n")


async def test_full_standard_input_does_not_block(program, heard) -> None:
    """A program that does not read cannot hold up who writes."""
    async with trio.open_nursery() as nursery:
        spawned = await nursery.start(program(POLITE, stdin="pipe"))
        await heard.line()
        while spawned.write(bytes(4096)):
            pass
        nursery.cancel_scope.cancel()
    assert spawned.returncode == 0


async def test_no_standard_input(nursery, program, heard) -> None:
    """Without a pipe the program reads end-of-file at once, and writing is refused."""
    async with trio.open_nursery() as running:
        spawned = await running.start(program("say(repr(sys.stdin.read()))"))
        assert not spawned.write(b"x")
        assert await heard.line() == "''"


async def test_environment_is_what_was_given(program, heard) -> None:
    """Nothing of the router's environment leaks; the marker is added."""
    env = {"PATH": "/bin:/usr/bin", "LC_CTYPE": "C.UTF-8"}
    await program("say(sorted(os.environ.items()))", env=env)()
    wanted = sorted({**env, procfs.BACKEND_VARIABLE: MARKER}.items())
    assert await heard.line() == repr(wanted)


async def test_program_leads_a_session(program, heard) -> None:
    """Pid, session and group are one; the start time is the kernel's."""
    async with trio.open_nursery() as nursery:
        spawned = await nursery.start(program(POLITE))
        stat = procfs.read_stat(spawned.pid)
        assert (stat.session, stat.pgrp) == (spawned.pid, spawned.pid)
        assert stat.start_time == spawned.start_time
        assert spawned.pid in process_tree.running_leaders()
        nursery.cancel_scope.cancel()
    assert spawned.pid not in process_tree.running_leaders()
