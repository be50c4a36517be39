"""Swapping real backends: nobody is lost, nobody is cut, and the log says what happened."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests.limits import stretched_s
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    alive,
    chat,
    make_models,
    model_table,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

CHAT_PATH = "/v1/chat/completions"


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """The folder of the models."""
    return make_models(tmp_path_factory)


async def streamed_tokens(response: httpx.Response, first: trio.Event | None = None) -> int:
    """Return how many tokens a streamed answer says it has; it must be complete."""
    completion_tokens, last = 0, ""
    async for line in response.aiter_lines():
        if not line.startswith("data: "):
            continue
        last = line.removeprefix("data: ")
        if last == "[DONE]":
            continue
        chunk = json.loads(last)
        assert "error" not in chunk, chunk
        if chunk.get("usage"):
            completion_tokens = chunk["usage"]["completion_tokens"]
        if first is not None and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
            first.set()
    assert last == "[DONE]"
    return completion_tokens


async def read_a_little(router: RealRouter, body: dict[str, object]) -> None:
    """Ask for a stream, and leave after its first event."""
    content = json.dumps(body).encode()
    head = f"POST {CHAT_PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    host, _, port = router.url.removeprefix("http://").partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as connection:
        await connection.send_all(head.encode() + content)
        received = b""
        while b"data: " not in received:
            data = await connection.receive_some()
            assert data, received
            received += data


async def test_fifty_swaps_in_a_row_all_succeed(models, tmp_path, record_property) -> None:
    """50 requests, each for another exclusive model than the one before, are all answered."""
    config = write_config(tmp_path, *(model_table(models, name) for name in "abc"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            begun_s = time.monotonic()
            for number in range(50):
                answer = await client.post(CHAT_PATH, json=chat("abc"[number % 3], max_tokens=1))
                assert answer.status_code == 200, (number, answer.text)
            record_property("swaps_s", time.monotonic() - begun_s)
            assert len(router.named("backend.ready")) == 50
            assert await router.loaded() == ["b"]


async def test_requests_for_exclusive_models_at_once_all_succeed(models, tmp_path) -> None:
    """Clients that compete for two exclusive models all get answers; one model is left loaded."""
    config = write_config(tmp_path, *(model_table(models, name) for name in "ab"))
    statuses: list[int] = []
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:

            async def ask(model: str) -> None:
                for _ in range(2):
                    answer = await client.post(CHAT_PATH, json=chat(model))
                    statuses.append(answer.status_code)

            async with trio.open_nursery() as nursery:
                for _ in range(4):
                    nursery.start_soon(ask, "a")
                    nursery.start_soon(ask, "b")
            assert statuses == [200] * 16
            assert len(await router.loaded()) == 1


@pytest.mark.parametrize(
    ("lines", "name"), [((), "a"), (('spawn.env.LLAMA_ARG_ALIAS = "x"',), "x")]
)
async def test_answers_name_the_model_as_the_router_does(models, tmp_path, lines, name) -> None:
    """llama.cpp's UI goes on with the name that an answer has; who wants another sets it."""
    config = write_config(tmp_path, model_table(models, "a", *lines, file="b"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            answer = await client.post(CHAT_PATH, json=chat("a"))
    assert answer.json()["model"] == name


async def test_a_group_runs_side_by_side(models, tmp_path) -> None:
    """Two models of one group are both loaded, each by a process of its own."""
    tables = (model_table(models, name, 'group = "pair"') for name in "ab")
    config = write_config(tmp_path, *tables)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            for model in "aba":
                assert (await client.post(CHAT_PATH, json=chat(model))).status_code == 200
            assert await router.loaded() == ["a", "b"]
            assert len(router.named("backend.spawned")) == 2
            assert router.named("backend.stopping") == []


async def test_a_model_outside_the_group_replaces_all_of_it(models, tmp_path) -> None:
    """A model of another group runs alone: both members are gone before it is spawned."""
    tables = [model_table(models, name, 'group = "pair"') for name in "ab"]
    config = write_config(tmp_path, *tables, model_table(models, "c"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            for model in "abc":
                assert (await client.post(CHAT_PATH, json=chat(model))).status_code == 200
            assert await router.loaded() == ["c"]
            pids = {event["model"]: event["pid"] for event in router.named("backend.spawned")}
            assert pids.keys() == {"a", "b", "c"}
            names = [(event["event"], event.get("model")) for event in router.events]
            spawned_c = names.index(("backend.spawned", "c"))
            assert names.index(("backend.stopped", "a")) < spawned_c
            assert names.index(("backend.stopped", "b")) < spawned_c


async def test_a_stream_is_never_cut_by_a_swap(models, tmp_path) -> None:
    """A swap waits for the stream in flight, which gets every one of its tokens."""
    config = write_config(tmp_path, *(model_table(models, name) for name in "ab"))
    tokens: list[int] = []
    flowing = trio.Event()
    body = chat("a", max_tokens=1000, stream=True, stream_options={"include_usage": True})
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:

            async def read_stream() -> None:
                async with client.stream("POST", CHAT_PATH, json=body) as response:
                    tokens.append(await streamed_tokens(response, flowing))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_stream)
                await flowing.wait()
                assert tokens == []
                answer = await client.post(CHAT_PATH, json=chat("b"))
                assert tokens == [1000]  # first the stream, then the swap
            assert answer.status_code == 200
            assert await router.loaded() == ["b"]
            completed = await router.event("request.completed", model="a")
            assert completed["outcome"] == "ok"
            assert completed["completion_tokens"] == 1000


async def test_a_client_that_leaves_frees_its_model(models, tmp_path) -> None:
    """When the reader of a long stream leaves, a swap need not wait for the stream's end."""
    config = write_config(tmp_path, *(model_table(models, name) for name in "ab"))
    body = chat("a", max_tokens=100_000, stream=True)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await read_a_little(router, body)
            assert (await client.post(CHAT_PATH, json=chat("b"))).status_code == 200
            completed = await router.event("request.completed", model="a")
            assert completed["outcome"] == "client_gone"


async def test_the_log_has_one_complete_line_per_request(models, tmp_path) -> None:
    """``request.completed`` says how long each part took and how many tokens there were."""
    config = write_config(tmp_path, model_table(models, "a"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            cold = (await client.post(CHAT_PATH, json=chat("a", max_tokens=7))).json()
            await router.event("request.completed")
            seen = len(router.events)
            await client.post(CHAT_PATH, json=chat("a", max_tokens=5, stream=True))
            first, second = [
                await router.event("request.completed"),
                await router.event("request.completed", after=seen),
            ]
            ready = await router.event("backend.ready")
    assert first["status"] == 200
    assert first["path"] == CHAT_PATH
    assert first["prompt_tokens"] == cold["usage"]["prompt_tokens"] > 0
    assert first["completion_tokens"] == 7
    # What was kept of prompts is looked for behind the load, and the request waits for that, too.
    assert 0 < first["load_s"] <= ready["load_s"] + stretched_s(0.1)
    assert 0 <= first["queue_s"] < 1
    assert first["queue_s"] + first["load_s"] <= first["ttft_s"] <= first["duration_s"]
    assert second["load_s"] == 0
    assert second["queue_s"] < 0.05
    assert second["completion_tokens"] == 5


async def test_the_output_of_a_backend_goes_to_a_file_of_its_own(models, tmp_path) -> None:
    """``logs/<model>.jsonl`` has the backend's own lines, and no other model's."""
    config = write_config(tmp_path, *(model_table(models, name) for name in "ab"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            for model in "ab":
                assert (await client.post(CHAT_PATH, json=chat(model))).status_code == 200
    for model, other in (("a", "b"), ("b", "a")):
        text = (tmp_path / "state" / "logs" / f"{model}.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert len(lines) > 5
        assert f"{models}/{model}.gguf" in text
        assert f"{models}/{other}.gguf" not in text


async def test_stopping_ends_the_backends_of_a_whole_group(models, tmp_path) -> None:
    """SIGTERM ends the router with status 0, and no process of it is left."""
    tables = (model_table(models, name, 'group = "trio"') for name in "abc")
    config = write_config(tmp_path, *tables)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            async with trio.open_nursery() as nursery:
                for model in "abc":
                    nursery.start_soon(partial(client.post, CHAT_PATH, json=chat(model)))
            family = router.family()
            assert len(family) == 4  # three backends and the guardian
    assert alive(family) == set()
