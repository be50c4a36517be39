"""What systemd is told, on real datagram sockets, and the sockets that it passes."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import trio
import trio.testing

from llama_router.event_feed import EventFeed
from llama_router.systemd.activation import ActivationError, take_listeners
from llama_router.systemd.manager import ServiceManager
from llama_router.systemd.notify import Notifier
from tests.process.real import (
    LIMIT_S,
    chat,
    endless_table,
    make_models,
    model_table,
    serving,
    started,
    write_config,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

#: Passes the descriptors in $FDS as systemd does: from 3 on, with its own pid.
ACTIVATE = (
    "bash",
    "-c",
    """
    n=3; for fd in $FDS; do eval "exec $n<&$fd"; n=$((n + 1)); done
    export LISTEN_PID=$$ LISTEN_FDS=$((n - 3)); exec "$0" "$@"
    """,
)


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """The folder of the models."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    return make_models(tmp_path_factory)


class Systemd:
    """The other end of the protocol.

    Attributes:
        name: What ``NOTIFY_SOCKET`` is set to.
        heard: Every field so far, but for signs of life and requests for time.
    """

    def __init__(self, address: str) -> None:
        self.name = address.replace("\0", "@")
        self._socket = trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = address
        self.heard: list[str] = []
        self.alive = 0

    async def bind(self) -> None:
        await self._socket.bind(self._address)

    def close(self) -> None:
        self._socket.close()

    async def message(self) -> list[str]:
        """Return the fields of the next message."""
        fields = (await self._socket.recv(65536)).decode().split("\n")
        self.alive += "WATCHDOG=1" in fields
        self.heard += [f for f in fields if not f.startswith(("WATCHDOG=", "EXTEND_"))]
        return fields

    async def field(self, wanted: str) -> list[str]:
        """Wait for a message with this field, and return all its fields."""
        while True:
            if wanted in (fields := await self.message()):
                return fields


@pytest.fixture(params=["path", "abstract"])
async def systemd(request, tmp_path, monkeypatch) -> AsyncIterator[Systemd]:
    """A service manager that listens on a socket of either kind."""
    paths = {"path": str(tmp_path / "notify"), "abstract": f"\0llama-router-test-{os.getpid()}"}
    manager = Systemd(paths[request.param])
    await manager.bind()
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    yield manager
    manager.close()


# -- notifications ------------------------------------------------------------------------


async def test_a_message_is_one_datagram(systemd) -> None:
    """The fields of one message come together, a line each."""
    notifier = Notifier.from_environ(os.environ)
    await notifier.send("READY=1", "STATUS=fine é")
    assert await systemd.message() == ["READY=1", "STATUS=fine é"]


async def test_a_message_waits_for_room(systemd) -> None:
    """While nobody reads, the queue of the socket fills; nothing is lost."""
    notifier = Notifier.from_environ(os.environ)
    number = 200
    async with trio.open_nursery() as nursery:

        async def send_all() -> None:
            for index in range(number):
                await notifier.send(f"STATUS={index}")

        nursery.start_soon(send_all)
        await trio.testing.wait_all_tasks_blocked()
        for index in range(number):
            assert await systemd.message() == [f"STATUS={index}"]


async def test_a_manager_that_is_not_there_is_an_error(tmp_path) -> None:
    """Nothing hangs when the socket does not exist."""
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    with pytest.raises(OSError, match="No such file"):
        await notifier.send("READY=1")


@pytest.mark.embedded
async def test_the_life_of_a_service(systemd, models, tmp_path, monkeypatch) -> None:
    """Loading, READY once the startup model is loaded, what runs, reload, STOPPING."""
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    table = model_table(models, "a"), model_table(models, "b")
    config = write_config(tmp_path, *table, router=['startup_model = "a"'])
    async with serving(config) as router:
        await systemd.field("READY=1")
        assert router.named("backend.ready")
        assert systemd.heard == ["STATUS=loading the startup model a", "READY=1"]
        await systemd.field("STATUS=2 models; running: a")
        async with router.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat("b"))
            assert answer.status_code == 200
        await systemd.field("STATUS=2 models; running: b")
        before_usec = time.monotonic_ns() // 1000
        router.signal(signal.SIGHUP)
        _, monotonic = await systemd.field("RELOADING=1")
        usec = int(monotonic.removeprefix("MONOTONIC_USEC="))
        assert before_usec <= usec <= time.monotonic_ns() // 1000
        await systemd.field("READY=1")
        alive = systemd.alive
        while systemd.alive < alive + 3:
            await systemd.message()
        router.signal(signal.SIGTERM)
        fields = await systemd.field("STOPPING=1")
        (extend,) = [f for f in fields if f.startswith("EXTEND_TIMEOUT_USEC=")]
        assert int(extend.partition("=")[2]) > 30e6  # drain_s
        assert await router.process.wait() == 0


async def test_a_loop_that_is_stuck_gives_no_sign_of_life(systemd) -> None:
    """Whatever holds up the loop that serves everybody holds up the watchdog, too."""
    manager = ServiceManager(Notifier.from_environ(os.environ), 0.02)
    async with trio.open_nursery() as nursery:
        arguments = (EventFeed(), lambda: "", trio.Event(), lambda: 0.0)
        await nursery.start(manager.run, *arguments)
        await systemd.field("WATCHDOG=1")
        await systemd.field("WATCHDOG=1")
        await trio.testing.wait_all_tasks_blocked()
        time.sleep(0.2)  # noqa: ASYNC251 -- this is what must be noticed
        waiting = 0
        with contextlib.suppress(BlockingIOError):
            while systemd._socket._sock.recv(65536):
                waiting += 1
        assert waiting <= 1
        nursery.cancel_scope.cancel()


async def test_a_reload_with_a_mistake_ends_too(tmp_path, monkeypatch) -> None:
    """systemd must not wait for ever for a file that cannot be used."""
    manager = Systemd(str(tmp_path / "notify"))
    await manager.bind()
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    async with serving(config) as router:
        await manager.field("READY=1")
        config.write_text("models = 3")
        router.signal(signal.SIGHUP)
        await manager.field("RELOADING=1")
        await manager.field("READY=1")
        await router.event("config.rejected")
    manager.close()


async def test_a_rejected_file_is_in_the_status(tmp_path, monkeypatch) -> None:
    """It names the line until the file is right again."""
    manager = Systemd(str(tmp_path / "notify"))
    await manager.bind()
    monkeypatch.setenv("NOTIFY_SOCKET", manager.name)
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    async with serving(config):
        await manager.field("STATUS=1 model; no model is running")
        right = config.read_text()
        config.write_text(f"nonsense = true\n{right}")
        await manager.field("STATUS=configuration rejected (line 1); 1 model; no model is running")
        config.write_text(right)
        await manager.field("STATUS=1 model; no model is running")
    manager.close()


@pytest.mark.parametrize("name", ["nowhere/socket", "vsock:2:1"])
async def test_without_a_usable_socket_it_serves_anyhow(tmp_path, monkeypatch, name) -> None:
    """What cannot be told is logged once, and costs nothing else."""
    monkeypatch.setenv("NOTIFY_SOCKET", name.replace("nowhere", str(tmp_path / "nowhere")))
    monkeypatch.setenv("WATCHDOG_USEC", "10000")
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    async with serving(config) as router, router.client() as client:
        await router.event("systemd.unreachable")
        assert (await client.get("/v1/models")).status_code == 200
    assert len(router.named("systemd.unreachable")) == 1


# -- socket activation --------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def test_it_serves_on_the_sockets_that_it_is_given(tmp_path, monkeypatch, listener) -> None:
    """On those of systemd's, TCP and UNIX, and not on the port of the configuration."""
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        monkeypatch.setenv("FDS", f"{listener.fileno()} {unix.fileno()}")
        monkeypatch.setenv("LISTEN_FDNAMES", "http:local")
        config = write_config(tmp_path, endless_table(tmp_path, "a"))
        fds = (listener.fileno(), unix.fileno())
        async with serving(config, launcher=ACTIVATE, pass_fds=fds) as router:
            port = listener.getsockname()[1]
            activated = await router.event("router.activated")
            assert activated["names"] == ["http", "local"]
            assert activated["urls"] == [f"http://127.0.0.1:{port}", f"unix:{path}"]
            async with router.client() as client:
                assert (await client.get("/v1/models")).status_code == 200
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as local:
                assert (await local.get("/v1/models")).json()["data"][0]["id"] == "a"


async def test_backends_do_not_inherit_the_sockets(tmp_path, monkeypatch, listener) -> None:
    """Neither the descriptors nor the variables about them."""
    seen = tmp_path / "seen"
    script = tmp_path / "look.py"
    script.write_text(
        "import os, sys\n"
        "names = [n for n in os.environ if n.startswith(('LISTEN', 'NOTIFY', 'WATCHDOG'))]\n"
        "seen = repr((names, os.listdir('/proc/self/fd')))\n"
        "open(sys.argv[1], 'w').write(seen)\n"
    )
    command = f'["{sys.executable}", "{script}", "{seen}"]'
    config = write_config(tmp_path, f"[models.a.spawn]\ncommand = {command}\n")
    monkeypatch.setenv("FDS", str(listener.fileno()))
    fds = (listener.fileno(),)
    async with (
        serving(config, launcher=ACTIVATE, pass_fds=fds) as router,
        router.client() as client,
    ):
        assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 503
    # 3 is the folder that is listed.
    assert seen.read_text() == "([], ['0', '1', '2', '3'])"


async def test_a_public_socket_without_keys_is_refused(tmp_path, monkeypatch) -> None:
    """Whoever opens the door, it must not be open for everybody unless that is said."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    with socket.create_server(("0.0.0.0", 0)) as public:
        monkeypatch.setenv("FDS", str(public.fileno()))
        fds = (public.fileno(),)
        async with started(config, launcher=ACTIVATE, pass_fds=fds) as router:
            assert (await router.event("router.failed"))["code"] == "public_bind_refused"
            assert await router.process.wait() == 1


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None, reason="systemd is not installed"
)
async def test_systemd_s_own_tool_starts_it(tmp_path, monkeypatch) -> None:
    """The first client makes systemd-socket-activate start the router, and is served."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    path = tmp_path / "socket"
    launcher = ("systemd-socket-activate", "--listen", str(path), "--setenv=PYTHONPATH")
    async with started(config, launcher=launcher) as router:
        while not any("Listening on" in said for said in router.said):
            await router._news.wait()
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/v1/models")).status_code == 200
        await router.event("router.activated", urls=[f"unix:{path}"])
        router.signal(signal.SIGTERM)
        assert await router.process.wait() == 0


@pytest.mark.parametrize("number", ["many", "-1", "99999"])
async def test_a_number_that_is_none_is_refused(number: str) -> None:
    """``LISTEN_FDS`` is checked before a descriptor is touched."""
    with pytest.raises(ActivationError, match="not a number"):
        take_listeners({"LISTEN_PID": "7", "LISTEN_FDS": number}, 7)


async def test_sockets_for_somebody_else_are_left_alone() -> None:
    """A parent's variables mean nothing to its children."""
    assert take_listeners({"LISTEN_PID": "8", "LISTEN_FDS": "1"}, 7) is None
    assert take_listeners({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, 7) is None
    assert take_listeners({}, 7) is None


async def test_a_descriptor_that_does_not_listen_is_refused(tmp_path, monkeypatch) -> None:
    """A FIFO or a connected socket is a sentence, not a traceback."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    left, right = socket.socketpair()
    read, write = os.pipe()
    with left, right:
        for descriptor, word in ((left.fileno(), "ListenStream="), (read, "not a socket")):
            monkeypatch.setenv("FDS", str(descriptor))
            async with started(config, launcher=ACTIVATE, pass_fds=(descriptor,)) as router:
                failed = await router.event("router.failed")
                assert failed["code"] == "activation_failed"
                assert word in failed["reason"]
    os.close(read)
    os.close(write)
