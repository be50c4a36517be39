"""Why a backend ended is told to the client, in the log, and in the model's own log."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.process.real import (
    LIMIT_S,
    RealRouter,
    chat,
    make_models,
    model_table,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]


@pytest.fixture
def folder(tmp_path: Path, tmp_path_factory) -> Path:
    """A folder with a good model and some that are not."""
    good = (make_models(tmp_path_factory) / "a.gguf").read_bytes()
    (tmp_path / "good.gguf").write_bytes(good)
    (tmp_path / "half.gguf").write_bytes(good[: len(good) // 2])
    (tmp_path / "page.gguf").write_bytes(b"<!DOCTYPE html>" * 1000)
    (tmp_path / "strange.gguf").write_bytes(
        good.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0llamx")
    )
    return tmp_path


async def refusal(router: RealRouter, model: str) -> dict[str, Any]:
    """Return the error with which a request for *model* is refused."""
    async with router.client() as client:
        response = await client.post("/v1/chat/completions", json=chat(model))
    assert response.status_code == 503, response.text
    return response.json()["error"]


def told(folder: Path, model: str) -> list[str]:
    """Return what the router says in the log of *model*."""
    lines = (folder / "state" / "logs" / f"{model}.jsonl").read_text().splitlines()
    return [entry["line"] for entry in map(json.loads, lines)]


@pytest.mark.parametrize(
    ("file", "args", "cause", "quoted"),
    [
        ("half", (), "broken_model", "not within the file bounds"),
        ("page", (), "broken_model", "invalid magic characters"),
        ("strange", (), "unknown_architecture", "llamx"),
        ("good", ("--no-such-flag",), "wrong_flag", "--no-such-flag"),
        ("good", ("--ctx-size", "many"), "wrong_flag", "--ctx-size"),
    ],
)
async def test_a_start_that_fails_is_explained(
    folder: Path, file: str, args: tuple[str, ...], cause: str, quoted: str
) -> None:
    """Error, event and log of the model name the same cause, with the line that says so."""
    table = model_table(folder, "m", file=file, args=args)
    with trio.fail_after(LIMIT_S):
        async with serving(write_config(folder, table)) as router:
            error = await refusal(router, "m")
            event = await router.event("backend.failed", model="m")
    assert (error["code"], error["cause"]) == ("backend_exited", cause), error
    assert event["cause"] == cause
    assert event["reason"] == error["message"]
    assert "its output says: " in error["message"]
    assert quoted in error["message"]
    (last,) = [line for line in told(folder, "m") if "ended with code 1" in line]
    assert last.partition("ended with code 1: ")[2] in error["message"]


async def test_a_model_file_that_vanished_is_named(folder: Path) -> None:
    """The file was there when the router read its configuration."""
    config = write_config(folder, model_table(folder, "m", file="good"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            (folder / "good.gguf").unlink()
            error = await refusal(router, "m")
            again = await refusal(router, "m")
    assert error["cause"] == "file_missing"
    assert "good.gguf" in error["message"]
    assert again["cause"] == "file_missing"


async def test_what_cannot_work_is_not_repeated(folder: Path) -> None:
    """One start of a model that no start can load, and the client has its answer."""
    config = write_config(
        folder, model_table(folder, "m", file="half"), router=["max_restarts = 9"]
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            first = await refusal(router, "m")
            second = await refusal(router, "m")
    assert (first["code"], second["code"]) == ("backend_exited", "backend_failed")
    assert first["cause"] == second["cause"] == "broken_model"
    assert len(router.named("backend.spawned")) == 1


async def test_a_stranger_who_kills_is_not_taken_for_the_router(folder: Path) -> None:
    """A SIGKILL from outside is told as one; a stop by the router as its own."""
    config = write_config(folder, model_table(folder, "m", file="good"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            first = await client.post("/v1/chat/completions", json=chat("m"))
            assert first.status_code == 200
            pid = (await router.event("backend.spawned"))["pid"]
            os.kill(pid, signal.SIGKILL)
            crashed = await router.event("backend.crashed")
            second = await client.post("/v1/chat/completions", json=chat("m"))
            assert second.status_code == 200
    assert crashed["cause"] == "killed"
    notes = [line for line in told(folder, "m") if line.startswith("pid ")]
    assert f"pid {pid} ended with signal 9: it was killed with SIGKILL" in notes[1]
    assert notes[-1].endswith("was ended by the router")
