"""``/admin/events?live=1``: rows of models and requests that change."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.process.harness import RawClient, Router, post, request
from tests.process.test_admin import admin, token_of, write

pytestmark = pytest.mark.process


class Events:
    """Server-sent events as they come; comments are skipped."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.last_id = ""
        self._text = b""

    async def next(self) -> tuple[str, Any]:
        """Return kind and data of the next event."""
        while True:
            while b"\n\n" not in self._text:
                chunk = await self.client.chunk()
                assert chunk, "the stream ended"
                self._text += chunk
            block, _, self._text = self._text.partition(b"\n\n")
            fields = dict(
                line.split(": ", 1) for line in block.decode().split("\n") if ": " in line
            )
            if "event" in fields:
                self.last_id = fields["id"]
                return fields["event"], json.loads(fields["data"])

    async def until(self, kind: str, **wanted: object) -> Any:
        """Return the data of the next event of that kind with these values."""
        while True:
            found, data = await self.next()
            if found == kind and wanted.items() <= data.items():
                return data

    async def row(self, model: str, **wanted: object) -> Any:
        """Return the next row of *model* with these values."""
        while True:
            for row in (await self.until("update"))["models"]:
                if row["id"] == model and wanted.items() <= row.items():
                    return row


async def follow(router: Router, query: str = "live=1", last_id: str | None = None) -> Events:
    client = await router.connect()
    fields = {"authorization": f"Bearer {token_of(router)}"}
    if last_id is not None:
        fields["last_event_id"] = last_id
    await client.send(request("GET", f"/admin/events?{query}", **fields))
    assert (await client.head()).status == 200
    return Events(client)


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


async def test_rows_of_models_follow_the_snapshot(start, stage) -> None:
    """Only of those that changed, as /admin/status has them."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")})
    events = await follow(router)
    kind, snapshot = await events.next()
    assert kind == "snapshot"
    client = await router.connect()
    await client.send(post("/v1/script", "a"))
    script = await (await stage.backend("a")).request()
    row = await events.row("a", phase="ready", in_flight=1)
    assert row.keys() == snapshot["models"][0].keys()
    await script.send(ANSWER)
    await client.answer()
    row = await events.row("a", in_flight=0)
    assert row["last_used_at"] >= snapshot["at"]


async def test_an_update_has_only_what_changed(start, stage) -> None:
    """The other model is in the snapshot, and in nothing after it."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")})
    events = await follow(router)
    await router.ask(post("/v1/chat/completions", "a"))
    seen = set()
    while True:
        update = await events.until("update")
        seen |= {row["id"] for row in update["models"]}
        if any(row["phase"] == "ready" for row in update["models"]):
            break
    assert seen == {"a"}


async def test_requests_are_followed_from_arrival_to_end(start, stage) -> None:
    """Each as a row of /admin/activity."""
    router = await start({"a": stage.model("a")})
    events = await follow(router)
    client = await router.connect()
    await client.send(post("/v1/script", "a"))
    script = await (await stage.backend("a")).request()
    row = await events.until("request", state="running")
    await script.send(ANSWER)
    await client.answer()
    ended = await events.until("request", id=row["id"], state="done")
    assert (ended["outcome"], ended["status"]) == ("ok", 200)
    listed = (await admin(router, "GET", "activity")).json()
    assert [ended] == listed["requests"]
    assert listed["ended_count"] == 1


async def test_a_follower_goes_on_after_a_break(start, stage) -> None:
    """It gets the last state of what changed meanwhile, and no second snapshot."""
    router = await start({"a": stage.model("a")})
    events = await follow(router)
    await events.until("snapshot")
    await events.client.stream.aclose()
    await router.ask(post("/v1/chat/completions", "a"))
    again = await follow(router, last_id=events.last_id)
    kind, _ = await again.next()
    assert kind == "model"
    await again.until("request", state="done")
    await again.row("a", phase="ready", in_flight=0)


async def test_other_followers_get_no_rows(start, stage) -> None:
    """They asked for events, and get those they know."""
    router = await start({"a": stage.model("a")})
    events = await follow(router, "live=0")
    await router.ask(post("/v1/chat/completions", "a"))
    await admin(router, "POST", "models/unload", {"model": "a"})
    kinds = set()
    while True:
        kind, data = await events.next()
        kinds.add(kind)
        if kind == "model" and data["phase"] == "stopped":
            break
    assert kinds == {"snapshot", "model"}


async def test_a_model_that_is_gone_is_named(start, stage) -> None:
    """After a reload without it."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")})
    events = await follow(router)
    await events.until("snapshot")
    del router.document["models"]["b"]
    write(router)
    await admin(router, "POST", "reload", {})
    assert (await events.until("update", removed=["b"]))["models"] == []


async def test_the_stream_ends_with_the_secret(start, stage, monkeypatch) -> None:
    """A token that was replaced follows nothing."""
    monkeypatch.setattr("llama_router.control.admin.events.KEEPALIVE_S", 0.05)
    router = await start({}, admin_token="admin-token-0123456789")
    client = await router.connect()
    fields = {"authorization": "Bearer admin-token-0123456789"}
    await client.send(request("GET", "/admin/events?live=1", **fields))
    assert (await client.head()).status == 200
    write(router, admin_token="another-token-0123456789")
    await router.running.reload()
    while await client.chunk():
        pass


@pytest.mark.parametrize("query", ["live=2", "live="])
async def test_live_is_0_or_1(start, stage, query) -> None:
    """Anything else is a mistake."""
    router = await start({})
    answer = await admin(router, "GET", f"events?{query}")
    assert (answer.status, answer.error["param"]) == (400, "live")


async def test_activity_is_limited(start, stage) -> None:
    """The latest come first."""
    router = await start({"a": stage.model("a")})
    for _ in range(3):
        await router.ask(post("/v1/chat/completions", "a"))
    everything = (await admin(router, "GET", "activity")).json()["requests"]
    listed = (await admin(router, "GET", "activity?limit=2")).json()["requests"]
    assert listed == everything[:2]
    began = [row["id"] for row in everything]
    assert began == sorted(began, reverse=True)
    for limit in ("0", "x", "-1", ""):
        answer = await admin(router, "GET", f"activity?limit={limit}")
        assert (answer.status, answer.error["param"]) == (400, "limit")
