"""Ollama's ``suffix``: a real backend fills in the middle, or the client is told why not."""

from __future__ import annotations

from pathlib import Path

import gguf
import ollama
import pytest
import trio
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

from tests.process.real import LIMIT_S, make_models, model_table, serving, write_config

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8, "stop": "\n"}


def with_tokens_to_fill_in(source: Path, path: Path) -> None:
    """Write a copy of a model that knows what to mark a prefix, a suffix and a middle with."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    tokens = {
        f"tokenizer.ggml.{name}_token_id": MetadataDetails(gguf.GGUFValueType.UINT32, id_)
        for name, id_ in (("fim_pre", 10), ("fim_suf", 11), ("fim_mid", 12))
    }
    copy_with_new_metadata(reader, writer, tokens, [])


@pytest.fixture
def config(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with a model that can fill in, one that cannot, and another backend."""
    models = make_models(tmp_path_factory)
    with_tokens_to_fill_in(models / "a.gguf", tmp_path / "coder.gguf")
    narrow = 'spawn.proxy_endpoints = ["/v1/", "/health"]'
    return write_config(tmp_path, model_table(tmp_path, "coder", narrow), model_table(models, "a"))


async def test_the_middle_is_filled_in(config: Path) -> None:
    """As llama-server's own endpoint does it, whole and as a stream, with figures."""

    def stream(url: str) -> list[ollama.GenerateResponse]:
        with ollama.Client(url) as client:
            return list(
                client.generate("coder", "see the", suffix="water", options=GREEDY, stream=True)
            )

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, ollama.AsyncClient(router.url) as client:
            whole = await client.generate("coder", "see the", suffix="water", options=GREEDY)
            *pieces, last = await trio.to_thread.run_sync(stream, router.url)
            async with router.client() as http:
                asked = {"input_prefix": "see the", "input_suffix": "water", "n_predict": 8}
                asked |= {"temperature": 0, "seed": 1}
                same = (await http.post("/upstream/coder/infill", json=asked)).json()
    assert whole.response == same["content"]
    assert whole.response != ""
    assert "".join(piece.response or "" for piece in pieces) == whole.response
    for end in (whole, last):
        assert (end.done, end.done_reason, end.eval_count) == (True, "length", 8)
        assert end.prompt_eval_count == same["tokens_evaluated"]


async def test_a_format_is_kept_to(config: Path) -> None:
    """It is translated, too."""
    schema = {"enum": ["water"]}
    options = {"temperature": 0, "num_predict": 50}
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, ollama.AsyncClient(router.url) as client:
            answer = await client.generate("coder", "x", suffix="y", options=options, format=schema)
    assert answer.response.strip() == '"water"'
    assert answer.done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_that_cannot_says_so(config: Path, *, stream: bool) -> None:
    """In Ollama's words, with the backend's reason."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as http:
            asked = {"model": "a", "prompt": "x", "suffix": "y", "stream": stream}
            answer = await http.post("/api/generate", json=asked)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("'a' does not support insert: Infill is not supp")
