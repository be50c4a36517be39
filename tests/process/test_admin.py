"""The admin API of a running router: who may use it, and what it does."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import tomlkit
import trio

from tests.process.harness import Answer, RawClient, Router, post, request

pytestmark = pytest.mark.process


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def write(router: Router, **settings: Any) -> None:
    """Write the configuration that *router* was started with, and other settings."""
    document = {**router.document, "router": {**router.document["router"], **settings}}
    router.path.write_text(tomlkit.dumps(document))


async def admin(
    router: Router, method: str, path: str, document: Any = None, *, port: int | None = None
) -> Answer:
    """Send one request with the generated token, to *port* if it has another one by now."""
    token = (router.path.parent / "state" / "admin-token").read_text().strip()
    fields = {"authorization": f"Bearer {token}"}
    body = None
    if document is not None:
        body = json.dumps(document).encode()
        fields["content_type"] = "application/json"
    data = request(method, f"/admin/{path}", body, **fields)
    if port is None:
        return await router.ask(data)
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        client = RawClient(stream)
        await client.send(data)
        return await client.answer()


async def test_every_route_needs_the_token(start, stage) -> None:
    """Without it each answers 401, by whatever spelling of its path."""
    router = await start({"a": stage.model("a")})
    for method, target in (
        ("GET", "/admin/status"),
        ("POST", "/admin/reload"),
        ("POST", "/admin/models/load"),
        ("POST", "/admin/models/unload"),
        ("GET", "//admin/status"),
        ("GET", "/%61dmin/status"),
        ("GET", "http://router/admin/status"),
    ):
        answer = await router.ask(request(method, target))
        assert (answer.status, answer.error["code"]) == (401, "invalid_admin_token"), target
        assert answer.fields["www-authenticate"] == "Bearer"


async def test_load_and_unload(start, stage) -> None:
    """Load answers when the model is ready, unload when its process is gone."""
    router = await start({"a": stage.model("a")})
    loaded = (await admin(router, "POST", "models/load", {"model": "a"})).json()
    backend = await stage.backend("a")
    assert (loaded["phase"], loaded["pid"], loaded["port"]) == ("ready", backend.pid, backend.port)
    unloaded = (await admin(router, "POST", "models/unload", {"model": "a"})).json()
    assert (unloaded["phase"], unloaded["pid"]) == ("stopped", None)
    await backend.ended.wait()


async def test_unload_waits_for_requests_unless_forced(start, stage) -> None:
    """A stream goes on while its model is to leave; with force it ends with an error event."""
    router = await start({"a": stage.model("a")})
    client = await router.connect()
    await client.send(post("/v1/script", "a", stream=True))
    backend = await stage.backend("a")
    scripted = await backend.request()
    await scripted.begin_stream()
    await client.head()
    async with trio.open_nursery() as nursery:
        answers = []

        async def unload() -> None:
            answers.append(await admin(router, "POST", "models/unload", {"model": "a"}))

        nursery.start_soon(unload)
        while router.of("a").phase != "draining":
            await trio.lowlevel.checkpoint()
        await scripted.chunk(b"data: 1\n\n")
        assert await client.chunk() == b"data: 1\n\n"
        forced = await admin(router, "POST", "models/unload", {"model": "a", "force": True})
        assert forced.json()["phase"] == "stopped"
        assert b"backend_unavailable" in await client.chunk()
    assert answers[0].json()["phase"] == "stopped"


async def test_a_reload_says_everything_that_is_wrong(start, stage) -> None:
    """The answer is 422 with the lines, and status goes on saying so."""
    router = await start({"a": stage.model("a")})
    router.path.write_text('[router]\nport = "x"\n[models.a]\npathh = "m"\n')
    answer = await admin(router, "POST", "reload")
    assert answer.status == 422
    assert [problem["line"] for problem in answer.json()["problems"]][:2] == [2, 3]
    state = (await admin(router, "GET", "status")).json()
    assert state["config"]["status"] == "rejected"
    assert [model["id"] for model in state["models"]] == ["a"]


async def test_a_body_must_say_that_it_is_json(start, stage) -> None:
    """A form of somebody's page cannot be a change."""
    router = await start({"a": stage.model("a")})
    token = (router.path.parent / "state" / "admin-token").read_text().strip()
    answer = await router.ask(
        request(
            "POST",
            "/admin/models/load",
            b'{"model":"a"}',
            x_admin_token=token,
            content_type="text/plain",
        )
    )
    assert (answer.status, answer.error["code"]) == (415, "media_type_not_supported")


async def test_an_address_changes_without_dropping_connections(start, stage) -> None:
    """A stream goes on; the old port is closed, the new one answers, and status says so."""
    router = await start({"a": stage.model("a")})
    client = await router.connect()
    await client.send(post("/v1/script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await client.head()
    old_port = router.port
    write(router, port=(port := free_port()))
    report = (await admin(router, "POST", "reload")).json()
    assert (report["status"], report["needs_router_restart"]) == ("applied", [])
    with pytest.raises(OSError, match="all attempts to connect"):
        await trio.open_tcp_stream("127.0.0.1", old_port)
    await scripted.chunk(b"data: 1\n\n")
    assert await client.chunk() == b"data: 1\n\n"
    state = (await admin(router, "GET", "status", port=port)).json()
    assert state["urls"] == [f"http://127.0.0.1:{port}"]
    assert state["models"][0]["phase"] == "ready"
    assert (
        json.loads((router.path.parent / "state" / "router.json").read_text())["urls"]
        == (state["urls"])
    )


async def test_a_wider_address_on_the_same_port(start, stage) -> None:
    """127.0.0.1 becomes 0.0.0.0 although the old socket is still in the way."""
    router = await start({"a": stage.model("a")}, port=(port := free_port()))
    write(router, port=port, host="0.0.0.0", public_without_keys=True)
    report = (await admin(router, "POST", "reload")).json()
    assert report["status"] == "applied"
    state = (await admin(router, "GET", "status")).json()
    assert state["urls"] == [f"http://0.0.0.0:{port}"]


async def test_an_address_that_is_taken_changes_nothing(start, stage) -> None:
    """The router stays where it is, with the settings that it has."""
    router = await start({"a": stage.model("a")})
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        write(router, port=stranger.getsockname()[1], drain_s=1.0)
        answer = await admin(router, "POST", "reload")
    assert answer.status == 422
    assert "another program listens there" in answer.json()["problems"][0]["message"]
    assert router.running.dispatcher.config.router.drain_s == 5.0


async def test_a_public_address_without_keys_is_refused(start, stage) -> None:
    """At a reload as at the start: the file is rejected, with the setting that would allow it."""
    router = await start({"a": stage.model("a")})
    write(router, host="0.0.0.0")
    answer = await admin(router, "POST", "reload")
    assert answer.status == 422
    (problem,) = answer.json()["problems"]
    assert (problem["where"], "public_without_keys" in problem["message"]) == ("router.host", True)
