"""``/admin/config``: the file for an editor, and where settings come from."""

from __future__ import annotations

from typing import Any

import pytest

from tests.process.harness import Router, request
from tests.process.test_admin import admin, token_of

pytestmark = pytest.mark.process

SECRET = "sk-secret-0123456789"


async def begin(start, stage, extra: str = "") -> tuple[Router, dict[str, Any]]:
    """Start a router, write its file with a comment and a secret; return both."""
    table = stage.model("a")
    router = await start({"a": table})
    words = ", ".join(f'"{word}"' for word in table["spawn"]["command"])
    router.path.write_text(
        f"# mine\n[router]\nport = {router.document['router']['port']}\n"
        f"base_port = {router.document['router']['base_port']}\ndrain_s = 5.0\n"
        f'[models.a]\nspawn.command = [{words}]\nspawn.env.HF_TOKEN = "{SECRET}"  # kept\n{extra}'
    )
    assert (await admin(router, "POST", "reload", {})).status == 200
    found = await admin(router, "GET", "config")
    assert found.status == 200
    return router, found.json()


async def test_the_text_has_no_secret(start, stage) -> None:
    """But its comments, and the problems of the last reading."""
    router, found = await begin(start, stage)
    assert SECRET not in found["text"]
    assert "# mine" in found["text"]
    assert (found["status"], found["problems"], found["exists"]) == ("applied", [], True)
    router.path.write_text("[router]\nprot = 1\n")
    await admin(router, "POST", "reload", {})
    found = (await admin(router, "GET", "config")).json()
    assert found["status"] == "rejected"
    assert found["problems"][0]["line"] == 2


async def test_a_text_is_applied_and_keeps_its_secrets(start, stage) -> None:
    """Comments stay, and the digest is another one."""
    router, found = await begin(start, stage)
    text = found["text"].replace("drain_s = 5.0", "drain_s = 5.0\nmax_queued = 7")
    answer = await admin(router, "PUT", "config", {"text": text, "digest": found["digest"]})
    assert (answer.status, answer.json()["status"]) == (200, "applied")
    assert SECRET in router.path.read_text()
    assert "# kept" in router.path.read_text()
    assert router.running.dispatcher.config.router.max_queued == 7
    again = await admin(router, "PUT", "config", {"text": text, "digest": found["digest"]})
    assert (again.status, again.error["code"]) == (409, "config_changed")


async def test_a_text_with_mistakes_is_not_written(start, stage) -> None:
    """Neither by a check nor by an attempt to apply it; each is told with its line."""
    router, found = await begin(start, stage)
    before = router.path.read_bytes()
    for text, line in (
        (found["text"].replace("drain_s = 5.0", "drian_s = 5.0"), 5),
        (found["text"].replace("drain_s = 5.0", "drain_s = = 5.0"), 5),
        (found["text"].replace("********1", "********9"), 8),
    ):
        body = {"text": text, "digest": found["digest"]}
        for method, path, status in (("POST", "config/check", 200), ("PUT", "config", 422)):
            answer = await admin(router, method, path, body)
            assert answer.status == status
            assert [problem["line"] for problem in answer.json()["problems"]] == [line]
    assert router.path.read_bytes() == before


async def test_a_check_says_what_would_change(start, stage) -> None:
    """And changes nothing."""
    router, found = await begin(start, stage)
    text = found["text"] + '\n[models.b]\nspawn.command = ["/bin/true"]\n'
    text = text.replace("[models.a]", "[models.a]\nttl_s = 5")
    body = {"text": text, "digest": found["digest"]}
    report = (await admin(router, "POST", "config/check", body)).json()
    assert (report["added"], report["retuned"]) == (["b"], ["a"])
    assert list(router.running.dispatcher.config.models) == ["a"]


async def test_a_broken_file_can_be_mended(start, stage) -> None:
    """Its text is shown without secrets, too, and gets them back."""
    router, found = await begin(start, stage)
    router.path.write_text(router.path.read_text().replace("drain_s = 5.0", "drain_s = = 5.0"))
    broken = (await admin(router, "GET", "config")).json()
    assert SECRET not in broken["text"]
    body = {"text": broken["text"].replace("= =", "="), "digest": broken["digest"]}
    answer = await admin(router, "PUT", "config", body)
    assert answer.status == 200, answer
    assert SECRET in router.path.read_text()
    assert found["digest"] == (await admin(router, "GET", "config")).json()["digest"]


async def test_settings_say_where_they_come_from(start, stage) -> None:
    """The model's table, its template, [router], or a default; secrets are masked."""
    extra = (
        'template = "t"\nmax_queued = 3\n'
        "[templates.t]\nready_timeout_s = 33.0\nautoload = false\n"
        "[default_spawn]\nstop_timeout_s = 2.0\n"
    )
    router, _ = await begin(start, stage, extra)
    answer = await admin(router, "GET", "config/origins?model=a")
    assert answer.status == 200, answer
    found = {each["key"]: each for each in answer.json()["settings"]}
    lines = router.path.read_text().splitlines()

    def origin(key: str) -> tuple[object, str, str | None]:
        line = found[key]["line"]
        return found[key]["value"], found[key]["source"], line and lines[line - 1].split(" =")[0]

    assert origin("max_queued") == (3, "file", "max_queued")
    assert origin("autoload") == (False, "template", "autoload")
    assert found["autoload"]["name"] == "t"
    assert origin("spawn.ready_timeout_s") == (33.0, "template", "ready_timeout_s")
    assert origin("spawn.stop_timeout_s") == (2.0, "default_spawn", "stop_timeout_s")
    assert origin("spawn.env.HF_TOKEN")[:2] == ("********", "file")
    assert origin("ttl_s")[1:] == ("default", None)
    found = {
        (each["table"], each["key"]): each["source"]
        for each in (await admin(router, "GET", "config/origins")).json()["settings"]
    }
    assert found["router", "drain_s"] == "file"
    assert found["router", "max_queued"] == "default"
    assert found["scheduler", "policy"] == "default"


async def test_the_admin_token_is_no_setting_to_read(start, stage) -> None:
    """Not even as it was written."""
    router, found = await begin(start, stage)
    token = "another-token-0123456789"
    text = found["text"].replace("[router]", f'[router]\nadmin_token = "{token}"')
    body = {"text": text, "digest": found["digest"]}
    assert (await admin(router, "PUT", "config", body)).status == 200
    for path in ("config", "settings", "config/origins", "status"):
        fields = {"authorization": f"Bearer {token}"}
        answer = await router.ask(request("GET", f"/admin/{path}", **fields))
        assert answer.status == 200
        assert token.encode() not in answer.body, path
    assert token_of(router) != token
