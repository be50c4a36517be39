"""The admin API of a running router: who may use it, and what it does."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import trio

from llama_router.config import reload_reports, watcher
from tests.limits import LIMIT_S
from tests.process.harness import Answer, RawClient, Router, free_port, post, request

pytestmark = pytest.mark.process


def token_of(router: Router) -> str:
    """Return the token that the router made."""
    return (router.path.parent / "state" / "admin-token").read_text().strip()


def write(router: Router, **settings: Any) -> None:
    """Write the configuration that *router* was started with, and other settings."""
    document = {**router.document, "router": {**router.document["router"], **settings}}
    router.path.write_text(tomlkit.dumps(document))


async def admin(
    router: Router, method: str, path: str, document: Any = None, *, port: int | None = None
) -> Answer:
    """Send one request with the generated token, to *port* if it has another one by now."""
    fields = {"authorization": f"Bearer {token_of(router)}"}
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


async def test_an_unload_ends_the_wait_for_a_load(start, stage) -> None:
    """The waiting request is refused, so that it does not load the model again at once."""
    router = await start({"a": stage.model("a", "--health", "told")})
    client = await router.connect()
    await client.send(post("/v1/script", "a"))
    backend = await stage.backend("a")
    unloaded = (await admin(router, "POST", "models/unload", {"model": "a"})).json()
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (400, "model_not_loaded")
    assert "was unloaded by request" in answer.error["message"]
    assert unloaded["phase"] == "stopped"
    await backend.ended.wait()
    assert router.of("a").phase == "stopped"


async def test_a_reload_says_everything_that_is_wrong(start, stage) -> None:
    """The answer is 422 with the lines, and status goes on saying so."""
    router = await start({"a": stage.model("a")})
    router.path.write_text('[router]\nport = "x"\n[models.a]\npathh = "m"\n')
    answer = await admin(router, "POST", "reload")
    assert answer.status == 422
    assert [problem["line"] for problem in answer.json()["problems"]][:2] == [2, 3]
    state = (await admin(router, "GET", "status")).json()
    assert state["reload"]["status"] == "rejected"
    assert [model["id"] for model in state["models"]] == ["a"]


async def test_a_body_must_say_that_it_is_json(start, stage) -> None:
    """A form of somebody's page cannot be a change."""
    router = await start({"a": stage.model("a")})
    token = token_of(router)
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


async def test_status_says_who_waits_and_for_how_long(start, stage) -> None:
    """Requests have ids and ages; secrets in the configuration are masked."""
    model = stage.model("a", max_in_flight=1, spawn={"env": {"HF_TOKEN": "hf_secret"}})
    router = await start({"a": model})
    for _ in range(2):
        await (await router.connect()).send(post("/v1/script", "a"))
    await (await stage.backend("a")).request()
    while router.of("a").queued == 0:
        await trio.lowlevel.checkpoint()
    answer = await admin(router, "GET", "status")
    assert b"hf_secret" not in answer.body
    (a,) = answer.json()["models"]
    assert (a["in_flight"], a["queued"]) == (1, 1)
    assert {entry["id"] for entry in a["serving"] + a["waiting"]} == {1, 2}
    assert a["waiting"][0]["waited_s"] >= 0
    assert a["memory_mib"] > 1
    spawn = answer.json()["configuration"]["models"]["a"]["spawn"]
    assert spawn["env"] == {"HF_TOKEN": "********"}


async def test_status_says_what_a_model_is_and_when_it_leaves(start, stage, tmp_path) -> None:
    """Its file, its context, and the time until it is unloaded; none while it is busy."""
    path = tmp_path / "small-q8_0.gguf"
    path.write_bytes(b"x" * 100)
    table = stage.model("a") | {"path": str(path), "ttl_s": 500, "context_length": 2048}
    router = await start({"a": table})
    (model,) = (await admin(router, "GET", "status")).json()["models"]
    assert (model["size_bytes"], model["quantization"], model["n_ctx"]) == (100, "Q8_0", 2048)
    assert model["ttl_left_s"] is None
    client = await router.connect()
    await client.send(post("/v1/script", "a"))
    script = await (await stage.backend("a")).request()
    (model,) = (await admin(router, "GET", "status")).json()["models"]
    assert model["ttl_left_s"] is None
    await script.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    await client.answer()
    (model,) = (await admin(router, "GET", "status")).json()["models"]
    assert 400 < model["ttl_left_s"] <= 500


async def test_a_failure_is_in_status_with_the_last_output(start, stage) -> None:
    """Code, sentence and log lines, and when it is tried again."""
    command = [sys.executable, "-c", "print('out of paper'); raise SystemExit(3)"]
    router = await start({"a": {"spawn": {"command": command}}}, max_restarts=0)
    refused = await admin(router, "POST", "models/load", {"model": "a"})
    assert refused.status == 503
    (a,) = (await admin(router, "GET", "status")).json()["models"]
    assert (a["phase"], a["failures"]) == ("failed", 1)
    assert a["last_error"]["code"] == "backend_exited"
    assert a["last_error"]["log_tail"] == ["out of paper"]
    assert 0 < a["retry_in_s"] <= 30


async def test_a_request_is_cancelled(start, stage) -> None:
    """One that waits is refused; a stream ends with an error event; the backend hears of it."""
    router = await start({"a": stage.model("a", max_in_flight=1)})
    streaming, waiting = await router.connect(), await router.connect()
    await streaming.send(post("/v1/script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await streaming.head()
    await waiting.send(post("/v1/script", "a"))
    while router.of("a").queued == 0:
        await trio.lowlevel.checkpoint()
    assert (await admin(router, "POST", "requests/cancel", {"id": 2})).json() == {"id": 2}
    refused = await waiting.answer()
    assert (refused.status, refused.error["code"]) == (400, "request_cancelled")
    assert (await admin(router, "POST", "requests/cancel", {"id": 1})).status == 200
    assert b"request_cancelled" in await streaming.chunk()
    assert await streaming.chunk() == b""
    await scripted.gone_s()
    missing = await admin(router, "POST", "requests/cancel", {"id": 1})
    assert (missing.status, missing.error["code"]) == (404, "request_not_found")


async def test_an_unknown_path_says_where_the_others_are(start, stage) -> None:
    """It is somebody who operates the router, and asks for no model."""
    router = await start({"a": stage.model("a")})
    answer = await admin(router, "POST", "models/a/load")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert "/admin/openapi.json" in answer.error["message"]


async def test_a_model_that_leaves_is_shown_and_can_be_cut(start, stage) -> None:
    """Its file does not name it any more, but its process goes on for a stream."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")})
    write(router)
    streaming = await router.connect()
    await streaming.send(post("/v1/script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await streaming.head()
    del router.document["models"]["a"]
    write(router)
    assert (await admin(router, "POST", "reload")).json()["removed"] == ["a"]
    b, a = (await admin(router, "GET", "status")).json()["models"]
    assert (b["id"], b["phase"]) == ("b", "stopped")
    assert (a["id"], a["phase"], a["in_flight"]) == ("a", "draining", 1)
    assert a["pid"] is not None
    cut = (await admin(router, "POST", "models/unload", {"model": "a", "force": True})).json()
    assert (cut["phase"], cut["pid"]) == ("stopped", None)
    assert [m["id"] for m in (await admin(router, "GET", "status")).json()["models"]] == ["b"]


async def test_settings_are_read_and_changed(start, stage) -> None:
    """The file keeps its comments; the backend goes on, as a ttl needs no restart."""
    router = await start({"a": stage.model("a")})
    write(router, drain_s=5.0)
    router.path.write_text("# mine\n" + router.path.read_text())
    await admin(router, "POST", "reload")
    before = (await admin(router, "POST", "models/load", {"model": "a"})).json()
    settings = (await admin(router, "GET", "settings?model=a")).json()
    assert settings["effective"]["ttl_s"] == 0
    body = {"model": "a", "set": {"ttl_s": 600, "spawn.ready_timeout_s": 9}}
    report = (
        await admin(router, "POST", "settings", {**body, "digest": settings["digest"]})
    ).json()
    assert (report["status"], report["retuned"]) == ("applied", ["a"])
    assert "+ttl_s = 600" in report["diff"]
    assert router.path.read_text().startswith("# mine\n")
    after = (await admin(router, "GET", "settings?model=a")).json()
    assert (after["effective"]["ttl_s"], after["written"]["ttl_s"]) == (600, 600)
    assert after["effective"]["spawn"]["ready_timeout_s"] == 9
    (a,) = (await admin(router, "GET", "status")).json()["models"]
    assert a["pid"] == before["pid"]
    stale = await admin(router, "POST", "settings", {**body, "digest": settings["digest"]})
    assert (stale.status, stale.error["code"]) == (409, "config_changed")


async def test_a_setting_with_a_mistake_is_not_written(start, stage) -> None:
    """The answer has the problem and its line; the file is as it was."""
    router = await start({"a": stage.model("a")})
    write(router)
    text = router.path.read_text()
    answer = await admin(router, "POST", "settings", {"set": {"drain_s": "soon", "nope": 1}})
    assert answer.status == 422
    assert {p["where"] for p in answer.json()["problems"]} == {"router.drain_s", "router.nope"}
    assert all(p["line"] for p in answer.json()["problems"])
    assert router.path.read_text() == text


async def test_edits_at_the_same_time_are_all_made(start, stage) -> None:
    """None is refused because of another one, and none is lost."""
    router = await start({"a": stage.model("a")})
    write(router)
    await admin(router, "POST", "reload")
    wanted = {"ttl_s": 1, "max_queued": 2, "home_after_s": 3, "max_restarts": 4, "cooldown_s": 5}
    answers: list[int] = []

    async def put(key: str, value: int) -> None:
        answer = await admin(router, "POST", "settings", {"set": {key: value}})
        answers.append(answer.status)

    async with trio.open_nursery() as nursery:
        for key, value in wanted.items():
            nursery.start_soon(put, key, value)
    assert answers == [200] * len(wanted)
    assert wanted.items() <= tomlkit.parse(router.path.read_text()).unwrap()["router"].items()


async def test_a_byte_order_mark_stays(start, stage) -> None:
    """Some editors write one; a setting is changed behind it all the same."""
    router = await start({"a": stage.model("a")})
    write(router)
    router.path.write_text("\ufeff" + router.path.read_text())
    await admin(router, "POST", "reload")
    answer = await admin(router, "POST", "settings", {"model": "a", "set": {"ttl_s": 600}})
    assert answer.json()["retuned"] == ["a"]
    assert router.path.read_text().startswith("\ufeff[")


async def test_a_file_that_is_not_toml_is_not_edited(start, stage) -> None:
    """The answer says what is wrong with it, with the line, as a reload does."""
    router = await start({"a": stage.model("a")})
    router.path.write_text("[router\n")
    answer = await admin(router, "POST", "settings", {"model": "a", "set": {"ttl_s": 600}})
    (problem,) = answer.json()["problems"]
    assert (answer.status, problem["line"]) == (422, 1)
    assert "not valid TOML" in problem["message"]
    assert router.path.read_text() == "[router\n"


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")])
async def test_a_file_that_is_lost_is_not_made_anew(start, stage, lose) -> None:
    """A new one with one setting would take away every model."""
    router = await start({"a": stage.model("a")})
    write(router)
    await admin(router, "POST", "reload")
    lose(router.path)
    answer = await admin(router, "POST", "settings", {"model": "a", "set": {"ttl_s": 600}})
    assert (answer.status, answer.error["code"]) == (400, "setting_refused")
    assert "is gone" in answer.error["message"]
    assert not router.path.exists() or router.path.read_bytes() == b""


async def events_of(client: RawClient) -> AsyncGenerator[tuple[str, str, Any]]:
    """Yield id, kind and data of each event."""
    buffer = b""
    while True:
        while b"\n\n" not in buffer:
            buffer += await client.chunk()
        text, _, buffer = buffer.partition(b"\n\n")
        found = dict(line.split(": ", 1) for line in text.decode().splitlines())
        if "event" in found:
            yield found["id"], found["event"], json.loads(found["data"])


async def follow(router: Router, last_id: str = "") -> AsyncGenerator[tuple[str, str, Any]]:
    """Open the stream of events."""
    client = await router.connect()
    fields = {"x_admin_token": token_of(router), "last_event_id": last_id}
    await client.send(request("GET", "/admin/events", **fields))
    assert (await client.head()).fields["content-type"] == "text/event-stream"
    return events_of(client)


async def test_events_begin_with_a_snapshot_and_go_on_with_changes(start, stage) -> None:
    """Every change of phase, in order; and a reconnect goes on where it left off."""
    router = await start({"a": stage.model("a")})
    async with aclosing(await follow(router)) as events:
        number, kind, data = await anext(events)
        assert (kind, data["models"][0]["phase"]) == ("snapshot", "stopped")
        await admin(router, "POST", "models/load", {"model": "a"})
        first, second = await anext(events), await anext(events)
        assert first[1:] == ("model", {"id": "a", "phase": "starting"})
        assert second[1:] == ("model", {"id": "a", "phase": "ready"})
    async with aclosing(await follow(router, number)) as events:
        assert [await anext(events), await anext(events)] == [first, second]
    async with aclosing(await follow(router, "00000000-1")) as events:
        assert (await anext(events))[1] == "snapshot"


async def test_the_stream_of_events_does_not_hold_up_the_end(start, stage) -> None:
    """It says that the router stops, and ends."""
    router = await start({"a": stage.model("a")}, drain_s=2 * LIMIT_S)
    async with aclosing(await follow(router)) as events:
        await anext(events)
        router.requests.stop.set()
        assert (await anext(events))[1:] == ("router", {"state": "draining"})
        with trio.fail_after(LIMIT_S):
            await router.ended.wait()


async def test_a_request_is_told_what_became_of_a_file_that_was_applied_already(
    start, stage, monkeypatch
) -> None:
    """Saving and asking is one act, whoever was first; later nothing has changed any more."""
    monkeypatch.setattr(watcher, "POLL_S", 0.01)
    router = await start({"a": stage.model("a")})
    router.document["models"]["b"] = stage.model("b")
    router.path.write_text(tomlkit.dumps(router.document))
    await router.events.wait("config.applied", added=["b"])
    assert (await admin(router, "POST", "reload")).json()["added"] == ["b"]
    monkeypatch.setattr(reload_reports, "RECENT_S", 0.0)
    assert (await admin(router, "POST", "reload")).json()["added"] == []
