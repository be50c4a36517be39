"""Prompt caches that survive their backend, with the embedded llama.cpp server."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import trio

from tests.process.real import LIMIT_S, RealRouter, make_models, model_table, serving, write_config

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

#: Longer than the template of a chat, short enough for a tiny model.
KEEP = (
    "spawn.keep_cache = true",
    "spawn.keep_cache_min_tokens = 50",
    "spawn.keep_cache_max_s = 100",  # the machine may be busy
)


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """The folder of the models."""
    return make_models(tmp_path_factory)


def talk(model: str, *words: str) -> dict[str, object]:
    """Return a chat request whose prompt is some hundred tokens long."""
    content = " ".join(f"{word} {number}" for word in words for number in range(40))
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "temperature": 0,
    }


async def cached(router: RealRouter, body: dict[str, object]) -> tuple[int, int]:
    """Send a chat; return the tokens of its prompt, and those from the cache."""
    async with router.client() as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    timings = answer.json()["timings"]
    return timings["cache_n"] + timings["prompt_n"], timings["cache_n"]


async def test_a_conversation_survives_a_swap_and_a_restart(models, tmp_path) -> None:
    """Its second request finds nearly all of the first one in the cache, each time."""
    args = ["--parallel", "2"]
    tables = (model_table(models, "a", *KEEP, args=args), model_table(models, "b", file="b"))
    config = write_config(tmp_path, *tables)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            length, n_cached = await cached(router, talk("a", "one"))
            assert n_cached == 0
            await cached(router, talk("b", "two"))
            assert (await router.event("cache.saved", model="a"))["slots"] == 1
            assert await cached(router, talk("a", "one")) == (length, length - 1)
            assert (await router.event("cache.used"))["hit"]
        async with serving(config) as router:
            assert await cached(router, talk("a", "one")) == (length, length - 1)
            await router.event("cache.restored", model="a")


async def test_what_is_kept_is_private_and_goes_with_its_model(models, tmp_path) -> None:
    """No client and no other user can reach it; without keep_cache it is removed."""
    folder = tmp_path / "state" / "prompt-caches"
    config = write_config(tmp_path, model_table(models, "a", *KEEP))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await cached(router, talk("a", "one"))
            for path in ("/slots/0", "/upstream/a/slots/0", "/upstream/a/%73lots/0"):
                answer = await client.post(f"{path}?action=save&model=a", json={"filename": "x"})
                assert answer.status_code == 404, answer.text
                assert "restored by the router only" in answer.text
            assert (await client.get("/upstream/a/slots")).status_code == 200
        files = list((folder / "a").iterdir())
        assert [file.suffix for file in files] == [".slot"]
        assert stat.S_IMODE((folder / "a").stat().st_mode) == 0o700
        assert "one" not in files[0].name
        write_config(tmp_path, model_table(models, "a"))
        async with serving(config) as router:
            await router.event("cache.removed", model="a")
        assert not (folder / "a").exists()


async def test_a_file_on_which_the_server_aborts_costs_one_start(models, tmp_path) -> None:
    """It is not tried again: the request that waits is served by the next process."""
    args = ["--parallel", "2"]
    config = write_config(tmp_path, model_table(models, "a", *KEEP, args=args))
    folder = tmp_path / "state" / "prompt-caches"
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await cached(router, talk("a", "one"))
        (path,) = (folder / "a").iterdir()
        os.truncate(path, 3000)
        index = json.loads((folder / "index.json").read_bytes())
        index["slots"][0] |= {"size_bytes": 3000, "mtime_ns": path.stat().st_mtime_ns}
        (folder / "index.json").write_text(json.dumps(index))
        async with serving(config) as router:
            _, n_cached = await cached(router, talk("a", "one"))
            assert n_cached == 0
            await router.event("request.completed")  # behind all that its load said
            assert len(router.named("cache.discarded")) == 1
            assert len(router.named("backend.crashed")) == 1
