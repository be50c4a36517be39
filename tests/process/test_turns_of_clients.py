"""Turns of clients through a real router: keys, addresses, classes, slots."""

from __future__ import annotations

import pytest
import trio

from tests.process.harness import RawClient, Router, Stage, request
from tests.process.real import LIMIT_S, chat, make_models, model_table, serving, write_config

pytestmark = pytest.mark.process

OK = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
KEYS = {"agent": {"key": "sk-agent-1"}, "person": {"key": "sk-person-1"}}


def ask(name: str, **fields: str) -> bytes:
    """Return a request by *name*, which the backend sees."""
    body = f'{{"model": "m", "by": "{name}"}}'.encode()
    return request("POST", "/v1/script", body, content_type="application/json", **fields)


def by_key(name: str, **fields: str) -> bytes:
    """Return a request with the key of a client."""
    return ask(name, authorization=f"Bearer sk-{name.split('-', maxsplit=1)[0]}-1", **fields)


async def queue(router: Router, *requests: bytes) -> None:
    """Send requests one after the other, each when the one before is granted or waits."""
    for number, data in enumerate(requests, start=1):
        client = await router.connect()
        await client.send(data)
        await waiting(router, number)


async def waiting(router: Router, count: int) -> None:
    """Return when *count* requests are in flight or queued."""
    while router.of("m").in_flight + router.of("m").queued < count:
        await router.running.dispatcher.changed.wait()


async def served(stage: Stage, count: int) -> list[str]:
    """Answer *count* requests, one after the other; return whose they are."""
    backend = await stage.backend("m")
    await backend.do("ready")
    seen = []
    for _ in range(count):
        scripted = await backend.request()
        seen.append(scripted.body.split('"by": "')[1].split('"')[0])
        await scripted.send(OK)
        await scripted.close()
    return seen


async def test_a_persons_request_waits_for_one_of_an_agents(start, stage) -> None:
    """Not for all that came before it."""
    with trio.fail_after(LIMIT_S):
        router = await start({"m": stage.model("m", max_in_flight=1)}, api_keys=KEYS)
        await queue(router, *(by_key(f"agent-{n}") for n in range(4)), by_key("person"))
        assert await served(stage, 5) == ["agent-0", "person", "agent-1", "agent-2", "agent-3"]


async def test_without_keys_clients_are_told_apart_by_their_addresses(start, stage) -> None:
    """Those of one address take turns with those of another one."""
    with trio.fail_after(LIMIT_S):
        router = await start({"m": stage.model("m", max_in_flight=1)})
        await queue(router, *(ask(f"agent-{n}") for n in range(4)))
        stream = await trio.open_tcp_stream("127.0.0.1", router.port, local_address="127.0.0.2")
        async with stream:
            await RawClient(stream).send(ask("person"))
            await waiting(router, 5)
            assert (await served(stage, 5))[:3] == ["agent-0", "person", "agent-1"]


async def test_a_request_asks_for_its_class(start, stage) -> None:
    """A higher one goes before those that came earlier, but not above the cap of its key."""
    keys = {**KEYS, "agent": {**KEYS["agent"], "priority": "normal"}}
    with trio.fail_after(LIMIT_S):
        router = await start({"m": stage.model("m", max_in_flight=1)}, api_keys=keys)
        await queue(
            router,
            by_key("agent-0", x_priority="background"),
            by_key("agent-1", x_priority="interactive"),
            by_key("person", x_priority="Interactive"),
        )
        assert await served(stage, 3) == ["person", "agent-1", "agent-0"]


@pytest.mark.parametrize("path", ["/v1/script", "/api/chat"])
async def test_a_class_that_there_is_not_is_refused(start, stage, path) -> None:
    """In both planes, with the names of those that there are, and without a load."""
    with trio.fail_after(LIMIT_S):
        router = await start({"m": stage.model("m")})
        body = b'{"model": "m"}'
        answer = await router.ask(
            request("POST", path, body, content_type="application/json", x_priority="urgent")
        )
    assert answer.status == 400
    message = answer.json()["error"]
    message = message if isinstance(message, str) else message["message"]
    assert "'urgent', which is no class" in message
    assert "'interactive', 'normal', 'background'" in message
    assert router.spawned() == []


@pytest.mark.embedded
@pytest.mark.parametrize(("args", "slots"), [(("--parallel", "2"), 2), ((), 4)])
async def test_a_llama_server_says_how_many_slots_it_has(
    tmp_path_factory, tmp_path, args, slots
) -> None:
    """It gets so many requests at once, and the status says so."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    models = make_models(tmp_path_factory)
    config = write_config(tmp_path, model_table(models, "a", args=args))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            assert (await client.post("/v1/chat/completions", json=chat("a"))).status_code == 200
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            fields = {"authorization": f"Bearer {token}"}
            status = (await client.get("/admin/status", headers=fields)).json()
    assert [model["max_in_flight"] for model in status["models"]] == [slots]
