"""Commands find the router of their user, wherever its files are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from llama_router.cli.own_routers import own_routers
from tests.process.real import LIMIT_S, environment, home, run_cli, serving, write_config

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]


async def told(folder: Path, *words: str) -> tuple[int, str]:
    """Run a command as a person in a folder of no router; return its status and all it printed."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    done = await run_cli(*words, folder=elsewhere, HOME=str(folder))
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_the_only_router_is_found(tmp_path) -> None:
    """Its configuration is in no usual place; one with a name of its own is not taken for it."""
    one = write_config(tmp_path)
    (tmp_path / "other").mkdir()
    other = write_config(tmp_path / "other")
    async with serving(one) as router:
        status, said = await told(tmp_path, "status")
        assert status == 0
        assert f"pid {router.process.pid}" in said
        status, said = await told(tmp_path, "status", "--config", str(other))
        assert status == 1
        assert "no router is running" in said
        async with serving(other, HOME=str(tmp_path)):
            status, said = await told(tmp_path, "status")
            assert status == 1
            assert "several routers are running" in said
            assert f"--config {one}" in said
            assert f"--config {other}" in said
            status, said = await told(tmp_path, "status", "--config", str(other))
            assert status == 0


@pytest.mark.embedded
async def test_the_demo_is_found(tmp_path) -> None:
    """Its folder is known to no command; a second one there is refused in a sentence."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    command = ("demo", "--port", "0", "--no-browser", "--folder", str(tmp_path / "demo"))
    demo = await trio.lowlevel.open_process(
        [sys.executable, "-m", "llama_router", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(**home(tmp_path)),
        cwd=tmp_path,
    )
    assert demo.stdout is not None
    async with demo.stdout:
        try:
            welcome = b""
            while b"In another terminal" not in welcome:
                data = await demo.stdout.receive_some()
                assert data, welcome
                welcome += data
            status, said = await told(tmp_path, "ps", "--all")
            assert (status, "tiny-a" in said) == (0, True)
            status, said = await told(tmp_path, *command)
            assert (status, f"another router, pid {demo.pid}," in said) == (1, True)
        finally:
            demo.terminate()
            with trio.CancelScope(shield=True), trio.fail_after(LIMIT_S):
                await demo.wait()


async def test_a_router_without_its_file_is_not_denied(tmp_path) -> None:
    """As on a full disk, where it could not be written."""
    config = write_config(tmp_path)
    async with serving(config) as router:
        (tmp_path / "state" / "router.json").unlink()
        for words in (("ps",), ("ps", "--config", str(config))):
            status, said = await told(tmp_path, *words)
            assert status == 1
            assert f"a router is running, pid {router.process.pid}, but its file" in said
            assert "--url" in said


async def test_routers_of_others_are_not_found(tmp_path) -> None:
    """Another home is another user; without a home there is none."""
    async with serving(write_config(tmp_path)) as router:
        mine = own_routers(home(tmp_path))
        assert [found.pid for found in mine] == [router.process.pid]
        assert mine[0].state_dir == tmp_path / "state"
        assert own_routers(home(tmp_path / "elsewhere")) == []
        assert own_routers({}) == []
