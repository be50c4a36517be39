"""llama.cpp's own endpoints, served by its own server behind the router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.process.real import (
    Shared,
    make_models,
    model_table,
    shared,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Shared]:
    """A chat model, an embedding model and a reranker, with the default settings."""
    models = make_models(tmp_path_factory)
    tables = [
        model_table(models, "a", args=["--metrics"]),
        model_table(models, "embedder", args=["--embeddings"]),
        model_table(models, "ranker", file="embedder", args=["--reranking"]),
    ]
    with shared(tmp_path_factory, *tables) as served:
        yield served


@pytest.fixture
async def http(served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the router that all these tests share."""
    async with served.client() as client:
        yield client


async def ask(http: httpx.AsyncClient, path: str, **document: object) -> Any:
    """Return the answer to a POST; fails unless its status is 200."""
    answer = await http.post(path, json=document)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_completion(http) -> None:
    """Whole, and streamed with notices as comments."""
    asked = {"model": "a", "prompt": "hi", "n_predict": 5, "temperature": 0}
    headers = {"X-Notify-Model-Swap": "true"}
    streamed = await http.post("/completion", json=asked | {"stream": True}, headers=headers)
    whole = await ask(http, "/completion", **asked)
    assert streamed.text.startswith(": ")
    assert '"stop":true' in streamed.text
    assert whole["tokens_predicted"] == 5


async def test_tokens_and_templates(http) -> None:
    """Text becomes tokens, and these text again; messages become a prompt."""
    tokens = (await ask(http, "/tokenize", model="a", content="hello you"))["tokens"]
    text = (await ask(http, "/detokenize", model="a", tokens=tokens))["content"]
    prompt = (await ask(http, "/apply-template", model="a", messages=HELLO))["prompt"]
    assert text.strip() == "hello you"
    assert "user\nhi" in prompt


@pytest.mark.parametrize("path", ["/embedding", "/embeddings", "/v1/embeddings"])
async def test_embeddings(http, path) -> None:
    """Under each of their names."""
    answer = await ask(http, path, model="embedder", input="water")
    (entry,) = answer if isinstance(answer, list) else answer["data"]
    assert entry["embedding"]


@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
async def test_reranking(http, path) -> None:
    """Each document gets a score."""
    answer = await ask(http, path, model="ranker", query="water", documents=["wet", "dry", "sea"])
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2]


async def test_adapters_and_slots(http, served) -> None:
    """To look loads nothing; to change names the model, in the path or in the query."""
    await served.unload()
    assert (await http.get("/lora-adapters")).status_code == 503
    assert await served.loaded() == []
    assert (await http.post("/lora-adapters?model=a", json=[])).json() == {"success": True}
    assert (await http.get("/lora-adapters")).json() == []
    assert (await http.get("/a/lora-adapters")).json() == []
    assert (await http.get("/lora-adapters?model=a")).json() == []
    assert len((await http.get("/slots")).json()) >= 1
    erased = await http.post("/slots/0?action=erase&model=a")
    assert erased.json()["error"]["type"] == "not_supported_error"  # without --slot-save-path


async def test_infill(http) -> None:
    """What the model has no tokens for is refused by the backend, not by the router."""
    asked = {"model": "a", "input_prefix": "def f(", "input_suffix": "return"}
    answer = await http.post("/infill", json=asked)
    assert answer.status_code == 501
    assert "Infill is not supported by this model" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/chat/completions/input_tokens", 200, "input_tokens"),
        ("/v1/responses/input_tokens", 400, "'input' is required"),
        ("/v1/chat/completions/control", 400, "missing completion id"),
        ("/v1/systemone", 501, "not a decision model"),
        ("/audio/transcriptions", 501, "does not support audio input"),
        ("/cors-proxy", 403, "this feature is disabled"),
    ],
)
async def test_every_path_of_llama_server(http, path, status, says) -> None:
    """The default settings pass it on, and the backend answers."""
    answer = await http.post(path, json={"model": "a", "messages": HELLO})
    assert (answer.status_code, says in answer.text) == (status, True), answer.text


async def test_metrics(http) -> None:
    """Those of the model in the query or in the path, or of all that run."""
    for path in ("/metrics?model=a", "/a/metrics", "/metrics?backends=1"):
        assert "llamacpp:" in (await http.get(path)).text


async def test_the_backends_own_paths(http) -> None:
    """Below /upstream/ there is the whole backend, errors of its own included."""
    models = (await http.get("/upstream/a/v1/models")).json()
    tokens = await ask(http, "/upstream/a/tokenize", content="hello you")
    missing = await http.get("/upstream/a/nothing")
    assert models["data"][0]["meta"]["n_params"] > 0
    assert tokens["tokens"]
    assert missing.json()["error"]["message"] == "File Not Found"
