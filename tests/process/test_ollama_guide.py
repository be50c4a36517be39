"""The examples of the guide for Ollama's clients work as they are written."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from tests.hub_server import HubServer
from tests.process.real import (
    LIMIT_S,
    NEEDS_CURL,
    environment,
    make_models,
    model_table,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [
    pytest.mark.process,
    pytest.mark.embedded,
    NEEDS_CURL,
]

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "ollama-clients.md"
ADDRESS = "http://127.0.0.1:8082"


def examples(language: str) -> str:
    """Return all blocks of *language*, one after the other."""
    pattern = rf"^```{language}\n(.*?)^```$"
    return "\n".join(re.findall(pattern, GUIDE.read_text(), re.MULTILINE | re.DOTALL))


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """A model called chat, whose answers are short although nobody asks for that."""
    folder = make_models(tmp_path_factory)
    table = model_table(folder, "chat", file="a", args=["--predict", "8"])
    return write_config(tmp_path, table)


async def test_the_commands(config) -> None:
    """Each succeeds, and prints lines of JSON without an error."""
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            done = await trio.run_process(
                ["bash", "-euo", "pipefail", "-c", examples("sh").replace(ADDRESS, router.url)],
                env=environment(NO_PROXY="*"),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr.decode()
    decoder, text, answers = json.JSONDecoder(), done.stdout.decode(), []
    while text := text.lstrip():
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:]
    assert not [answer for answer in answers if "error" in answer]
    assert [model["name"] for model in answers[0]["models"]] == ["chat"]
    assert answers[-1]["done_reason"] == "unload"


async def test_the_python_client(config, tmp_path) -> None:
    """The whole page as one program, with a hub that has what it fetches."""
    (repo,) = re.findall(r'pull\("hf\.co/([^"]+)"', GUIDE.read_text())
    folder = tmp_path / "hub" / repo
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q8_0.gguf", name="tiny", seed=2)
    changes: dict[str, Any] = dict.fromkeys(
        ("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), ""
    )
    changes |= {"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "cache"), "NO_PROXY": "*"}
    with trio.fail_after(LIMIT_S), HubServer(tmp_path / "hub") as hub:
        async with serving(config, **changes, HF_ENDPOINT=hub.url) as router:
            done = await trio.run_process(
                [sys.executable, "-c", examples("python").replace(ADDRESS, router.url)],
                env=os.environ | {"NO_PROXY": "*"},
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert done.returncode == 0, done.stderr.decode()
    assert b"success" in done.stdout
