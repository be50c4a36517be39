"""Queues, clients that leave or do not read, reloads, and the end of the router."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import trio
from trio.testing import wait_all_tasks_blocked

from tests.process.harness import (
    LIMIT_S,
    RawClient,
    Router,
    Scripted,
    Stage,
    base_port,
    post,
    request,
)

pytestmark = pytest.mark.process

ECHO = "/v1/echo"
SCRIPT = "/v1/script"
ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


async def begun_stream(router: Router, stage: Stage, model: str) -> tuple[RawClient, Scripted]:
    """Return a client in the middle of a stream, and who sends the rest of it."""
    client = await router.connect()
    await client.send(post(SCRIPT, model, stream=True))
    script = await (await stage.backend(model)).request()
    await script.begin_stream()
    await client.head()
    await script.chunk(b"data: 1\n\n")
    assert await client.chunk() == b"data: 1\n\n"
    return client, script


async def end_stream(client: RawClient, script: Scripted) -> None:
    """Let the stream end as it should."""
    await script.chunk(b"data: [DONE]\n\n")
    await script.chunk(b"")
    assert await client.chunk() == b"data: [DONE]\n\n"
    assert await client.chunk() == b""


class TestQueue:
    """Requests that wait."""

    async def test_swap_waits_for_streams(self, start, stage) -> None:
        """The other model starts only after the stream has ended and its backend has exited."""
        router = await start({"a": stage.model("a"), "b": stage.model("b")})
        client, script = await begun_stream(router, stage, "a")
        other = await router.connect()
        await other.send(post(ECHO, "b"))
        await wait_all_tasks_blocked()
        assert router.of("b").queued == 1
        assert router.spawned() == ["a"]
        await end_stream(client, script)
        assert (await other.answer()).json()["name"] == "b"
        assert router.spawned() == ["a", "b"]

    async def test_full(self, start, stage) -> None:
        """Who comes too late is 429, with when to come back; who waits is served."""
        router = await start({"a": stage.model("a", "--health", "told", max_queued=1)})
        first = await router.connect()
        await first.send(post(ECHO, "a"))
        backend = await stage.backend("a")
        late = await router.ask(post(ECHO, "a"))
        assert late.status == 429
        assert late.error["code"] == "queue_full"
        assert int(late.fields["retry-after"]) > 0
        await backend.do("ready")
        assert (await first.answer()).status == 200

    async def test_time_out_while_loading(self, start, stage) -> None:
        """After max_queue_wait_s the error says what was waited for, and when to come back."""
        router = await start({"a": stage.model("a", "--health", "told")}, max_queue_wait_s=0.3)
        answer = await router.ask(post(ECHO, "a"))
        assert answer.status == 503
        assert answer.error["code"] == "queue_timeout"
        assert "not become ready" in answer.error["message"]
        assert int(answer.fields["retry-after"]) > 0

    async def test_time_out_behind_another_model(self, start, stage) -> None:
        """The same for a model that is kept out: it says by whom."""
        models = {"a": stage.model("a"), "b": stage.model("b")}
        router = await start(models, max_queue_wait_s=0.3)
        await begun_stream(router, stage, "a")
        answer = await router.ask(post(ECHO, "b"))
        assert answer.error["code"] == "queue_timeout"
        assert "'a'" in answer.error["message"]
        assert "1 in flight" in answer.error["message"]


class TestClientGone:
    """Clients that leave early."""

    async def test_while_queued(self, start, stage) -> None:
        """Nothing is loaded for who is gone."""
        router = await start({"a": stage.model("a"), "b": stage.model("b")})
        client, script = await begun_stream(router, stage, "a")
        impatient = await router.connect()
        await impatient.send(post(ECHO, "b"))
        await wait_all_tasks_blocked()
        assert router.of("b").queued == 1
        await impatient.stream.aclose()
        await router.events.wait("request.completed", model="b", outcome="client_gone")
        assert router.of("b").queued == 0
        await end_stream(client, script)
        assert (await router.ask(post(ECHO, "a"))).status == 200
        assert router.spawned() == ["a"]

    @pytest.mark.parametrize("pipelined", [b"", b"GET"], ids=["alone", "pipelined"])
    async def test_mid_stream_while_the_backend_is_silent(self, start, stage, pipelined) -> None:
        """The backend sees its connection close at once, whatever else was sent before."""
        router = await start({"a": stage.model("a")})
        client, script = await begun_stream(router, stage, "a")
        await client.send(pipelined)
        await wait_all_tasks_blocked()
        left_s = time.monotonic()
        await client.stream.aclose()
        assert await script.gone_s() - left_s < 0.5
        await router.events.wait("request.completed", outcome="client_gone")
        assert router.of("a").in_flight == 0

    async def test_before_the_answer(self, start, stage) -> None:
        """A generation that has not said a word yet is stopped, too."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        script = await (await stage.backend("a")).request()
        left_s = time.monotonic()
        await client.stream.aclose()
        assert await script.gone_s() - left_s < 0.5

    async def test_mid_stream_while_chunks_come(self, start, stage) -> None:
        """A client that resets its connection ends a busy stream."""
        router = await start({"a": stage.model("a")})
        client, script = await begun_stream(router, stage, "a")
        for _ in range(100):
            await script.chunk(b"data: x\n\n")
        left_s = time.monotonic()
        await client.stream.aclose()  # with unread chunks, hence a reset
        assert await script.gone_s() - left_s < 0.5
        assert (await router.ask(post(ECHO, "a"))).status == 200

    async def test_others_do_not_notice(self, start, stage) -> None:
        """A second stream of the same backend goes on."""
        router = await start({"a": stage.model("a")})
        client, script = await begun_stream(router, stage, "a")
        other = await router.connect()
        await other.send(post(SCRIPT, "a", stream=True))
        second = await script.backend.request()
        await client.stream.aclose()
        await script.gone_s()
        await second.begin_stream()
        await other.head()
        await end_stream(other, second)


class TestReload:
    """A changed router.toml."""

    async def test_changed_args_restart_only_that_model(self, start, stage) -> None:
        """The other model keeps its process; the changed one ends its stream first."""
        models = {name: stage.model(name, group="g") for name in ("a", "b")}
        router = await start(models)
        client, script = await begun_stream(router, stage, "a")
        pid = (await router.ask(post(ECHO, "b"))).json()["pid"]
        models["a"]["args"] = ["--name", "a"]
        router.path.write_text(tomlkit.dumps(router.document))
        router.events.entries.clear()
        router.requests.reload()
        applied = await router.events.wait("config.applied")
        assert (applied["restarted"], applied["retuned"]) == (["a"], [])
        assert router.events.named("backend.stopping") == []
        await end_stream(client, script)
        await router.events.wait("backend.stopped", model="a")
        back = await router.events.wait("backend.ready", model="a")  # nobody asked for it
        assert back["pid"] != script.backend.pid
        assert (await router.ask(post(ECHO, "a"))).json()["pid"] == back["pid"]
        assert (await router.ask(post(ECHO, "b"))).json()["pid"] == pid

    @pytest.mark.parametrize("bad", ["models = 5", "[", "[models.a]\nnonsense = 1\n"])
    async def test_a_bad_file_changes_nothing(self, start, stage, bad) -> None:
        """Every problem is logged; the models go on with the same processes."""
        router = await start({"a": stage.model("a")})
        pid = (await router.ask(post(ECHO, "a"))).json()["pid"]
        router.path.write_text(bad)
        router.requests.reload()
        rejected = await router.events.wait("config.rejected")
        assert rejected["problems"]
        assert (await router.ask(post(ECHO, "a"))).json()["pid"] == pid

    async def test_a_fifo_in_place_of_the_file_changes_nothing(self, start, stage) -> None:
        """It is refused at once, although reading it would wait for a writer."""
        router = await start({"a": stage.model("a")})
        os.mkfifo(router.path)
        router.requests.reload()
        rejected = await router.events.wait("config.rejected")
        assert "it is not a file" in rejected["problems"][0]

    async def test_a_removed_model_is_unknown(self, start, stage) -> None:
        """Its stream may end; who asks again is told; a new one can be used at once."""
        models = {"a": stage.model("a")}
        router = await start(models)
        client, script = await begun_stream(router, stage, "a")
        models["b"] = stage.model("b")
        del models["a"]
        router.path.write_text(tomlkit.dumps(router.document))
        router.requests.reload()
        await router.events.wait("config.applied", added=["b"], removed=["a"])
        assert (await router.ask(post(ECHO, "a"))).status == 404
        await end_stream(client, script)
        assert (await router.ask(post(ECHO, "b"))).status == 200

    async def test_a_cured_model_is_tried_at_once(self, start, stage) -> None:
        """A failed model whose settings changed does not wait for its cool-down."""
        models = {"a": stage.model("a", "--exit", "1")}
        router = await start(models, max_restarts=0, cooldown_s=600.0)
        assert (await router.ask(post(ECHO, "a"))).status == 503
        models["a"] = stage.model("a")
        router.path.write_text(tomlkit.dumps(router.document))
        router.requests.reload()
        await router.events.wait("config.applied")
        assert (await router.ask(post(ECHO, "a"))).status == 200


def open_sockets() -> set[str]:
    """Return the sockets that this process holds, by their names in /proc."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


class TestShutdown:
    """The end of the router."""

    async def test_drain(self, start, stage) -> None:
        """A stream ends in peace; idle connections end, new ones and waiting ones are refused."""
        router = await start({"a": stage.model("a"), "b": stage.model("b")})
        client, script = await begun_stream(router, stage, "a")
        idle = await router.connect()
        await idle.send(post(ECHO, "a"))
        assert (await idle.answer()).status == 200
        waiting = await router.connect()
        await waiting.send(post(ECHO, "b"))
        await wait_all_tasks_blocked()
        router.requests.stop.set()
        refused = await waiting.answer()
        assert (refused.status, refused.error["code"]) == (503, "shutting_down")
        assert await waiting.rest() == b""
        await waiting.stream.aclose()
        assert await idle.rest() == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await router.connect()
        assert not router.ended.is_set()
        await end_stream(client, script)
        assert await client.rest() == b""
        await client.stream.aclose()
        await router.ended.wait()

    async def test_idle_after_a_large_body(self, start, stage) -> None:
        """A connection whose last request had a body larger than one read ends at once, too."""
        router = await start({"a": stage.model("a")}, drain_s=60.0)
        client = await router.connect()
        await client.send(post(ECHO, "a", text="x" * 500_000))
        assert (await client.answer()).status == 200
        await wait_all_tasks_blocked()
        router.requests.stop.set()
        assert await client.rest() == b""
        await router.ended.wait()

    async def test_kept_connections_are_closed(self, start, stage) -> None:
        """A router that has ended holds no socket any more, none to a backend either."""
        before = open_sockets()
        router = await start({"a": stage.model("a")})
        assert (await router.ask(post(ECHO, "a"))).status == 200
        await router.stop()
        await (await stage.backend("a")).ended.wait()
        await wait_all_tasks_blocked()
        assert open_sockets() - before == set()

    async def test_who_waits_is_refused_even_without_a_drain(self, start, stage) -> None:
        """With drain_s = 0 the refusal is still written."""
        router = await start({"a": stage.model("a", "--health", "told")}, drain_s=0.0)
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        await stage.backend("a")
        router.requests.stop.set()
        assert (await client.answer()).error["code"] == "shutting_down"
        await client.stream.aclose()
        await router.ended.wait()

    async def test_drain_deadline(self, start, stage) -> None:
        """After drain_s a stream that has not ended gets an error event and a proper end."""
        router = await start({"a": stage.model("a")}, drain_s=0.3)
        client, _ = await begun_stream(router, stage, "a")
        begun_s = trio.current_time()
        router.requests.stop.set()
        rest = await client.rest()
        assert b'"code":"shutting_down"' in rest
        assert rest.endswith(b"0\r\n\r\n")
        await router.ended.wait()
        assert 0.3 <= trio.current_time() - begun_s < 5

    async def test_force_stop(self, start, stage) -> None:
        """The second request to stop gives nobody any grace."""
        model = stage.model("a", "--sigterm", "ignore", spawn={"stop_timeout_s": 60.0})
        router = await start({"a": model}, drain_s=60.0)
        client, _ = await begun_stream(router, stage, "a")
        router.requests.stop.set()
        await router.events.wait("router.draining")
        begun_s = trio.current_time()
        router.requests.force_stop.set()
        await router.ended.wait()
        assert trio.current_time() - begun_s < 5
        await client.rest()

    async def test_while_loading(self, start, stage) -> None:
        """A start under way is given up, and who waits for it is told."""
        router = await start({"a": stage.model("a", "--health", "told")})
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        await stage.backend("a")
        router.requests.stop.set()
        assert (await client.answer()).error["code"] == "shutting_down"
        await client.stream.aclose()
        await router.ended.wait()

    async def test_while_the_startup_model_loads(self, start, stage) -> None:
        """A router that is cancelled before it is ready leaves nothing behind."""
        model = stage.model("a", "--health", "told")
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await stage.backend("a")
                    scope.cancel()

                nursery.start_soon(give_up)
                await start({"a": model}, startup_model="a")
        assert scope.cancelled_caught


# --- Routers in processes of their own -----------------------------------------------


class Serving:
    """A ``llama-router serve`` process."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.port = 0

    async def wait_ready(self) -> None:
        """Wait until it accepts connections."""
        assert self.process.stderr is not None
        buffer = b""
        async for data in self.process.stderr:
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                event = json.loads(line)
                if event["event"] == "router.ready":
                    self.port = int(event["urls"][0].rpartition(":")[2])
                    return
        raise AssertionError(f"it ended before it was ready: {buffer!r}")

    async def connect(self) -> RawClient:
        """Return a new connection."""
        return RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))

    def peak_mib(self) -> float:
        """Return the largest resident size so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024


@asynccontextmanager
async def serving(folder: Path, models: dict[str, Any]) -> AsyncIterator[Serving]:
    """Run ``llama-router serve``; in the end it gets SIGTERM, if it still runs."""
    router = {"port": 0, "base_port": base_port(), "state_dir": str(folder / "state")}
    path = folder / "router.toml"
    path.write_text(tomlkit.dumps({"router": {**router, "log_format": "json"}, "models": models}))
    command = [sys.executable, "-m", "llama_router", "serve", "--config", str(path)]
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            run = partial(
                trio.run_process,
                command,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
            process: trio.Process = await nursery.start(run)
            found = Serving(process)
            await found.wait_ready()
            nursery.start_soon(_drain, process)
            yield found
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            await process.wait()


async def _drain(process: trio.Process) -> None:
    assert process.stderr is not None
    async for _ in process.stderr:
        pass


def reap_adopted() -> None:
    """Wait for what a killed router left, which is ours if an earlier test adopts orphans."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


class TestProcess:
    """What only a process of its own shows."""

    async def test_slow_reader_costs_bounded_memory(self, stage, tmp_path) -> None:
        """While 200 MB wait for a client that does not read, the router stays small."""
        size_bytes = 200 * MIB
        async with serving(tmp_path, {"a": stage.model("a")}) as router:
            client = await router.connect()
            await client.send(post(ECHO, "a"))
            await client.answer()
            before_mib = router.peak_mib()
            await client.send(post(f"/v1/big?{size_bytes}", "a"))
            backend = await stage.backend("a")
            stalled = await backend.said("stalled")
            assert stalled["sent_bytes"] < 50 * MIB
            other = await router.connect()
            await other.send(post(ECHO, "a"))
            assert (await other.answer()).status == 200
            await other.stream.aclose()
            head = await client.head()
            assert head.fields["content-length"] == str(size_bytes)
            received_bytes = 0
            while received_bytes < size_bytes:
                received_bytes += len(await client.exactly(64 * 1024))
            assert received_bytes == size_bytes
            assert router.peak_mib() - before_mib < 16
            await client.stream.aclose()
        assert router.process.returncode == 0

    async def test_sigkill_leaves_no_backend(self, stage, tmp_path) -> None:
        """Backends of a router that was killed end, even those that ignore SIGTERM."""
        model = stage.model("a", "--sigterm", "ignore")
        async with serving(tmp_path, {"a": model}) as router:
            client = await router.connect()
            await client.send(post(ECHO, "a"))
            await client.answer()
            backend = await stage.backend("a")
            router.process.kill()
            await backend.ended.wait()
            await client.stream.aclose()
            await router.process.wait()
            await trio.to_thread.run_sync(reap_adopted)

    async def test_sigterm_drains_and_exits_0(self, stage, tmp_path) -> None:
        """One signal lets a stream end; the exit status says that all is well."""
        async with serving(tmp_path, {"a": stage.model("a")}) as router:
            client = await router.connect()
            await client.send(post(SCRIPT, "a", stream=True))
            script = await (await stage.backend("a")).request()
            await script.begin_stream()
            await client.head()
            router.process.send_signal(signal.SIGTERM)
            await end_stream(client, script)
            assert await client.rest() == b""
            assert await router.process.wait() == 0
            await client.stream.aclose()
            await script.backend.ended.wait()

    async def test_health_of_the_process(self, stage, tmp_path) -> None:
        """Bytes that are no HTTP, a thousand times, cost the router nothing."""
        async with serving(tmp_path, {"a": stage.model("a")}) as router:
            for _ in range(1000):
                client = await router.connect()
                await client.send(os.urandom(20) + b"\r\n\r\n")
                await client.stream.aclose()
            client = await router.connect()
            await client.send(request("GET", "/health"))
            assert (await client.answer()).status == 200
            await client.stream.aclose()
