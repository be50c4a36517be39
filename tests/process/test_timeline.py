"""``/admin/timeline``: which model was loaded when, and why it left."""

from __future__ import annotations

import pytest

from tests.process.harness import post
from tests.process.test_admin import admin

pytestmark = pytest.mark.process


async def test_a_swap_is_told_with_both_models(start, stage) -> None:
    """Which one left for which, when each was loaded, and the requests meanwhile."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")}, min_residency_s=0)
    for model in ("a", "b"):
        assert (await router.ask(post("/v1/chat/completions", model))).status == 200
    found = (await admin(router, "GET", "timeline?since_s=60")).json()
    first, second = found["loads"]
    assert (first["model"], first["reason"], first["for_model"]) == ("a", "swap", "b")
    assert first["began_at"] <= first["ready_at"] <= first["ended_at"] <= second["began_at"]
    assert (second["model"], second["cause"], second["ended_at"]) == ("b", "request", None)
    assert second["reason"] is None
    assert sum(minute["requests"] for minute in found["series"]) == 2


async def test_a_failure_and_an_unload_have_their_reasons(start, stage) -> None:
    """In one word, and in a sentence."""
    router = await start({"a": stage.model("a")}, max_restarts=0)
    await router.ask(post("/v1/chat/completions", "a"))
    await stage.backend("a")
    await admin(router, "POST", "models/unload", {"model": "a"})
    await admin(router, "POST", "models/load", {"model": "a"})
    await (await stage.backend("a")).exit(3)
    await router.events.wait("backend.failed", model="a")
    loads = (await admin(router, "GET", "timeline")).json()["loads"]
    assert [load["reason"] for load in loads] == ["unload", "failed"]
    assert loads[0]["words"] == "it was unloaded by request"
    assert "exited with code 3" in loads[1]["words"]


@pytest.mark.parametrize("since_s", ["0", "-1", "x", "", "99999999"])
async def test_a_span_is_a_number_of_seconds(start, stage, since_s) -> None:
    """Up to some hours."""
    router = await start({})
    answer = await admin(router, "GET", f"timeline?since_s={since_s}")
    assert (answer.status, answer.error["param"]) == (400, "since_s")
