"""Control groups of the real kernel, where this machine lets us make some."""

import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from llama_router.process import cgroup, procfs
from llama_router.process.cgroup import ControlGroup
from llama_router.process.process import run_process
from tests.process.harness import start_time
from tests.process.real import LIMIT_S, chat, make_models, model_table, serving, write_config

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

#: Moves itself into the group $GROUP, as systemd would have started it there.
ENTER = ("sh", "-c", 'echo $$ > "$GROUP/cgroup.procs" && exec "$0" "$@"')

#: Leaves everything by which it could be known: session, parent and environment.
ESCAPES = """
import os, sys, time
sys.stdin.readline()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
    os._exit(0)
os.wait()
sys.stdout.write("escaped\\n")
sys.stdout.flush()
time.sleep(600)
"""


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def service(tmp_path, monkeypatch) -> Iterator[Path]:
    """A control group that says it was delegated, as systemd makes them for ``Delegate=yes``."""
    own = cgroup._own_group(Path("/proc/self"))
    if own is None:
        pytest.skip("this machine has no unified hierarchy of control groups")
    path = own / f"llama-router-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError as exc:
        pytest.skip(f"control groups cannot be made here: {exc.strerror}")
    monkeypatch.setenv("GROUP", str(path))
    try:
        try:
            os.setxattr(path, "user.delegate", b"1")
        except OSError as exc:
            pytest.skip(f"control groups cannot be marked here: {exc.strerror}")
        yield path
    finally:
        ControlGroup(path).kill()
        until_empty(path)
        for below in path.glob("*/"):
            below.rmdir()
        path.rmdir()


def until_empty(path: Path) -> None:
    """Wait until everybody who was killed there has ended."""
    with (path / "cgroup.events").open() as events:
        changes = select.poll()
        changes.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            assert changes.poll(LIMIT_S * 1000)
            events.seek(0)


def groups_of(pid: int) -> str:
    """Return the control group of a process."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


async def test_whoever_escaped_everything_else_ends_with_its_group(service) -> None:
    """A daemon without session, parent and environment is found by its control group only."""
    group = ControlGroup(service / "backend-1-a")
    group.path.mkdir()
    said, lines = trio.open_memory_channel[bytes](100)
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                run_process,
                [sys.executable, "-c", ESCAPES],
                env=dict(os.environ),
                cwd=None,
                stdin="pipe",
                grace_s=5.0,
                force_stop=trio.Event(),
                on_output=said.send_nowait,
                on_unkillable=lambda: None,
                marker="x.1",
                group=group,
            )
        )
        assert process.write(b"go\n")
        heard = b""
        while b"escaped" not in heard:
            heard += await lines.receive()
        (escaped,) = group.members() - {process.pid}
        at = start_time(escaped)
        assert procfs.alive(escaped, at)
        nursery.cancel_scope.cancel()
    assert not procfs.alive(escaped, at)
    assert not group.populated()
    group.remove()
    assert not group.path.exists()


async def test_what_was_started_before_the_move_is_moved_too(service) -> None:
    """A shell may have forked before its parent could put it into the group."""
    group = ControlGroup(service / "backend-1-a")
    group.path.mkdir()
    process = await trio.lowlevel.open_process(
        ["sh", "-c", "sleep 600 & sleep 600 & echo; wait"], stdout=-1, start_new_session=True
    )
    await process.stdout.receive_some(1)
    assert group.add_tree(process.pid)
    assert group.members() == {process.pid, *procfs.descendants(process.pid)}
    assert len(group.members()) == 3
    group.kill()
    await process.wait()
    assert process.returncode == -signal.SIGKILL
    await process.stdout.aclose()


async def test_a_process_that_is_gone_is_not_enlisted(service) -> None:
    """It ended before it could be moved; that is nobody's mistake."""
    group = ControlGroup(service / "backend-1-a")
    group.path.mkdir()
    process = await trio.lowlevel.open_process(["true"])
    await process.wait()
    assert not group.add_tree(process.pid)


@pytest.mark.embedded
async def test_each_backend_of_a_router_has_its_group(service, tmp_path, tmp_path_factory) -> None:
    """The router moves down, each backend gets a group, and it is gone after a swap."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    models = make_models(tmp_path_factory)
    config = write_config(tmp_path, model_table(models, "a"), model_table(models, "b"))
    async with serving(config, launcher=ENTER) as router, router.client() as client:
        assert (await router.event("cgroup.adopted"))["path"] == str(service)
        assert Path(groups_of(router.process.pid)).name == "router"
        for name, other in (("a", "2-b"), ("b", "1-a")):
            assert (await client.post("/v1/chat/completions", json=chat(name))).status_code == 200
            spawned = router.named("backend.spawned")[-1]
            assert Path(groups_of(spawned["pid"])).name.endswith(f"-{name}")
            left = service / f"backend-{other}"
            assert not left.exists() or not ControlGroup(left).populated()
        router.signal(signal.SIGTERM)
        assert await router.process.wait() == 0
        await router.event("router.stopped")
    left = [path for path in service.glob("backend-*/") if ControlGroup(path).populated()]
    assert left == []


async def test_without_the_mark_nothing_is_different(service, tmp_path) -> None:
    """A group that was not delegated is left as it is."""
    os.removexattr(service, "user.delegate")
    command = f'["{sys.executable}", "-c", "raise SystemExit(3)"]'
    config = write_config(tmp_path, f"[models.a.spawn]\ncommand = {command}\n")
    async with serving(config, launcher=ENTER) as router, router.client() as client:
        assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 503
        assert router.named("cgroup.adopted") == []
        assert Path(groups_of(router.process.pid)).name == service.name
        assert list(service.glob("*/")) == []
