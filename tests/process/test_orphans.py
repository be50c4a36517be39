"""No orphan, ever: what a killed router leaves is ended by its guardian, or by the next start."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from llama_router.process import procfs
from tests.limits import stretched_s
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    chat,
    endless_table,
    make_models,
    model_table,
    serving,
    started,
    write_config,
)

pytestmark = pytest.mark.process

#: A killed router's processes must be gone within this time, in seconds, on an idle machine.
GONE_WITHIN_S = 2

CHAT_PATH = "/v1/chat/completions"

# Each child of a backend tells the test its pid, once it is where it wants to be.
_REPORT = """
import os, socket, time
def report():
    line = socket.create_connection(("127.0.0.1", {port}))
    line.sendall(b"%d\\n" % os.getpid())
    time.sleep(600)
"""
_PLAIN = _REPORT + "report()\n"
_OWN_SESSION = _REPORT + "os.setsid(); report()\n"
_DAEMON = _REPORT + "os.setsid()\nif os.fork() == 0: report()\n"
_CHILDREN = (_PLAIN, _OWN_SESSION, _DAEMON)


class Watched:
    """Processes that must end; each is held by a pidfd, so that it is never mistaken."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}

    def add(self, pids: Iterable[int]) -> None:
        """Watch these, too, unless they are gone already."""
        for pid in pids:
            with suppress(ProcessLookupError):
                self._handles[pid] = os.pidfd_open(pid)

    @property
    def pids(self) -> set[int]:
        """Who is watched."""
        return set(self._handles)

    async def all_gone(self) -> None:
        """Wait until all have ended, but not for long."""
        waiting = set(self._handles)
        with trio.move_on_after(stretched_s(GONE_WITHIN_S)):
            for pid, handle in self._handles.items():
                await trio.lowlevel.wait_readable(handle)
                waiting.discard(pid)
        assert not waiting, f"still there: {waiting}"

    def close(self) -> None:
        """Kill whoever is left: a test that failed must not leave orphans either."""
        for handle in self._handles.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    """Who must be gone at the end, and the deadline of the test."""
    watched = Watched()
    try:
        with trio.fail_after(LIMIT_S):
            yield watched
    finally:
        watched.close()


async def ready(router: RealRouter) -> None:
    """Wait until *router* serves."""
    router.url = (await router.event("router.ready"))["urls"][0]


async def start_stream(router: RealRouter, model: str) -> None:
    """Ask *model* for a stream without end, and return when it runs."""
    running = trio.Event()

    async def read() -> None:
        async with (
            router.client() as client,
            client.stream("POST", CHAT_PATH, json=chat(model, stream=True)),
        ):
            running.set()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await running.wait()
        nursery.cancel_scope.cancel()


def guardian_of(router: RealRouter) -> int:
    """Return the pid of the guardian of *router*."""
    (guardian,) = (
        pid
        for pid in procfs.children(router.process.pid)
        if b"llama_router.process.guardian" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return guardian


async def start_with_children(router: RealRouter, listener: trio.SocketListener) -> set[int]:
    """Load model a, and return the pids of its children once all have told theirs."""
    await ready(router)
    pids: set[int] = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start_stream, router, "a")
        while len(pids) < len(_CHILDREN):
            async with await listener.accept() as line:
                pids.add(int(await line.receive_some()))
    return pids


@pytest.fixture
async def listener() -> AsyncIterator[trio.SocketListener]:
    """Where the children of a backend report."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        yield listener


def with_children(folder: Path, listener: trio.SocketListener) -> str:
    """Return the table of model a, whose backend has children that try to get away."""
    port = listener.socket.getsockname()[1]
    return endless_table(folder, "a", *(source.format(port=port) for source in _CHILDREN))


@pytest.mark.embedded
async def test_a_killed_router_leaves_no_embedded_server(
    watched, tmp_path, tmp_path_factory
) -> None:
    """SIGKILL of the router ends the real servers of a whole group, and the guardian."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    models = make_models(tmp_path_factory)
    config = write_config(tmp_path, *(model_table(models, name, 'group = "g"') for name in "ab"))
    async with started(config, "--port", "0") as router:
        await ready(router)
        async with router.client() as client:
            for model in "ab":
                assert (await client.post(CHAT_PATH, json=chat(model))).status_code == 200
        watched.add(router.family())
        assert len(watched.pids) == 3
        router.process.kill()
        await watched.all_gone()


async def test_a_killed_router_leaves_no_grandchild(watched, listener, tmp_path) -> None:
    """SIGKILL of the router ends a backend's children: in its session, in their own, detached."""
    config = write_config(tmp_path, with_children(tmp_path, listener))
    async with started(config, "--port", "0") as router:
        children = await start_with_children(router, listener)
        watched.add({*children, *router.family()})
        backend = (await router.event("backend.spawned"))["pid"]
        assert watched.pids >= {backend, guardian_of(router), *children}
        router.process.kill()
        await watched.all_gone()


async def test_a_router_killed_while_a_backend_starts_leaves_none(watched, tmp_path) -> None:
    """SIGKILL of the router during a load ends what was being loaded."""
    sleeper = f"""
[models.a]
spawn.command = ["{sys.executable}", "-c", "import time; time.sleep(600)"]
"""
    config = write_config(tmp_path, sleeper, router=['startup_model = "a"'])
    async with started(config, "--port", "0") as router:
        spawned = await router.event("backend.spawned")
        watched.add(router.family())
        assert spawned["pid"] in watched.pids
        router.process.kill()
        await watched.all_gone()


async def test_the_next_start_sweeps_what_even_the_guardian_left(
    watched, listener, tmp_path
) -> None:
    """If the guardian is killed first, the next router with that state directory cleans up."""
    config = write_config(tmp_path, with_children(tmp_path, listener))
    async with started(config, "--port", "0") as router:
        children = await start_with_children(router, listener)
        backend = (await router.event("backend.spawned"))["pid"]
        left = {backend, *children}
        watched.add(left)
        guardian = guardian_of(router)
        router.signal(signal.SIGSTOP)  # or it would start another guardian
        os.kill(guardian, signal.SIGKILL)
        router.process.kill()
        await router.process.wait()
    assert all(procfs.start_time(pid) is not None for pid in left)
    async with serving(config) as successor:
        swept = await successor.event("backend.swept")
        await watched.all_gone()
        assert swept["models"] == ["a"]
        assert set(swept["killed"]) == left
        assert swept["survivors"] == []
        names = [event["event"] for event in successor.events]
        assert names.index("backend.swept") < names.index("router.ready")
    assert list((tmp_path / "state" / "instances").iterdir()) == []
