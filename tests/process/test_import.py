"""Importing other routers' configurations, and serving what came of it."""

import os
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.process.real import LIMIT_S, chat, make_models, run_cli, serving

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

LLAMA_SWAP = """\
healthCheckTimeout: 30
macros:
  server: "llama-server --port ${{PORT}} --ctx-size 256"
models:
  one:
    cmd: |
      ${{server}}
      # the tiny one
      -m {folder}/a.gguf
    aliases: [gpt-4o-mini]
    ttl: 60
  two:
    cmd: ${{server}} --model {folder}/b.gguf
hooks:
  on_startup:
    preload: [one]
"""

PRESETS = """\
version = 1
[*]
c = 256
[one]
model = {folder}/a.gguf
alias = gpt-4o-mini
load-on-startup = true
"""


@pytest.fixture
def models(tmp_path_factory) -> Path:
    """The folder of the models."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    return make_models(tmp_path_factory)


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("command", "text"), [("import-llama-swap", LLAMA_SWAP), ("import-presets", PRESETS)]
)
async def test_what_was_imported_serves_a_chat(models, tmp_path, command, text) -> None:
    """The old file is imported, passes ``check``, and its model answers under its alias."""
    old = tmp_path / "old"
    old.write_text(text.format(folder=models))
    done = await run_cli(command, str(old), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"next: llama-router serve --config router.toml" in done.stderr
    config = tmp_path / "router.toml"
    assert (await run_cli("check", str(config), folder=tmp_path)).returncode == 0
    state = f'[router]\nstate_dir = "{tmp_path}/state"'
    config.write_text(config.read_text().replace("[router]", state))
    async with serving(config) as router, router.client() as client:
        assert await router.loaded() == ["one"]
        answer = await client.post("/v1/chat/completions", json=chat("gpt-4o-mini"))
        assert answer.status_code == 200
        assert answer.json()["choices"][0]["message"]["content"]


async def test_what_is_not_taken_over_is_said(tmp_path) -> None:
    """Each setting without a counterpart is a warning with its line, and counted."""
    (tmp_path / "old.yaml").write_text(
        f"models:\n  m:\n    cmd: '{sys.executable} ${{PORT}}'\n    cmdStop: stop\n"
    )
    done = await run_cli("import-llama-swap", "old.yaml", folder=tmp_path)
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("old.yaml:4: warning: models.m: not taken over: cmdStop = stop: ")
    assert "wrote router.toml: 1 model; not taken over: 1" in lines[1]
    assert done.returncode == 0


async def test_mistakes_write_nothing(tmp_path) -> None:
    """A mistake in the old file is an error with its line, status 1, and no new file."""
    (tmp_path / "old.yaml").write_text("models:\n  m: {cmd: '${nope}'}\n")
    done = await run_cli("import-llama-swap", "old.yaml", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"old.yaml:2: error: models.m.cmd: unknown macro ${nope}")
    assert not (tmp_path / "router.toml").exists()


async def test_nothing_is_overwritten(tmp_path) -> None:
    """An existing file stays; -o says another one, and "-" is standard output."""
    (tmp_path / "old.ini").write_text("[m]\nhf-repo = a/b\n")
    (tmp_path / "router.toml").write_text("# mine\n")
    done = await run_cli("import-presets", "old.ini", folder=tmp_path)
    assert done.returncode == 1
    assert b"exists already" in done.stderr
    assert (tmp_path / "router.toml").read_text() == "# mine\n"
    done = await run_cli("import-presets", "old.ini", "-o", "-", folder=tmp_path)
    assert done.returncode == 0
    assert b"[models.m]\n" in done.stdout
    done = await run_cli("import-presets", "old.ini", "-o", "new.toml", folder=tmp_path)
    assert (tmp_path / "new.toml").read_bytes().count(b"[models.m]") == 1


async def test_what_check_would_refuse_is_said(tmp_path) -> None:
    """A model file that is not on this machine is named; the new file stays, with status 1."""
    (tmp_path / "old.ini").write_text("[m]\nmodel = missing.gguf\n")
    done = await run_cli("import-presets", "old.ini", folder=tmp_path)
    assert done.returncode == 1
    assert b"missing.gguf: No such file or directory" in done.stderr
    assert (tmp_path / "router.toml").exists()


async def test_a_file_with_a_secret_is_only_for_its_owner(tmp_path, monkeypatch) -> None:
    """The value of a variable ends up in the file, which nobody else may read then."""
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    (tmp_path / "old.yaml").write_text("models: {m: {cmd: 'env ${PORT} ${env.MY_TOKEN}'}}\n")
    done = await run_cli("import-llama-swap", "old.yaml", folder=tmp_path)
    assert b"MY_TOKEN" in done.stderr
    assert b"s3cret" not in done.stderr
    assert stat.S_IMODE((tmp_path / "router.toml").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "binary", "large"])
async def test_what_is_no_text_file_is_a_sentence(tmp_path, kind) -> None:
    """Whatever FILE is, there is one clear error and no traceback."""
    old = tmp_path / "old.yaml"
    match kind:
        case "folder":
            old.mkdir()
        case "fifo":
            os.mkfifo(old)
        case "binary":
            old.write_bytes(b"a: 1\n\xff\n")
        case "large":
            old.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    done = await run_cli("import-llama-swap", "old.yaml", folder=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("old.yaml")
    assert ": error: " in line
