"""What a dead router left is found by its record, and nobody else is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from llama_router.process import instances, procfs, treekill
from llama_router.process.instances import InstanceRecord, SweepOutcome, sweep
from tests.process.harness import start_time

pytestmark = pytest.mark.process

#: A router that was killed together with its guardian: it records two backends, prints
#: their pids, and waits. One leaves its session and wipes its environment; one is marked.
ROUTER = """
import os, signal, subprocess, sys
from pathlib import Path
from llama_router.process import procfs
from llama_router.process.instances import InstanceRecord
state_dir, instance = sys.argv[1:]
record = InstanceRecord(Path(state_dir), instance)
BACKEND = '''
import os, signal, subprocess
def sleeper(**options): return subprocess.Popen(["sleep", "1000"], **options).pid
print(os.getpid(), sleeper(env={}), sleeper(env={}, start_new_session=True), flush=True)
signal.pause()
'''
env = {"PATH": os.environ["PATH"], procfs.INSTANCE_VARIABLE: instance}
backend = subprocess.Popen([sys.executable, "-S", "-c", BACKEND], env=env,
    stdout=subprocess.PIPE, start_new_session=True)
line = backend.stdout.readline().decode().strip()
record.add(backend.pid, procfs.start_time(backend.pid), argv=["x"], model="m", marker="b.1")
marked = subprocess.Popen(["sleep", "1000"], start_new_session=True,
    env={**env, procfs.BACKEND_VARIABLE: "b.2"})
print(line, marked.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def instance():
    """Return a marker for this test, and see to it that nothing of it stays."""
    marker = f"test-instances-{os.getpid()}"
    yield marker
    assert treekill.Trees({}, {marker}).end(timeout_s=5) == {}


@pytest.fixture
def stranger(instance):
    """Return a process that leads its own session."""
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield child
    child.kill()
    child.wait()


def edit(path, **changes) -> None:
    """Change a record on disk."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def add(record, pid, **changes) -> None:
    """Record *pid* as a backend."""
    given: dict[str, Any] = {
        "start_time": procfs.start_time(pid),
        "argv": [],
        "model": "m",
        "marker": "m.1",
    }
    record.add(pid, **(given | changes))


def dead(record) -> None:
    """Make it look as if *record*'s router were dead: its pid is another process now."""
    edit(record.path, router_start_time=1)


def test_leftovers_of_a_killed_router_are_ended(tmp_path, instance) -> None:
    """Backend, session mate, escapee and marked process go, and so does the record."""
    router = subprocess.Popen(
        [sys.executable, "-c", ROUTER, str(tmp_path), instance], stdout=subprocess.PIPE
    )
    family = list(map(int, router.stdout.readline().split()))
    router.stdout.close()
    router.kill()
    router.wait()
    assert [pid for pid in family if procfs.state(pid) in {None, "Z"}] == []
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.SWEPT
    assert swept.killed == set(family)
    assert swept.survivors == frozenset()
    assert swept.models == ("m",)
    assert [pid for pid in family if procfs.state(pid) not in {None, "Z"}] == []
    assert list((tmp_path / "instances").iterdir()) == []
    assert sweep(tmp_path) == []


def test_living_router_is_left_alone(tmp_path, instance, stranger) -> None:
    """The record of a router that runs, and its backends, are nobody else's business."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    before = record.path.read_bytes()
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.LIVING
    assert record.path.read_bytes() == before
    assert stranger.poll() is None


def test_recycled_pid_is_spared(tmp_path, instance, stranger) -> None:
    """A process with the same pid and another start time is a stranger, as is its session."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid, start_time=start_time(stranger.pid) + 1)
    dead(record)
    (swept,) = sweep(tmp_path)
    assert (swept.outcome, swept.killed) == (SweepOutcome.SWEPT, frozenset())
    assert stranger.poll() is None
    assert not record.path.exists()


def test_session_without_its_leader_is_spared(tmp_path, instance) -> None:
    """If the backend itself is gone, its session's number may be somebody else's."""
    leader = subprocess.Popen(
        ["sh", "-c", "sleep 1000 >&2 & echo $!"], stdout=subprocess.PIPE, start_new_session=True
    )
    member = int(leader.communicate()[0])
    record = InstanceRecord(tmp_path, instance)
    add(record, leader.pid, start_time=1)
    dead(record)
    sweep(tmp_path)
    assert procfs.read_stat(member).session == leader.pid
    os.kill(member, signal.SIGKILL)


def test_earlier_boot_leaves_only_a_file(tmp_path, instance, stranger) -> None:
    """Pids of another boot mean nothing: the record goes, every process stays."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    edit(record.path, boot_id="another")
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.OTHER_BOOT
    assert not record.path.exists()
    assert stranger.poll() is None


def test_other_container_is_left_alone(tmp_path, instance, stranger) -> None:
    """Pids of another namespace mean nothing, but its router may well live."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    edit(record.path, pid_namespace="pid:[1]", router_start_time=1)
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.SKIPPED
    assert record.path.exists()
    assert stranger.poll() is None


def test_survivor_keeps_its_record(tmp_path, instance, stranger, monkeypatch) -> None:
    """What does not die is reported, and looked for again by the next sweep."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    dead(record)
    with monkeypatch.context() as patch:
        patch.setattr(treekill, "kill", lambda *_: False)
        patch.setattr(os, "killpg", lambda *_: None)
        (swept,) = sweep(tmp_path, timeout_s=0.05)
    assert (swept.outcome, swept.survivors) == (SweepOutcome.SURVIVED, {stranger.pid})
    (swept,) = sweep(tmp_path)
    assert (swept.outcome, swept.killed) == (SweepOutcome.SWEPT, {stranger.pid})
    assert stranger.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda path: path.write_text(""), id="empty"),
        pytest.param(lambda path: path.write_text("{"), id="half"),
        pytest.param(lambda path: path.write_bytes(b"\xff\xfe"), id="binary"),
        pytest.param(lambda path: path.write_text("[]"), id="foreign"),
        pytest.param(lambda path: path.write_text('{"boot_id": 1}'), id="wrong types"),
        pytest.param(lambda path: path.mkdir(), id="directory"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), id="link"),
        pytest.param(lambda path: path.symlink_to("missing"), id="dangling link"),
        pytest.param(os.mkfifo, id="named pipe"),
        pytest.param(
            lambda path: path.write_text(" " * (instances.MAX_RECORD_BYTES + 1)), id="huge"
        ),
    ],
)
def test_what_is_no_record_is_skipped(tmp_path, instance, stranger, make) -> None:
    """A broken file is reported and stays; the records beside it are swept."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    dead(record)
    broken = tmp_path / "instances" / "a.json"
    make(broken)
    skipped, swept = sweep(tmp_path)
    assert (skipped.path, skipped.outcome) == (broken, SweepOutcome.SKIPPED)
    assert skipped.reason
    assert os.path.lexists(broken)
    assert swept.killed == {stranger.pid}


def test_record_of_another_user_is_skipped(tmp_path, instance, stranger, monkeypatch) -> None:
    """Nobody may have this user's processes killed by leaving a file."""
    record = InstanceRecord(tmp_path, instance)
    add(record, stranger.pid)
    dead(record)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.SKIPPED
    assert stranger.poll() is None


def test_nothing_to_sweep(tmp_path) -> None:
    """The first start ever finds no directory, and no file that is no record."""
    assert sweep(tmp_path) == []
    assert sweep(tmp_path / "missing") == []
    (tmp_path / "instances").mkdir()
    (tmp_path / "instances" / "notes.txt").touch()
    assert sweep(tmp_path) == []


def test_directory_that_cannot_be_listed(tmp_path) -> None:
    """It is reported, and does not keep the router from starting."""
    (tmp_path / "instances").touch()
    (swept,) = sweep(tmp_path)
    assert swept.outcome is SweepOutcome.SKIPPED


def test_record_follows_what_runs(tmp_path, instance) -> None:
    """Backends come and go in the file, and a clean end removes it."""
    record = InstanceRecord(tmp_path, instance)
    assert record.path == tmp_path / "instances" / f"{instance}.json"
    record.add(11, 22, argv=["a", "b"], model="m", marker="x.1")
    record.add(33, 44, argv=["c"], model="n", marker="x.2")
    record.remove(11)
    record.remove(99)
    content = json.loads(record.path.read_text())
    assert content["backends"] == [
        {"pid": 33, "start_time": 44, "argv": ["c"], "model": "n", "marker": "x.2"}
    ]
    assert content["router_pid"] == os.getpid()
    assert content["router_start_time"] == start_time(os.getpid())
    record.close()
    record.close()
    assert list(record.path.parent.iterdir()) == []


def test_record_is_never_half_written(tmp_path, instance) -> None:
    """A write that fails leaves the last whole record, and the next one holds everything."""
    record = InstanceRecord(tmp_path, instance)
    record.add(1, 2, argv=[], model="m", marker="x.1")
    before = record.path.read_bytes()
    away = record.path.parent.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        record.add(3, 4, argv=[], model="n", marker="x.2")
    away.rename(record.path.parent)
    assert record.path.read_bytes() == before
    record.remove(1)
    assert [each["pid"] for each in json.loads(record.path.read_text())["backends"]] == [3]


def test_half_written_file_of_a_killed_router_is_removed(tmp_path, instance) -> None:
    """Nothing is left of a router that was killed while it wrote its record."""
    record = InstanceRecord(tmp_path, instance)
    dead(record)
    killed_while_writing = (
        "import os, pathlib, sys; from llama_router.files import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary: temporary.touch(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", killed_while_writing, record.path], check=True)
    assert len(list(record.path.parent.iterdir())) == 2
    assert [swept.outcome for swept in sweep(tmp_path)] == [SweepOutcome.SWEPT]
    assert list(record.path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_instance_is_a_plain_name(tmp_path, name) -> None:
    """A record is always in its directory."""
    with pytest.raises(ValueError, match="plain name"):
        InstanceRecord(tmp_path, name)
