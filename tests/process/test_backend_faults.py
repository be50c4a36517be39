"""Backends that do not start, do not answer, die, or are not who they seem to be."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from contextlib import ExitStack

import pytest
import trio

from llama_router.backends import environment
from llama_router.backends.launch import PORT_CHANGES
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.dispatch import health
from tests.process.harness import RawClient, Scripted, base_port, post, request

pytestmark = pytest.mark.process

ECHO = "/v1/echo"
SCRIPT = "/v1/script"


class TestStart:
    """A backend that does not become ready is an error that says why, soon."""

    async def test_command_not_found(self, start) -> None:
        """The error names the program; nothing is tried twice."""
        router = await start({"a": {"spawn": {"command": ["no-such-program-x"]}}})
        answer = await router.ask(post(ECHO, "a"))
        assert answer.status == 503
        assert answer.error["code"] == "backend_spawn_failed"
        assert "no-such-program-x" in answer.error["message"]
        assert router.spawned() == []

    async def test_no_llama_server_at_all(self, start, tmp_path, monkeypatch) -> None:
        """One attempt, and both remedies."""
        monkeypatch.setattr(environment, "find_llama_server", lambda **_: None)
        (tmp_path / "m.gguf").touch()
        router = await start({"a": {"path": str(tmp_path / "m.gguf")}})
        answer = await router.ask(post(ECHO, "a"))
        assert answer.error["cause"] == "command_missing"
        assert "install llama.cpp" in answer.error["message"]
        assert "llama-router[embedded]" in answer.error["message"]
        assert len(router.events.named("backend.failed", model="a")) == 1
        assert router.events.named("backend.crashed") == []

    async def test_withheld_variables_are_said_once(self, start, stage, monkeypatch) -> None:
        """In the log and in the model's own, not for every start."""
        monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "9")
        model = stage.model("a", "--exit", "5")
        router = await start({"a": model}, max_restarts=1)
        await router.ask(post(ECHO, "a"))
        assert router.spawned() == ["a", "a"]
        (event,) = router.events.named("backend.variables_withheld")
        assert "LLAMA_ARG_CTX_SIZE" in event["names"]

    @pytest.mark.parametrize("address", ["[::1]:%d", "127.0.0.1:%d"])
    async def test_a_backend_that_listens_elsewhere(self, start, address) -> None:
        """The error says where."""
        host = "::1" if "::1" in address else "127.0.0.1"
        script = (
            "import socket, sys, time\n"
            "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
            "server = socket.socket(family)\n"
            "server.bind((sys.argv[1], 0))\n"
            "server.listen()\n"
            "print('at', server.getsockname()[1], flush=True)\n"
            "time.sleep(60)\n"
        )
        spawn = {"command": [sys.executable, "-c", script, host, "$port"], "ready_timeout_s": 1.5}
        router = await start({"a": {"spawn": spawn}})
        message = (await router.ask(post(ECHO, "a"))).error["message"]
        found = re.search(r"its last output: at (\d+)", message)
        assert found is not None
        assert f"; it listens on {address % int(found[1])}, and must listen on" in message

    async def test_exit_at_once(self, start, stage) -> None:
        """The error has the exit code and the last words, also without a line end."""
        model = stage.model("a", "--say", "first\nlast words", "--exit", "3")
        router = await start({"a": model}, max_restarts=0)
        answer = await router.ask(post(ECHO, "a"))
        assert answer.status == 503
        assert answer.error["code"] == "backend_exited"
        assert "code 3" in answer.error["message"]
        assert "first | last words" in answer.error["message"]

    async def test_exit_at_once_is_tried_again(self, start, stage) -> None:
        """A start is tried max_restarts times more before the request fails."""
        router = await start({"a": stage.model("a", "--exit", "5")}, max_restarts=1)
        answer = await router.ask(post(ECHO, "a"))
        assert "code 5" in answer.error["message"]
        assert router.spawned() == ["a", "a"]

    async def test_never_ready(self, start, stage) -> None:
        """After ready_timeout_s the error says what the health check answered."""
        model = stage.model("a", "--health", "told", spawn={"ready_timeout_s": 1.0})
        router = await start({"a": model})
        answer = await router.ask(post(ECHO, "a"))
        assert answer.status == 503
        assert answer.error["code"] == "backend_not_ready"
        assert "ready_timeout_s" in answer.error["message"]
        assert "/health: 503; if it only needs longer, raise" in answer.error["message"]
        assert (await router.events.wait("backend.failed"))["model"] == "a"

    async def test_a_health_endpoint_that_is_not_there(self, start, tmp_path) -> None:
        """To wait longer would not help: another path would."""
        command = [sys.executable, "-m", "http.server", "--bind", "$host", "$port"]
        spawn = {"command": command, "cwd": str(tmp_path), "ready_timeout_s": 1.5}
        router = await start({"a": {"spawn": spawn}})
        answer = await router.ask(post(ECHO, "a"))
        assert ": 404; set health_endpoint to a path" in answer.error["message"]

    @pytest.mark.parametrize(
        ("health", "seen"), [("hang", "no answer within"), ("garbage", "not an HTTP answer")]
    )
    async def test_health_check_that_hangs_or_babbles(self, start, stage, health, seen) -> None:
        """The start's deadline holds all the same, and the error says what was seen."""
        model = stage.model("a", "--health", health, spawn={"ready_timeout_s": 1.5})
        router = await start({"a": model})
        begun_s = trio.current_time()
        answer = await router.ask(post(ECHO, "a"))
        assert trio.current_time() - begun_s < 5
        assert answer.error["code"] == "backend_not_ready"
        assert seen in answer.error["message"]

    async def test_requests_wait_for_one_load(self, start, stage) -> None:
        """Several requests share one start; none reaches a backend that still loads."""
        router = await start({"a": stage.model("a", "--health", "told")})
        clients = [await router.connect() for _ in range(5)]
        for client in clients:
            await client.send(post(ECHO, "a"))
        backend = await stage.backend("a")
        await backend.do("ready")
        assert {(await client.answer()).status for client in clients} == {200}
        assert router.spawned() == ["a"]

    async def test_startup_model_that_fails(self, start, stage) -> None:
        """The router does not start without its startup model, and says why."""
        model = stage.model("a", "--exit", "4")
        with pytest.RaisesGroup(
            pytest.RaisesExc(Exception, match="code 4"),
            flatten_subgroups=True,
            allow_unwrapped=True,
        ):
            await start({"a": model}, startup_model="a", max_restarts=0)


class TestStranger:
    """Somebody else on the backend's port never gets a request."""

    async def test_a_stranger_that_answers_200(self, start, stage) -> None:
        """It sees health checks only; the backend is started at once on another port."""
        model = stage.model("a", "--listen", "told")
        router = await start({"a": model}, max_restarts=0)
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        first = await stage.backend("a")
        seen: list[bytes] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger, first.port, seen)
            second = await stage.backend("a")
            await second.do("listen")
            assert (await client.answer()).status == 200
            nursery.cancel_scope.cancel()
        assert first.ended.is_set()
        assert second.port != first.port
        taken = await router.events.wait("backend.port_taken", model="a", port=first.port)
        assert f"port {first.port} is answered by process" in taken["reason"]
        assert set(seen) == {b"GET /health HTTP/1.1"}
        assert not router.events.named("backend.crashed")

    async def test_strangers_everywhere(self, start, stage) -> None:
        """After a few ports it is an error, which says what a container needs."""
        router = await start({"a": stage.model("a", "--listen", "told")})
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        ports = []
        async with trio.open_nursery() as nursery:
            for _ in range(1 + PORT_CHANGES):
                ports.append((await stage.backend("a")).port)
                await nursery.start(stranger, ports[-1], [])
            answer = await client.answer()
            nursery.cancel_scope.cancel()
        assert (answer.status, answer.error["code"]) == (503, "backend_port_taken")
        assert answer.error["cause"] == "port_in_use"
        assert "set check_port_owner = false" in answer.error["message"]
        assert len(set(ports)) == len(ports) == len(router.spawned())
        assert router.of("a").phase is Phase.FAILED

    async def test_a_backend_that_cannot_bind(self, start, stage) -> None:
        """When it exits for that, it is started at once on another port; that is no failure."""
        model = stage.model("a", "--listen", "told")
        router = await start({"a": model}, max_restarts=0)
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        first = await stage.backend("a")
        with socket.create_server(("127.0.0.1", first.port)):  # it does not answer
            await first.do("listen")
            second = await stage.backend("a")
            await second.do("listen")
            assert (await client.answer()).status == 200
        assert second.port != first.port
        taken = await router.events.wait("backend.port_taken", model="a", port=first.port)
        assert "cannot bind" in taken["reason"]
        assert router.of("a").failures == 0
        assert not router.events.named("backend.crashed")

    async def test_a_backend_that_ends_without_a_word(self, start, stage) -> None:
        """It is enough that somebody else listens there, if it says nothing better."""
        model = stage.model("a", "--listen", "told", "--complain", "off")
        router = await start({"a": model}, max_restarts=0)
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        first = await stage.backend("a")
        with socket.create_server(("127.0.0.1", first.port)):
            await first.do("listen")
            second = await stage.backend("a")
            await second.do("listen")
            assert (await client.answer()).status == 200
        taken = await router.events.wait("backend.port_taken", model="a", port=first.port)
        assert f"another program listens on port {first.port}" in taken["reason"]

    async def test_a_backend_that_can_never_bind(self, start, stage) -> None:
        """After a few ports it is a failure as any other, and its own words are the error."""
        router = await start({"a": stage.model("a", "--listen", "told")}, max_restarts=0)
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        with ExitStack() as taken:
            for _ in range(1 + PORT_CHANGES):
                backend = await stage.backend("a")
                taken.enter_context(socket.create_server(("127.0.0.1", backend.port)))
                await backend.do("listen")
            answer = await client.answer()
        assert (answer.error["code"], answer.error["cause"]) == ("backend_exited", "port_in_use")
        assert "cannot bind" in answer.error["message"]
        assert len(router.spawned()) == 1 + PORT_CHANGES
        assert router.of("a").failures == 1

    async def test_a_port_that_the_command_chooses(self, start, stage) -> None:
        """Another one would change nothing: it is a failure at once."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            model = stage.model("a")
            command = model["spawn"]["command"]
            command[command.index("$port")] = str(taken.getsockname()[1])
            router = await start({"a": model}, max_restarts=0)
            answer = await router.ask(post(ECHO, "a"))
        assert (answer.error["code"], answer.error["cause"]) == ("backend_exited", "port_in_use")
        assert router.spawned() == ["a"]

    async def test_two_routers_with_the_same_ports(self, start, stage) -> None:
        """Both mean the same port, which one of them gets; the other one hardly notices."""
        shared = base_port()
        models = [{n: stage.model(n, "--listen", "told")} for n in ("one", "two")]
        routers = [await start(m, base_port=shared, max_restarts=0) for m in models]
        clients = [await router.connect() for router in routers]
        backends = []
        for client, name in zip(clients, ("one", "two"), strict=True):
            await client.send(post(ECHO, name))
            backends.append(await stage.backend(name))
        assert backends[0].port == backends[1].port
        await backends[0].do("listen")
        assert (await clients[0].answer()).status == 200
        await backends[1].do("listen")
        await (await stage.backend("two")).do("listen")
        assert (await clients[1].answer()).status == 200
        assert routers[1].of("two").failures == 0
        events = routers[0].events  # of both
        assert [entry["model"] for entry in events.named("backend.port_taken")] == ["two"]
        assert not events.named("backend.crashed")

    async def test_a_stranger_is_welcome_where_configured(self, start, stage) -> None:
        """With check_port_owner off, e.g. for containers, whoever answers is the backend."""
        model = stage.model("a", "--listen", "told", spawn={"check_port_owner": False})
        router = await start({"a": model})
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        backend = await stage.backend("a")
        seen: list[bytes] = []
        async with trio.open_nursery() as nursery:
            await nursery.start(stranger, backend.port, seen)
            assert (await client.answer()).status == 200
            nursery.cancel_scope.cancel()
        assert b"POST /v1/echo HTTP/1.1" in seen


async def stranger(port: int, seen: list[bytes], *, task_status) -> None:
    """Answer 200 to everything on *port*; keep the request lines."""

    async def serve(stream: trio.SocketStream) -> None:
        received = await RawClient(stream).until(b"\r\n\r\n")
        seen.append(received.partition(b"\r\n")[0])
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    await trio.serve_tcp(serve, port, host="127.0.0.1", task_status=task_status)


class TestMisbehaviour:
    """A backend that runs, but badly."""

    async def test_sigterm_ignored(self, start, stage) -> None:
        """It is killed after stop_timeout_s, and the swap goes on."""
        stubborn = stage.model("a", "--sigterm", "ignore", spawn={"stop_timeout_s": 0.2})
        router = await start({"a": stubborn, "b": stage.model("b")})
        await router.ask(post(ECHO, "a"))
        begun_s = trio.current_time()
        assert (await router.ask(post(ECHO, "b"))).status == 200
        assert 0.2 <= trio.current_time() - begun_s < 3
        order = [
            (entry["event"], entry["model"])
            for entry in router.events.entries
            if entry["event"] in ("backend.stopped", "backend.spawned")
        ]
        assert order == [
            ("backend.spawned", "a"),
            ("backend.stopped", "a"),
            ("backend.spawned", "b"),
        ]

    async def test_flood_of_output(self, start, stage) -> None:
        """Answers still come, and the list of models is not slow."""
        router = await start({"a": stage.model("a", "--flood", "on")})
        assert (await router.ask(post(ECHO, "a"))).status == 200
        begun_s = trio.current_time()
        for _ in range(5):
            assert (await router.ask(request("GET", "/v1/models"))).status == 200
            assert (await router.ask(post(ECHO, "a"))).status == 200
        assert trio.current_time() - begun_s < 3

    async def test_an_early_answer_is_passed_on(self, start, stage) -> None:
        """A backend that refuses without reading the body is heard, not called broken."""
        router = await start({"a": stage.model("a")})
        answer = await router.ask(post("/v1/early", "a", x="x" * 10_000_000))
        assert (answer.status, answer.json()) == (413, {"early": True})

    async def test_silence_over_read_timeout(self, start, stage) -> None:
        """A backend that says nothing for read_timeout_s is 504; it is told to stop."""
        router = await start({"a": stage.model("a")}, read_timeout_s=0.3)
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        script = await (await stage.backend("a")).request()
        answer = await client.answer()
        assert answer.status == 504
        assert answer.error["code"] == "upstream_timeout"
        await script.gone_s()

    async def test_silence_in_a_stream(self, start, stage) -> None:
        """A stream that falls silent is ended with an error event and a proper end."""
        router = await start({"a": stage.model("a")}, read_timeout_s=0.3)
        client, script = await begun_stream(router, stage)
        event = await client.chunk()
        assert b'"code":"upstream_timeout"' in event
        assert await client.chunk() == b""
        await script.gone_s()

    @pytest.mark.interpreted
    async def test_interim_answers_do_not_postpone_the_end(self, start, stage, monkeypatch) -> None:
        """However many there are, the answer must come within read_timeout_s."""
        monkeypatch.setattr("llama_router.gateway.exchange.MAX_INTERIM", 10**9)
        router = await start({"a": stage.model("a")}, read_timeout_s=0.3)
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        script = await (await stage.backend("a")).request()
        status = 103
        while status == 103:
            await script.send(b"HTTP/1.1 103 Hint\r\n\r\n")
            status = (await client.head()).status
        assert status == 504

    @pytest.mark.parametrize("target", [SCRIPT, "/upstream/a/v1/script"])
    async def test_interim_answers_without_end_are_502(self, start, stage, target: str) -> None:
        """Some are passed on; a flood of them holds up nothing else."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        if target == SCRIPT:
            await client.send(post(target, "a"))
        else:  # its body is passed on while it arrives
            await client.send(request("POST", target, transfer_encoding="chunked") + b"1\r\nx\r\n")
        script = await (await stage.backend("a")).request()
        await script.send(b"HTTP/1.1 103 Hint\r\n\r\n" * 1000)
        head = await client.head()
        while head.status == 103:
            head = await client.head()
        assert head.status == 502

    @pytest.mark.parametrize(
        "data",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000 + b"\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ],
        ids=["ssh", "both-lengths", "huge-head", "upgrade"],
    )
    async def test_what_is_not_an_answer_is_502(self, start, stage, data) -> None:
        """Garbage from a backend is its fault, not the client's; the next answer is fine."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        await (await (await stage.backend("a")).request()).send(data)
        answer = await client.answer()
        assert answer.status == 502
        assert answer.error["code"] == "upstream_failed"
        await client.send(post(ECHO, "a"))
        assert (await client.answer()).status == 200


async def begun_stream(router, stage) -> tuple[RawClient, Scripted]:
    """Return a client that has got the first event of a stream, and who sends the rest."""
    client = await router.connect()
    await client.send(post(SCRIPT, "a", stream=True))
    script = await (await stage.backend("a")).request()
    await script.begin_stream()
    await client.head()
    await script.chunk(b"data: 1\n\n")
    assert await client.chunk() == b"data: 1\n\n"
    return client, script


class TestDeath:
    """A backend that dies is noticed at once; the client hears of it the best way left."""

    @pytest.mark.parametrize("part", [b"", b"5", b"9\r\ndata:"], ids=["whole", "size", "chunk"])
    async def test_mid_stream(self, start, stage, part) -> None:
        """An event stream gets an error event and a clean end, also in the middle of a chunk."""
        router = await start({"a": stage.model("a")})
        client, script = await begun_stream(router, stage)
        await script.send(part)
        await script.backend.exit(7)
        event = await client.chunk()
        assert event.startswith(b"\n\ndata: {")
        assert event.endswith(b"}\n\n")
        assert b'"code":"backend_exited"' in event
        assert b"code 7" in event
        assert await client.chunk() == b""
        assert (await router.ask(post(ECHO, "a"))).status == 200

    @pytest.mark.parametrize("at", ["before", "after"])
    async def test_the_connection_of_a_stream_that_was_ended_goes_on(
        self, start, stage, at: str
    ) -> None:
        """Its next request is served, although it came while the stream was running."""
        router = await start({"a": stage.model("a")})
        client, script = await begun_stream(router, stage)
        if at == "before":
            await client.send(post(ECHO, "a"))
        await script.backend.exit(7)
        assert b'"code":"backend_exited"' in await client.chunk()
        assert await client.chunk() == b""
        if at == "after":
            await client.send(post(ECHO, "a"))
        assert (await client.answer()).status == 200

    async def test_mid_answer(self, start, stage) -> None:
        """Any other body is visibly incomplete."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        script = await (await stage.backend("a")).request()
        await script.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
        assert (await client.head()).status == 200
        assert await client.exactly(5) == b"12345"
        await script.backend.exit(7)
        assert await client.rest() == b""
        [completed] = router.events.named("request.completed")
        assert (completed["outcome"], completed["code"]) == ("cut", "backend_exited")

    async def test_mid_chunked_answer(self, start, stage) -> None:
        """A chunked body that is not an event stream lacks its last chunk."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        script = await (await stage.backend("a")).request()
        await script.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n12345\r\n")
        await client.head()
        assert await client.chunk() == b"12345"
        await script.backend.exit(7)
        assert await client.rest() == b""

    async def test_before_the_answer(self, start, stage) -> None:
        """Before anything was sent, the error has the exit code and the last words."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        backend = await stage.backend("a")
        await backend.request()
        await backend.do("print", data="CUDA error: out of memory\n")
        await backend.exit(7)
        answer = await client.answer()
        assert answer.status == 503
        assert answer.error["code"] == "backend_exited"
        assert "code 7" in answer.error["message"]
        assert "out of memory" in answer.error["message"]

    async def test_connection_closed_without_an_answer(self, start, stage) -> None:
        """A backend that lives on but closes is 502."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(SCRIPT, "a"))
        await (await (await stage.backend("a")).request()).close()
        answer = await client.answer()
        assert answer.status == 502
        assert answer.error["code"] == "upstream_failed"

    async def test_while_idle(self, start, stage) -> None:
        """It is started again for the next request, and not before."""
        router = await start({"a": stage.model("a")})
        await router.ask(post(ECHO, "a"))
        await (await stage.backend("a")).exit(1)
        await router.events.wait("backend.crashed", model="a")
        assert router.spawned() == ["a"]
        assert (await router.ask(post(ECHO, "a"))).status == 200

    async def test_hanging(self, start, stage, monkeypatch) -> None:
        """It is silent, and so is its health check: it is replaced, and the next request served."""
        monkeypatch.setattr(health, "TIMEOUT_S", 0.2)
        monkeypatch.setattr(health, "PAUSE_S", 0.01)
        model = stage.model("a", spawn={"stop_timeout_s": 0.1})
        router = await start({"a": model}, read_timeout_s=0.3)
        await router.ask(post(ECHO, "a"))
        (backend,) = router.running.dispatcher.ready_backends()
        os.kill(backend.pid, signal.SIGSTOP)
        assert (await router.ask(post(ECHO, "a"))).status == 504
        hung = await router.events.wait("backend.hung", model="a")
        assert (hung["pid"], hung["health"]) == (backend.pid, "no answer within 0.2 s")
        assert (await router.ask(post(ECHO, "a"))).status == 200
        assert router.spawned() == ["a", "a"]

    async def test_stale_connection_is_not_an_error(self, start, stage) -> None:
        """A request that meets a kept connection just closed by the backend is sent again."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(post(ECHO, "a"))
        kept = (await client.answer()).json()["number"]
        backend = await stage.backend("a")
        await client.send(post(SCRIPT, "a"))
        script = await backend.request()
        assert script.number == kept
        await script.close()
        again = await backend.request()
        assert again.number != kept
        await again.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        assert (await client.answer()).body == b"ok"

    async def test_a_failure_that_cannot_pass(self, start, stage) -> None:
        """Clients are told not to come back; when they do, the other model stays loaded."""
        wrong = stage.model("b", "--say", "error: invalid argument: --nope\n", "--exit", "1")
        router = await start({"a": stage.model("a"), "b": wrong}, cooldown_s=0.001)
        assert (await router.ask(post(ECHO, "a"))).status == 200
        failed = await router.ask(post(ECHO, "b"))
        assert (failed.status, failed.error["cause"]) == (503, "wrong_flag")
        assert failed.fields["x-should-retry"] == "false"
        assert "retry-after" not in failed.fields
        assert (await router.ask(post(ECHO, "a"))).status == 200
        again = await router.ask(post("/v1/messages", "b"))
        assert again.json()["error"]["type"] == "api_error"
        assert again.fields["x-should-retry"] == "false"
        assert router.spawned() == ["a", "b", "a"]

    async def test_crash_loop_opens_the_breaker(self, start, stage) -> None:
        """Then requests fail at once, with the reason and when to come back; later one attempt."""
        router = await start({"a": stage.model("a", "--exit", "9")}, max_restarts=0, cooldown_s=0.4)
        assert (await router.ask(post(ECHO, "a"))).error["code"] == "backend_exited"
        closed = await router.ask(post(ECHO, "a"))
        assert closed.status == 503
        assert closed.error["code"] == "backend_failed"
        assert "code 9" in closed.error["message"]
        assert int(closed.fields["retry-after"]) == 1
        assert router.spawned() == ["a"]
        listed = (await router.ask(request("GET", "/v1/models"))).json()["data"]
        status = listed[0]["status"]
        assert (status["value"], status["failed"], status["exit_code"]) == ("unloaded", True, 9)
        await trio.sleep(0.5)  # the cool-down itself is under test
        assert (await router.ask(post(ECHO, "a"))).error["code"] == "backend_exited"
        assert router.spawned() == ["a", "a"]
