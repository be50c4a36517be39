"""The examples in the guides for clients work as they are written, one page as one program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.process.real import (
    LIMIT_S,
    NEEDS_CURL,
    ROOT,
    Served,
    Shared,
    environment,
    make_models,
    model_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]

ADDRESS = "http://127.0.0.1:8082"
UNSET = dict.fromkeys(
    ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"), ""
)


def blocks(page: str, language: str, *, folder: str = "how-to") -> list[str]:
    """Return all blocks of *language* in a page, of the guides by default."""
    text = (ROOT / "docs" / folder / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return the models of the guides; their answers are short, whatever is asked."""
    folder = make_models(factory)
    short = ["--predict", "8"]
    return [
        model_table(folder, "chat", file="a", args=short),
        model_table(folder, "large", file="b", args=short),
        model_table(folder, "embedder", args=["--embeddings"]),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Shared]:
    """A router that all tests share which only ask it."""
    with shared(tmp_path_factory, *tables(tmp_path_factory)) as served:
        yield served


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """A configuration of a test's own."""
    return write_config(tmp_path, *tables(tmp_path_factory))


async def run(router: Served, folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program of a guide, in *folder*; it must succeed."""
    done = await trio.run_process(
        [part.replace(ADDRESS, router.url) for part in command],
        cwd=folder,
        env=environment(NO_PROXY="*", **UNSET),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (
            "openai-clients.md",
            ["chat", "large", "Loading model 'large'", "2 64", "model_not_found"],
        ),
        ("anthropic-clients.md", ["not_found_error"]),
    ],
)
async def test_python(served, tmp_path, page, said) -> None:
    """Nothing is raised, and what the page promises is printed."""
    program = "\n".join(blocks(page, "python"))
    await served.unload()
    done = await run(served, tmp_path, sys.executable, "-c", program)
    out = done.stdout.decode()
    assert [words for words in said if words not in out] == []


@pytest.mark.parametrize(
    ("page", "program"),
    [
        (
            "openai-clients.md",
            "import openai; print([m.id for m in openai.OpenAI().models.list()])",
        ),
        (
            "anthropic-clients.md",
            "import anthropic; print([m.id for m in anthropic.Anthropic().models.list()])",
        ),
    ],
)
async def test_the_environment(served, tmp_path, page, program) -> None:
    """With the variables of the page set, the official client finds the router by itself."""
    script = f"{blocks(page, 'sh')[0]}\n{sys.executable} -W error -c '{program}'"
    done = await run(served, tmp_path, "bash", "-euc", script)
    assert done.stdout == b"['chat', 'large', 'embedder']\n"


@NEEDS_CURL
async def test_curl(config, tmp_path) -> None:
    """Each command succeeds, and none prints an error."""
    script = "\n".join(blocks("curl.md", "sh"))
    async with serving(config) as router:
        done = await run(router, tmp_path, "bash", "-euo", "pipefail", "-c", script)
    out = done.stdout.decode()
    assert '"error"' not in out
    assert ": Loading model 'large'..." in out
    assert out.count('"object":"chat.completion"') == 2
    assert '"type":"message"' in out
    assert "large is not loaded" in out
    assert script.count("curl") > 15


@NEEDS_CURL
async def test_the_reference(served, tmp_path) -> None:
    """What it shows of paths below /upstream/ works, too."""
    (script,) = blocks("http-api.md", "sh", folder="reference")
    done = await run(served, tmp_path, "bash", "-euc", script)
    assert done.stdout.startswith(b'{"status":"ok"}{"tokens":[')


class TestOpenWebUI:
    """Open WebUI's requests, with what the page says it is to be told."""

    PAGE = "open-webui.md"

    def _variables(self) -> dict[str, str]:
        (block,) = [b for b in blocks(self.PAGE, "sh") if "OPENAI_API_BASE_URL" in b]
        return dict(re.findall(r"^export (\w+)=(\S+)$", block, re.MULTILINE))

    @staticmethod
    async def _session(url: str, key: str, model: str, **more: str) -> tuple[list[str], str]:
        """Ask as Open WebUI does: the list, a streamed chat, and then for a title.

        Source: open-webui, backend/open_webui/routers/openai.py, at 004a45f.
        """
        fields = {"Authorization": f"Bearer {key}", **more}
        async with httpx.AsyncClient(trust_env=False, timeout=LIMIT_S, headers=fields) as http:
            listed = (await http.get(f"{url}/models")).raise_for_status().json()["data"]
            body: dict[str, Any] = {
                "model": model,
                "messages": [{"role": "user", "content": "hello"}],
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            answer = await http.post(f"{url}/chat/completions", json=body)
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
            assert events.pop() == "[DONE]"
            chunks = [json.loads(event) for event in events]
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            assert "".join(c["delta"].get("content") or "" for c in choices)
            thoughts = "".join(c["delta"].get("reasoning_content") or "" for c in choices)
            title = body | {"stream": False, "max_tokens": 5}
            del title["stream_options"]
            (await http.post(f"{url}/chat/completions", json=title)).raise_for_status()
        return [entry["id"] for entry in listed], thoughts

    async def test_on_the_same_machine(self, config) -> None:
        """The variables of the page lead to the models; notices come as thoughts."""
        variables = self._variables()
        text = config.read_text().replace("[router]\n", "[router]\nnotify_model_swap = true\n")
        config.write_text(text)
        async with serving(config) as router:
            url = variables["OPENAI_API_BASE_URL"].replace(ADDRESS, router.url)
            key = variables["OPENAI_API_KEY"]
            listed, thoughts = await self._session(url, key, "large")
        assert listed == ["chat", "large", "embedder"]
        assert "Loading model 'large'" in thoughts

    async def test_in_a_container(self, config) -> None:
        """The settings of the page let it in, by the name that containers have for the host."""
        (wanted,) = [b for b in blocks(self.PAGE, "toml") if "allowed_hosts" in b]
        document = tomllib.loads(wanted)
        hosts = json.dumps(document["router"]["allowed_hosts"])
        key = document["api_keys"]["open-webui"]["key"]
        (command,) = [b for b in blocks(self.PAGE, "") if "docker run" in b]
        assert f"OPENAI_API_KEY={key} " in command
        (host,) = re.findall(r"OPENAI_API_BASE_URL=http://(\S+)/v1", command)
        text = config.read_text().replace("[router]\n", f"[router]\nallowed_hosts = {hosts}\n")
        config.write_text(f'{text}\n[api_keys.open-webui]\nkey = "{key}"\n')
        async with serving(config) as router:
            url = f"{router.url}/v1"
            listed, _ = await self._session(url, key, "chat", Host=host)
            async with router.client() as http:
                stranger = await http.get("/v1/models", headers={"Host": host})
        assert listed == ["chat", "large", "embedder"]
        assert stranger.status_code == 401
