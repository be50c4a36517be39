"""``install-unit``, and what systemd's own tools think of its units."""

import grp
import shutil
import subprocess
from collections.abc import AsyncIterator

import pytest
import trio

from tests.process.real import LIMIT_S, run_cli

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

SERVICE = "llama-router.service"


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


async def analyze(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run systemd-analyze, which starts nothing."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    command = ["systemd-analyze", "--no-pager", *arguments]
    return await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)


async def test_it_writes_the_units_and_says_what_to_do_next(tmp_path) -> None:
    """The service and its socket; then the commands that enable them."""
    done = await run_cli(
        "install-unit", "--folder", "units", "--socket", "127.0.0.1:8082", folder=tmp_path
    )
    assert done.returncode == 0
    # Where this checkout is, the service may be unable to run it.
    elsewhere = (b"cannot enter", b"does not see")
    assert not [
        line for line in done.stderr.splitlines() if not any(word in line for word in elsewhere)
    ]
    assert (tmp_path / "units" / SERVICE).exists()
    assert "ListenStream=127.0.0.1:8082" in (tmp_path / "units/llama-router.socket").read_text()
    for command in (b"daemon-reload", b"enable --now llama-router.socket", b"journalctl -u"):
        assert command in done.stdout


async def test_a_user_s_unit_is_where_the_user_s_manager_looks(tmp_path) -> None:
    """In $XDG_CONFIG_HOME, without a word about root."""
    done = await run_cli("install-unit", "--user", folder=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "config" / "systemd" / "user" / SERVICE).exists()
    assert b"systemctl --user enable --now llama-router\n" in done.stdout
    assert b"sudo" not in done.stdout


async def test_the_configuration_is_the_one_that_is_named(tmp_path) -> None:
    """By its full name, for the service is started in another folder."""
    await run_cli("install-unit", "--folder", ".", "--config", "my router.toml", folder=tmp_path)
    assert f'--config "{tmp_path}/my router.toml"' in (tmp_path / SERVICE).read_text()


async def test_a_changed_unit_is_not_touched(tmp_path) -> None:
    """Only --force replaces it; one that nobody changed is brought up to date."""
    unit = tmp_path / SERVICE
    await run_cli("install-unit", "--folder", ".", folder=tmp_path)
    written = unit.read_text()
    again = await run_cli("install-unit", "--folder", ".", folder=tmp_path)
    assert b"is up to date" in again.stdout
    await run_cli("install-unit", "--folder", ".", "--config", "/x.toml", folder=tmp_path)
    assert "--config /x.toml" in unit.read_text()
    changed = written.replace("RestartSec=2", "RestartSec=9")
    unit.write_text(changed)
    refused = await run_cli("install-unit", "--folder", ".", folder=tmp_path)
    assert refused.returncode == 1
    assert b"--force" in refused.stderr
    assert unit.read_text() == changed
    forced = await run_cli("install-unit", "--folder", ".", "--force", folder=tmp_path)
    assert forced.returncode == 0
    assert unit.read_text() == written


async def test_a_folder_that_is_none_is_a_sentence(tmp_path) -> None:
    """What cannot be written is said, with status 1."""
    (tmp_path / "file").touch()
    done = await run_cli("install-unit", "--folder", "file", folder=tmp_path)
    assert done.returncode == 1
    assert b"cannot be written" in done.stderr
    assert b"Traceback" not in done.stderr


async def test_systemd_finds_nothing_wrong_with_the_units(tmp_path) -> None:
    """``systemd-analyze verify`` is silent about each of them."""
    await run_cli("install-unit", "--folder", ".", "--socket", "8082", folder=tmp_path)
    for name in (SERVICE, "llama-router.socket"):
        verified = await analyze("verify", "--recursive-errors=one", str(tmp_path / name))
        assert (verified.returncode, verified.stderr) == (0, b"")


async def test_systemd_finds_nothing_wrong_with_a_user_s_unit(tmp_path, monkeypatch) -> None:
    """The same for the service manager of a user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    await run_cli("install-unit", "--user", "--folder", ".", folder=tmp_path)
    verified = await analyze("verify", "--user", "--recursive-errors=one", str(tmp_path / SERVICE))
    assert (verified.returncode, verified.stderr) == (0, b"")


async def test_the_service_is_hardened(tmp_path) -> None:
    """Its exposure is at most 2.5 of 10, though it reaches a GPU."""
    await run_cli("install-unit", "--folder", ".", folder=tmp_path)
    arguments = ("security", "--offline=true", "--threshold=25", str(tmp_path / SERVICE))
    assert (await analyze(*arguments)).returncode == 0


async def test_the_groups_of_the_unit_exist(tmp_path) -> None:
    """Those of this machine, and no others."""
    await run_cli("install-unit", "--folder", ".", folder=tmp_path)
    lines = (tmp_path / SERVICE).read_text().splitlines()
    named = [line.partition("=")[2].split() for line in lines if line.startswith("Supplementary")]
    there = [name for name in ("video", "render") if name in {g.gr_name for g in grp.getgrall()}]
    assert named == ([there] if there else [])
