"""``pull``, ``list``, ``rm`` and ``serve -hf``, against an offline hub."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from tests.hub_server import HubServer
from tests.process.real import LIMIT_S, chat, environment, run_cli, serving, started, write_config

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

REPO = "acme/tiny-GGUF"
CHAT_PATH = "/v1/chat/completions"


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with two quantizations of a chat model that really run."""
    pytest.importorskip("gguf", reason="the extra 'embedded' is not installed")
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q4_K_M.gguf", name="tiny", seed=1)
    make_chat_model(folder / "tiny-Q8_0.gguf", name="tiny", seed=2)
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def home(server, tmp_path) -> dict[str, str]:
    """The environment of somebody who has nothing but this hub."""
    home = tmp_path / "home"
    home.mkdir()
    return home_at(home) | {"HF_ENDPOINT": server.url}


def home_at(folder: Path) -> dict[str, str]:
    unset = ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "HF_TOKEN")
    xdg = ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "STATE_DIRECTORY")
    empty = dict.fromkeys((*unset, *xdg), "")
    return empty | {"HOME": str(folder), "NO_PROXY": "*", "RUNTIME_DIRECTORY": ""}


async def cli(home: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    done = await run_cli(*arguments, folder=Path(home["HOME"]), **home)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def content(path: Path) -> bytes:
    return path.read_bytes()


def unfinished(home: dict[str, str]) -> list[Path]:
    return list(Path(home["HOME"]).rglob("*.incomplete"))


# -- pull, list, rm -------------------------------------------------------------------


async def test_pull_prints_where_the_model_is(server, home) -> None:
    """The path is all that standard output has; the rest is for people."""
    status, out, err = await cli(home, "pull", REPO)
    assert status == 0, err
    path = Path(out.removesuffix("\n"))
    assert content(path) == content(server.root / REPO / "tiny-Q4_K_M.gguf")
    assert path.is_relative_to(Path(home["HOME"]) / ".cache" / "huggingface" / "hub")
    assert f"{REPO}:Q4_K_M is here now: downloaded " in err


async def test_upper_and_lower_case_do_not_matter(home) -> None:
    """One folder and one id, as the hub spells them, also offline and when it is removed."""
    other = REPO.swapcase()
    status, out, err = await cli(home, "pull", f"{other}:q4_k_m")
    assert status == 0, err
    assert "/models--acme--tiny-GGUF/" in out
    assert f"{REPO}:Q4_K_M is here now" in err
    status, out, err = await cli(home | {"HF_HUB_OFFLINE": "1"}, "pull", other)
    assert status == 0, err
    assert "/models--acme--tiny-GGUF/" in out
    status, _, err = await cli(home, "rm", other)
    assert (status, err.split(":")[0]) == (0, "removed acme/tiny-GGUF")


async def test_list_and_rm(home) -> None:
    """What was fetched is listed, as text and as JSON, and can be removed again."""
    for quant in ("Q4_K_M", "q8_0"):
        assert (await cli(home, "pull", f"{REPO}:{quant}"))[0] == 0
    status, out, _ = await cli(home, "list")
    assert status == 0
    names = [line.split()[0] for line in out.splitlines()]
    assert names == ["MODEL", f"{REPO}:Q4_K_M", f"{REPO}:Q8_0"]
    _, out, _ = await cli(home, "list", "--json")
    entries = json.loads(out)
    sizes = [len(content(Path(entry["path"]))) for entry in entries]
    assert sizes == [entry["size_bytes"] for entry in entries]
    status, _, err = await cli(home, "rm", REPO)
    assert status == 1
    assert "name one" in err
    status, _, err = await cli(home, "rm", f"{REPO}:Q8_0")
    assert (status, err.split(":")[0]) == (0, "removed acme/tiny-GGUF")
    assert (await cli(home, "rm", REPO))[0] == 0
    status, out, err = await cli(home, "list")
    assert (status, out) == (0, "")
    assert "there are no models" in err
    status, _, err = await cli(home, "rm", REPO)
    assert status == 1
    assert f"no model of {REPO} is in the cache" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["../../etc/passwd"], "is not the name of a model on the hub"),
        ([REPO, "--hf-file", "../x.gguf"], "is not the path of a file"),
        ([f"{REPO}:Q2_K"], f"{REPO} has no quantization 'Q2_K'; there are: Q4_K_M, Q8_0"),
        (["acme/other"], "the hub has no model repository 'acme/other'"),
    ],
)
async def test_failures_are_one_sentence(home, arguments, sentence) -> None:
    """On standard error, with status 1 and without a traceback."""
    status, out, err = await cli(home, "pull", *arguments)
    assert (status, out) == (1, "")
    assert sentence in err.splitlines()[-1]
    assert "Traceback" not in err


async def test_tokens_come_from_the_environment(server, home) -> None:
    """Without one the page is named; with HF_TOKEN it works; a wrong one is said to be wrong."""
    server.token, server.known_tokens, server.gated = "hf_good", {"hf_good"}, {REPO}
    status, _, err = await cli(home, "pull", REPO)
    assert status == 1
    assert f"accept its conditions at {server.url}/{REPO}" in err
    status, _, err = await cli(home | {"HF_TOKEN": "hf_bad"}, "pull", REPO)
    assert status == 1
    assert "does not accept the token" in err
    assert (await cli(home | {"HF_TOKEN": "hf_good"}, "pull", REPO))[0] == 0


@pytest.mark.parametrize(
    "variables",
    [
        {"HTTPS_PROXY": "nonsense://proxy"},
        {"HTTPS_PROXY": "http://[::1"},
        {"HF_ENDPOINT": "http://127.0.0.1:99999"},
        {"HF_TOKEN": "t\N{LATIN SMALL LETTER O WITH DIAERESIS}ken"},
        {"HF_HUB_ETAG_TIMEOUT": "soon"},
        {"SSL_CERT_FILE": "/nonexistent"},
    ],
    ids=lambda variables: "=".join(*variables.items()),
)
async def test_a_variable_that_cannot_be_used_is_a_sentence(home, variables) -> None:
    """What is in the cache can still be used."""
    status, _, err = await cli(home | {"NO_PROXY": ""} | variables, "pull", REPO)
    assert (status, "Traceback" in err) == (1, False)
    assert "the hub cannot be asked with the environment as it is (" in err.splitlines()[-1]
    assert (await cli(home, "pull", REPO))[0] == 0
    status, out, err = await cli(home | {"NO_PROXY": ""} | variables, "pull", REPO)
    assert (status, out.endswith("/tiny-Q4_K_M.gguf\n")) == (0, True)
    assert "is here already; not compared: the hub cannot be asked" in err


async def test_a_cache_whose_name_is_not_utf8(home) -> None:
    """A model is fetched into it and deleted; a scan leaves it out, and says why."""
    home = home | {"HF_HOME": str(Path(home["HOME"], "caf\udce9"))}
    done = await run_cli("pull", REPO, folder=Path(home["HOME"]), **home)
    assert (done.returncode, b"/caf\xe9/" in done.stdout) == (0, True), done.stderr
    status, out, err = await cli(home, "list")
    assert (status, out) == (0, "")
    assert "warning: its name has characters that cannot be shown" in err
    assert (await cli(home, "rm", REPO))[0] == 0


async def test_one_file_by_its_path(home) -> None:
    """``--hf-file`` instead of a quantization."""
    status, out, err = await cli(home, "pull", REPO, "--hf-file", "tiny-q8_0.gguf")
    assert status == 0, err
    assert out.endswith("/tiny-Q8_0.gguf\n")


async def test_offline_is_good_enough_for_what_is_here(home) -> None:
    """HF_HUB_OFFLINE asks nobody; a model that is not here is refused."""
    assert (await cli(home, "pull", REPO))[0] == 0
    offline = home | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:1"}
    status, out, err = await cli(offline, "pull", REPO)
    assert (status, out.endswith("/tiny-Q4_K_M.gguf\n")) == (0, True)
    assert "is here already; not compared: HF_HUB_OFFLINE is set" in err
    status, _, err = await cli(offline, "pull", f"{REPO}:Q8_0")
    assert status == 1
    assert "HF_HUB_OFFLINE is set" in err


async def test_ctrl_c_keeps_what_is_here(server, home) -> None:
    """Status 130, at once though the hub is silent; the next pull goes on, rm frees the disk."""
    server.stall_after = 200_000
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "llama_router", "pull", REPO],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**home),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdout, process.stderr:
        await trio.to_thread.run_sync(server.stalled.wait)
        # Sent is not received, and no event tells.
        while not any(map(content, unfinished(home))):  # noqa: ASYNC110 -- of another process
            await trio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 130
        said = b"".join([data async for data in process.stderr]).decode()
    assert said.endswith("the same command resumes the download\n")
    assert "Traceback" not in said
    assert [bool(content(part)) for part in unfinished(home)] == [True]
    status, _, err = await cli(home, "rm", REPO)
    assert (status, "interrupted downloads" in err) == (0, True)
    assert unfinished(home) == []


async def test_a_terminal_shows_a_bar(server, home) -> None:
    """With how much is here, how fast it comes, and how long it will take."""
    (server.root / REPO / "tiny-F16.gguf").write_bytes(b"x" * 2_000_000)
    server.rate = 2_000_000
    ours, theirs = pty.openpty()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "llama_router", "pull", f"{REPO}:F16"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=environment(**home, TERM="xterm", COLUMNS="120"),
    )
    os.close(theirs)
    shown = b""
    async with trio.lowlevel.FdStream(ours) as terminal:
        with suppress(trio.BrokenResourceError):  # EIO: that is how a terminal ends
            async for data in terminal:
                shown += data
    assert await process.wait() == 0
    text = shown.decode()
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in text
    for part in (f"{REPO}:F16", " of 2.0 MB", "MB/s", " s left"):
        assert part in text, text


# -- serve -hf ------------------------------------------------------------------------


@pytest.mark.embedded
async def test_an_empty_machine_needs_one_command(server, home) -> None:
    """Fetched, loaded, asked, stopped; the next start needs neither the option nor the hub."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    folder = Path(home["HOME"])
    async with serving(folder, "-hf", REPO, **home) as router, router.client() as client:
        assert await router.loaded() == [f"{REPO}:Q4_K_M"]
        answer = await client.post(CHAT_PATH, json=chat(REPO))
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"]
    asked = len(server.log)
    async with serving(folder, **home) as router, router.client() as client:
        assert await router.loaded() == [f"{REPO}:Q4_K_M"]
        answer = await client.post(CHAT_PATH, json=chat(f"{REPO}:Q4_K_M"))
        assert answer.status_code == 200, answer.text
    assert len(server.log) == asked


@pytest.mark.embedded
async def test_only_the_first_model_is_loaded_at_start(home) -> None:
    """A later ``-hf`` adds a model and changes nothing else."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    folder = Path(home["HOME"])
    for quant in ("Q8_0", "Q4_K_M"):
        async with serving(folder, "-hf", f"{REPO}:{quant}", **home) as router:
            assert await router.loaded() == [f"{REPO}:Q8_0"]
    found = tomllib.loads((folder / ".local/state/llama-router/models.toml").read_text())
    assert found["startup_model"] == f"{REPO}:Q8_0"
    assert found["models"].keys() == {f"{REPO}:Q8_0", f"{REPO}:Q4_K_M"}


async def test_a_failed_download_starts_no_router(home) -> None:
    """The reason is said, and the status is 1."""
    folder = Path(home["HOME"])
    async with started(folder, "-hf", f"{REPO}:Q2_K", **home) as router:
        assert await router.process.wait() == 1
    assert "there are: Q4_K_M, Q8_0" in router.said[-1]
    assert router.events == []


async def test_a_router_that_scans_no_cache_says_so(home, tmp_path) -> None:
    """The model was fetched, but would not be served."""
    config = write_config(tmp_path, router=["scan_caches = false"])
    async with started(config, "-hf", REPO, **home) as router:
        assert await router.process.wait() == 1
    assert "scan_caches is off" in router.said[-1]


async def test_a_file_without_a_repository_is_a_mistake(home) -> None:
    """``--hf-file`` alone means nothing."""
    status, _, err = await cli(home, "serve", "--hf-file", "x.gguf")
    assert (status, err) == (1, "--hf-file needs --hf-repo\n")
