"""What /proc says is read right, about real processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from llama_router.process import port_owner, procfs, treekill
from llama_router.process.family import Leader, families
from llama_router.process.port_owner import foreign_listener
from tests.process.harness import start_time

pytestmark = pytest.mark.process

# Of these tests alone: others run on the same machine at the same time.
MARKER = f"test-proctree.{os.getpid()}.1"

SLEEPER = "import signal; print('up', flush=True); signal.pause()"


@pytest.fixture
def spawn(request):
    """Return a function that runs Python code and waits for its first line of output."""

    def start(code=SLEEPER, **options):
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE,
            start_new_session=True, **options,
        )  # fmt: skip

        def end():
            child.kill()
            child.communicate()

        request.addfinalizer(end)
        vars(child)["first_line"] = child.stdout.readline().decode().strip()
        return child

    return start


def test_start_time_names_a_process() -> None:
    """A process has one start time, which is its own; a pid that nobody has has none."""
    assert start_time(os.getpid()) == start_time(os.getpid())
    assert procfs.alive(os.getpid(), start_time(os.getpid()))
    assert not procfs.alive(os.getpid(), start_time(os.getpid()) + 1)
    assert procfs.start_time(2**22 + 1) is None
    assert procfs.state(2**22 + 1) is None


def test_a_program_may_have_any_name(spawn) -> None:
    """Spaces and parentheses in the name do not shift the fields."""
    child = spawn(
        "import signal; open('/proc/self/comm', 'w').write('a) R 1 (b');"
        "print('up', flush=True); signal.pause()"
    )
    stat = procfs.read_stat(child.pid)
    assert (stat.ppid, stat.pgrp, stat.session) == (os.getpid(), child.pid, child.pid)
    now_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    assert 0 <= now_ticks - stat.start_time < 60 * os.sysconf("SC_CLK_TCK")
    assert procfs.state(child.pid) in {"R", "S"}


def test_zombie_counts_as_gone(spawn) -> None:
    """A dead process that nobody reaped is no member of anything."""
    child = spawn()
    started = start_time(child.pid)
    assert procfs.alive(child.pid, started)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.state(child.pid) == "Z"
    assert start_time(child.pid) == started
    assert not procfs.alive(child.pid, started)
    assert child.pid not in procfs.session_members([child.pid])
    assert child.pid in procfs.children(os.getpid())
    assert child.pid not in procfs.descendants(os.getpid())


def test_zombie_leader_with_threads_is_alive(spawn) -> None:
    """A process whose first thread ended still runs while it has others."""
    child = spawn(
        "import ctypes, threading, signal\n"
        "def stay(): main.join(0.0); print('up', flush=True); signal.pause()\n"
        "main = threading.current_thread()\n"
        "threading.Thread(target=stay).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit(2), of this thread only
    )
    stat = procfs.read_stat(child.pid)
    deadline_s = time.monotonic() + 10
    while procfs.state(child.pid) != "Z":  # no event tells of it
        assert time.monotonic() < deadline_s
        os.sched_yield()
    assert procfs.alive(child.pid, stat.start_time)


FOREST = """
import subprocess, sys, signal
if len(sys.argv) < 2:
    sys.argv += ["2"]
depth = int(sys.argv[1])
pids = ""
if depth:
    kid = subprocess.Popen([sys.executable, "-S", "-c", CODE, str(depth - 1)],
        stdout=subprocess.PIPE, start_new_session=depth == 1)
    pids = f"{kid.pid} {kid.stdout.readline().decode().strip()}"
print(pids, flush=True)
signal.pause()
"""


@pytest.fixture
def forest(spawn):
    """Run a child, its child, and that one's child in a session of its own."""
    source = f"CODE = {FOREST!r}\nCODE = 'CODE = ' + repr(CODE) + chr(10) + CODE\n" + FOREST
    root = spawn(source)
    family = [root.pid, *map(int, root.first_line.split())]
    starts = {pid: start_time(pid) for pid in family}
    yield family
    for pid, started in starts.items():
        treekill.kill(pid, started)


@pytest.mark.parametrize("listed", [True, False])
def test_descendants_at_every_depth(forest, monkeypatch, listed) -> None:
    """Children of children are found, with the kernel's lists and without."""
    if not listed:
        read = procfs._read
        monkeypatch.setattr(
            procfs, "_read", lambda path: None if path.endswith("/children") else read(path)
        )
    root, kid, grandkid = forest
    assert procfs.children(root) == {kid}
    assert procfs.descendants(root) == {kid, grandkid}
    assert procfs.descendants(grandkid) == set()
    assert root in procfs.children(os.getpid())


def test_session_members(forest) -> None:
    """A session is what its leader started, less what left it."""
    root, kid, grandkid = forest
    assert procfs.session_members([root]) == {root, kid}
    assert procfs.session_members([root, grandkid]) == {root, kid, grandkid}
    assert procfs.session_members([]) == set()


def test_marker_is_compared_as_a_whole(spawn) -> None:
    """Only the two variables count, and only their exact value."""
    one = spawn(env={procfs.INSTANCE_VARIABLE: MARKER})
    two = spawn(env={procfs.BACKEND_VARIABLE: MARKER})
    spawn(env={procfs.INSTANCE_VARIABLE: MARKER + "2"})
    spawn(env={"OTHER": MARKER, "X" + procfs.INSTANCE_VARIABLE: MARKER})
    assert procfs.marked(MARKER) == {one.pid, two.pid}
    assert procfs.markers_of(one.pid) == {MARKER}
    assert procfs.marked(MARKER + "3") == set()


def test_environment_in_the_middle_of_execve_is_unknown(spawn, monkeypatch) -> None:
    """While a program is being executed nobody can say whose it is, and the tree is not gone."""
    child = spawn(env={procfs.INSTANCE_VARIABLE: MARKER})
    read = procfs._read

    def in_execve(path):
        content = read(path)
        if path == f"/proc/{child.pid}/environ":
            return b""
        if path == f"/proc/{child.pid}/stat":
            head, paren, tail = content.rpartition(b")")
            fields = tail.split()
            fields[procfs._ENV_END] = b"0"
            return head + paren + b" " + b" ".join(fields)
        return content

    trees = treekill.Trees({}, {MARKER})
    with monkeypatch.context() as patch:
        patch.setattr(procfs, "_read", in_execve)
        assert procfs.markers_of(child.pid) is None
        assert trees.find() == {}
        assert trees.unreadable
    assert set(trees.find()) == {child.pid}
    assert not trees.unreadable


def test_empty_environment_is_known_to_be_empty(spawn) -> None:
    """A process without any variable and a zombie carry no marker."""
    assert procfs.markers_of(spawn(env={}).pid) == frozenset()
    child = spawn(env={procfs.INSTANCE_VARIABLE: MARKER})
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.markers_of(child.pid) == frozenset()


def test_boot_id_is_stable() -> None:
    """It does not change while the machine runs."""
    assert procfs.boot_id() == procfs.boot_id() != ""


def test_listener_is_found_by_the_address_it_answers(spawn) -> None:
    """The owner of a port is known, on loopback, wildcard and IPv6."""
    code = (
        "import socket, signal; s = socket.socket(socket.{family}); s.bind(({host!r}, 0));"
        "s.listen(); print(s.getsockname()[1], flush=True); signal.pause()"
    )
    v4 = spawn(code.format(family="AF_INET", host="127.0.0.1"))
    wild = spawn(code.format(family="AF_INET", host="0.0.0.0"))
    dual = spawn(code.format(family="AF_INET6", host="::"))
    other = spawn(code.format(family="AF_INET", host="127.0.0.2"))
    for child in (v4, wild, dual):
        assert port_owner.listener_owner(int(child.first_line)) == {child.pid}
    assert port_owner.listener_owner(int(other.first_line)) == set()
    assert port_owner.listener_owner(int(other.first_line), "127.0.0.2") == {other.pid}
    assert port_owner.listener_owner(int(dual.first_line), "::1") == {dual.pid}
    assert port_owner.listener_owner(int(v4.first_line), "::1") == set()


def test_a_port_that_is_shared_has_several_owners(spawn) -> None:
    """Also if a candidate is one of them: half of the connections go to somebody else."""
    code = (
        "import socket, signal; s = socket.socket();"
        "s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(('127.0.0.1', {port}));"
        "s.listen(); print(s.getsockname()[1], flush=True); signal.pause()"
    )
    one = spawn(code.format(port=0))
    port = int(one.first_line)
    assert foreign_listener(port, one.pid) is None
    two = spawn(code.format(port=port))
    for owner, stranger in ((one, two), (two, one)):
        assert port_owner.listener_owner(port, candidates=[owner.pid]) == {one.pid, two.pid}
        said = foreign_listener(port, owner.pid)
        assert said is not None
        assert f"port {port} is answered by process {stranger.pid}," in said


def test_candidates_come_first() -> None:
    """Whoever of the candidates holds the socket is enough; a wrong candidate does no harm."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_owner.listener_owner(port, candidates=[os.getpid()]) == {os.getpid()}
        assert os.getpid() in port_owner.listener_owner(port, candidates=[1, 2**22 + 1])
        assert port_owner.listener_inodes(port)
    assert not port_owner.listener_inodes(port)
    assert port_owner.listener_owner(port) == set()


def test_bound_but_not_listening_is_no_listener() -> None:
    """A port that is only bound, or a connection's own port, is not listened on."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not port_owner.listener_inodes(bound.getsockname()[1])
        with socket.create_connection(server.getsockname()) as client:
            assert not port_owner.listener_inodes(client.getsockname()[1])


def test_kill_spares_who_reuses_the_pid(spawn) -> None:
    """The same pid with another start time is another process."""
    child = spawn()
    started = start_time(child.pid)
    assert not treekill.kill(child.pid, started - 1)
    assert child.poll() is None
    assert treekill.kill(child.pid, started)
    assert child.wait() == -signal.SIGKILL
    assert not treekill.kill(child.pid, started)


def test_trees_end_their_own_and_nobody_else(forest, spawn) -> None:
    """A tree goes with those who left its session; a tree of a recycled pid stays."""
    bystander = spawn()
    root, kid, grandkid = forest
    live = {pid: start_time(pid) for pid in forest}
    recycled = {bystander.pid: start_time(bystander.pid) + 1}
    trees = treekill.Trees({root: live[root], **recycled})
    assert trees.end(timeout_s=10) == {}
    assert trees.killed == {root, kid, grandkid}
    assert bystander.poll() is None


def test_trees_find_marked_processes(spawn) -> None:
    """Without any root, the marker alone is enough."""
    child = spawn(env={procfs.INSTANCE_VARIABLE: MARKER})
    trees = treekill.Trees({}, {MARKER})
    assert set(trees.find()) == {child.pid}
    assert trees.end(timeout_s=10) == {}
    assert child.wait() == -signal.SIGKILL


def test_survivors_are_reported(spawn, monkeypatch) -> None:
    """What does not die is said, once time is up."""
    child = spawn()
    monkeypatch.setattr(treekill, "kill", lambda *_: False)
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    started = start_time(child.pid)
    assert treekill.Trees({child.pid: started}).end(timeout_s=0.05) == {child.pid: started}


def test_orphans_come_to_who_adopts_them(spawn) -> None:
    """A process that adopts becomes the parent of a grandchild whose parent ends."""
    child = spawn(
        "import os, signal, sys; sys.path.insert(0, '.')\n"
        "from llama_router.process import procfs\n"
        "before = procfs.adopts_orphans()\n"
        "procfs.adopt_orphans()\n"
        "r, w = os.pipe()\n"
        "if (pid := os.fork()) == 0:\n"
        "    grandchild = os.fork()\n"
        "    if grandchild: os.write(w, str(grandchild).encode()); os._exit(0)\n"
        "    signal.pause()\n"
        "os.waitpid(pid, 0)\n"
        "print(before, procfs.adopts_orphans(), os.read(r, 9).decode(), flush=True)\n"
        "signal.pause()"
    )
    before, after, grandchild = child.first_line.split()
    assert (before, after) == ("False", "True")
    assert procfs.children(child.pid) == {int(grandchild)}
    treekill.Trees({child.pid: start_time(child.pid)}).end(timeout_s=10)


def test_a_backend_is_the_family_of_its_leader(spawn) -> None:
    """Its child counts, whatever session that has; the processes of another one do not."""
    with_child = spawn(
        "import os, signal; r, w = os.pipe(); pid = os.fork()\n"
        "if pid == 0: os.setsid(); os.write(w, b'1'); signal.pause()\n"
        "os.read(r, 1); print(pid, flush=True)\n"
        "import sys; sys.stdin.read(); os.kill(pid, 9)"
    )
    child, alone = int(with_child.first_line), spawn()
    try:
        found = families([Leader(with_child.pid), Leader(alone.pid)])
        assert found == {with_child.pid: {with_child.pid, child}, alone.pid: {alone.pid}}
    finally:
        os.kill(child, signal.SIGKILL)
