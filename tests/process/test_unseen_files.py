"""Folders that may not be entered, are gone, or hang: the router starts, and serves the rest."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.gguf_bytes import write as write_gguf
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    endless_table,
    environment,
    run_cli,
    serving,
    write_config,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

#: Runs a program for which the mode of a file counts, even if root runs it.
WITHOUT_RIGHTS = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)

#: Runs llama-router in a namespace where a folder is a FUSE file system without a program that
#: answers for it: it hangs while the device is open, and is dead when that is closed.
FUSE = """
import ctypes, os, sys
folder, how, _python, _m, _module, *arguments = sys.argv[1:]
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"fuse", folder.encode(), b"fuse", 0, options) != 0:
    raise OSError(ctypes.get_errno(), "mount")
if how == "dead":
    os.close(device)
from llama_router.files import stalls
from llama_router.cli.app import main
stalls.LOOK_TIMEOUT_S = 1.0
sys.argv = ["llama-router", *arguments]
main()
"""


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


@pytest.fixture
def closed(tmp_path) -> Path:
    """A folder with a model, in one that may not be entered."""
    write_gguf(tmp_path / "closed" / "models" / "a.gguf")
    (tmp_path / "closed").chmod(0)
    return tmp_path / "closed" / "models"


@pytest.fixture
def fuse(tmp_path) -> list[str]:
    """The command that runs llama-router where ``mount`` is a FUSE file system."""
    mount = tmp_path / "mount"
    mount.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", FUSE, str(mount)]
    may_mount = os.geteuid() == 0 and Path("/dev/fuse").exists() and shutil.which("unshare")
    if not may_mount:
        pytest.skip("needs root and FUSE")
    probe = [*command, "dead", "python", "-m", "llama_router", "--version"]
    if subprocess.run(probe, env=environment(), capture_output=True, check=False).returncode:
        pytest.skip("FUSE file systems cannot be mounted here")
    return command


def config_with(tmp_path: Path, *folders: Path) -> Path:
    """Return a configuration with a model that is written by hand and one that is found."""
    write_gguf(tmp_path / "open" / "b.gguf")
    names = json.dumps([str(folder) for folder in (*folders, tmp_path / "open")])
    return write_config(
        tmp_path, endless_table(tmp_path, "by-hand"), router=[f"models_dirs = {names}"]
    )


async def listed(router: RealRouter) -> set[str]:
    """Return the names of all models."""
    async with router.client() as client:
        return {model["id"] for model in (await client.get("/v1/models")).json()["data"]}


async def status(tmp_path: Path, config: Path) -> str:
    """Return what ``llama-router status`` prints."""
    done = await run_cli("status", "--config", str(config), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def test_a_folder_that_may_not_be_entered_costs_its_models_only(tmp_path, closed) -> None:
    """The rest is served; log and status say why; a rescan finds them once it may be entered."""
    config = config_with(tmp_path, closed)
    async with serving(config, launcher=WITHOUT_RIGHTS) as router:
        assert await listed(router) == {"by-hand", "b"}
        warning = await router.event("models.doubted", path=str(closed))
        assert warning["reason"] == "it cannot be read: Permission denied"
        assert f"warning: line 3: router.models_dirs[0]: {closed}: Permission denied" in (
            await status(tmp_path, config)
        )
        done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, b"new models: 0, removed: 0\n"), done.stderr
        closed.parent.chmod(0o700)
        done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
        assert done.stdout == b"new models: 1, removed: 0\n", done.stderr
        assert await listed(router) == {"by-hand", "a", "b"}


async def test_a_folder_that_is_closed_later_takes_no_model_away(tmp_path, closed) -> None:
    """Neither a reload nor a rescan takes what it cannot see for gone."""
    closed.parent.chmod(0o700)
    config = config_with(tmp_path, closed)
    async with serving(config, launcher=WITHOUT_RIGHTS) as router:
        closed.parent.chmod(0)
        for command in ("reload", "rescan"):
            done = await run_cli(command, "--config", str(config), folder=tmp_path)
            assert done.returncode == 0, done.stdout
            assert await listed(router) == {"by-hand", "a", "b"}


async def test_a_configuration_that_is_closed_later_changes_nothing(tmp_path) -> None:
    """A warning comes by itself, a reload says why it cannot be read, and the router goes on."""
    (tmp_path / "etc").mkdir()
    config = config_with(tmp_path).rename(tmp_path / "etc" / "router.toml")
    async with serving(config, launcher=WITHOUT_RIGHTS) as router:
        (tmp_path / "etc").chmod(0)
        unseen = await router.event("config.unseen")
        assert (unseen["path"], unseen["reason"]) == (str(config), "Permission denied")
        router.signal(signal.SIGHUP)
        rejected = await router.event("config.rejected")
        assert rejected["problems"] == [f"cannot read {config}: Permission denied"]
        assert await listed(router) == {"by-hand", "b"}
        (tmp_path / "etc").chmod(0o700)


async def test_a_home_that_may_not_be_entered_is_a_warning(tmp_path) -> None:
    """Of the configuration and the caches in it; what is imported is served."""
    write_gguf(tmp_path / "models" / "a.gguf")
    for name in ("config", "cache"):
        (tmp_path / name).mkdir(mode=0)
    async with serving(
        tmp_path,
        "--import-dir",
        str(tmp_path / "models"),
        launcher=WITHOUT_RIGHTS,
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        XDG_STATE_HOME=str(tmp_path / "state"),
    ) as router:
        assert await listed(router) == {"a"}
        doubted = [event["problem"] for event in router.named("config.doubted")]
        assert any("is left out: Permission denied" in problem for problem in doubted)
        await router.event("models.doubted", reason="it cannot be read: Permission denied")


async def test_pull_says_in_one_sentence_that_the_cache_cannot_be_read(tmp_path) -> None:
    """No traceback comes out of the process of the download."""
    (tmp_path / "cache").mkdir(mode=0)
    done = await trio.run_process(
        [*WITHOUT_RIGHTS, sys.executable, "-m", "llama_router", "pull", "user/repo"],
        env=environment(HOME=str(tmp_path), HF_HUB_CACHE=str(tmp_path / "cache" / "hub")),
        capture_stderr=True,
        check=False,
    )
    assert done.returncode == 1
    said = done.stderr.decode().splitlines()[-1]
    assert said.startswith(f"the cache {tmp_path}/cache/hub cannot be used: Permission denied")
    assert b"Traceback" not in done.stderr


async def test_a_dead_file_system_costs_its_models_only(tmp_path, fuse) -> None:
    """As a network mount is whose program is gone."""
    config = config_with(tmp_path, tmp_path / "mount")
    async with serving(config, launcher=[*fuse, "dead"]) as router:
        assert await listed(router) == {"by-hand", "b"}
        warning = await router.event("models.doubted", path=str(tmp_path / "mount"))
        assert warning["reason"] == "it cannot be read: Transport endpoint is not connected"


async def test_a_file_system_that_hangs_costs_its_models_only(tmp_path, fuse) -> None:
    """The start goes on without it, and so do reloads; the end is not held up."""
    config = config_with(tmp_path, tmp_path / "mount", tmp_path / "mount" / "deeper")
    async with serving(config, launcher=[*fuse, "hanging"]) as router:
        assert await listed(router) == {"by-hand", "b"}
        warning = await router.event("models.doubted", path=str(tmp_path / "mount"))
        assert warning["reason"] == "it cannot be read: its file system does not answer"
        assert "its file system does not answer" in await status(tmp_path, config)
        done = await run_cli("reload", "--config", str(config), folder=tmp_path)
        assert done.returncode == 0, done.stdout
        router.signal(signal.SIGTERM)
        assert await router.process.wait() == 0


async def test_a_runtime_file_that_is_a_fifo_holds_nothing_up(tmp_path) -> None:
    """The router puts its own in its place, and commands find it."""
    (tmp_path / "state").mkdir()
    os.mkfifo(tmp_path / "state" / "router.json")
    config = config_with(tmp_path)
    done = await run_cli("ps", "--config", str(config), folder=tmp_path)
    assert done.returncode == 1
    async with serving(config):
        assert "by-hand" not in await status(tmp_path, config)
