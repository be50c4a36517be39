"""``llama-router doctor``: what it finds, and which cure it gives."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from llama_router.cli import doctor as look_at
from llama_router.cli.commands import doctor as command
from llama_router.cli.doctor import Finding, Verdict
from llama_router.config.load import load_config
from llama_router.core.config.config import Config
from llama_router.core.config.parse import parse_config


def config_of(port: int = 1, path: Path | None = None) -> Config:
    models = {} if path is None else {"m": {"path": str(path)}}
    return parse_config({"router": {"port": port}, "models": models})


def test_a_model_without_its_file_is_an_error_with_a_cure(tmp_path) -> None:
    """It names the file."""
    path = tmp_path / "router.toml"
    path.write_text('[models.a]\npath = "missing.gguf"\n')
    found = list(look_at.about_configuration(path, load_config(path, running=True)))
    (error,) = [each for each in found if each.verdict is Verdict.ERROR]
    assert "missing.gguf is not there" in error.text
    assert error.cure


def test_without_a_model_it_says_how_to_get_one(tmp_path) -> None:
    """And which files were looked for."""
    path = tmp_path / "router.toml"
    loaded = load_config(path, running=True, optional=True)
    found = list(look_at.about_configuration(path, loaded))
    assert "no file" in found[0].text
    assert any("llama-router pull" in each.cure for each in found)


def test_a_port_that_is_taken_is_an_error(tmp_path) -> None:
    """With the process, if it can be seen."""
    environ = {"HOME": str(tmp_path)}
    connection = look_at_connection(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        *_, taken = look_at.about_router(config_of(port), connection, environ)
        assert (taken.verdict, str(os.getpid()) in taken.text) == (Verdict.ERROR, True)
    *_, free = look_at.about_router(config_of(port), connection, environ)
    assert free == Finding(topic="router", text=f"port {port} is free")


def look_at_connection(folder: Path):
    """Return a connection to a router that does not run."""
    from llama_router.cli.options import Connection  # noqa: PLC0415 -- for this only

    return Connection(config=folder / "router.toml")


def test_folders_that_others_cannot_pass_are_found(tmp_path) -> None:
    """The first one on the way is named."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "models"
    folder.mkdir(mode=0o755)
    file = folder / "m.gguf"
    file.write_bytes(b"x")
    file.chmod(0o640)
    parents = [each for each in folder.parents if not each.stat().st_mode & 0o001]
    expected = parents[-1] if parents else file
    assert look_at.closed_to_others(file) == expected
    assert look_at.closed_to_others(folder / "missing") in (None, expected)


def test_a_service_that_cannot_read_its_models(tmp_path, monkeypatch) -> None:
    """It gets the command that opens the folder."""
    unit = tmp_path / "unit"
    monkeypatch.setattr(look_at, "_UNIT", unit)
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "m.gguf").write_bytes(b"x")
    assert [f.verdict for f in look_at.about_service(config_of())] == [Verdict.NOTE]
    unit.write_text("")
    found = list(look_at.about_service(config_of(path=closed / "m.gguf")))
    assert found[-1].verdict is Verdict.WARNING
    assert "chmod o+x" in found[-1].cure


def test_disks_that_are_nearly_full_are_a_warning(tmp_path, monkeypatch) -> None:
    """With a way to free space; folders that are not there yet are noted."""
    environ = {"HOME": str(tmp_path)}
    found = list(look_at.about_disks(tmp_path / "state", environ))
    assert [each.verdict for each in found] == [Verdict.NOTE, Verdict.NOTE, Verdict.OK]
    monkeypatch.setattr(look_at, "_LITTLE", 10**18)
    assert list(look_at.about_disks(tmp_path / "state", environ))[-1].verdict is Verdict.WARNING


def test_a_state_directory_on_a_full_disk_is_an_error(tmp_path, monkeypatch) -> None:
    """Nothing is kept there any more; no model there could be removed to free space."""
    monkeypatch.setattr(look_at, "_NEEDED", 10**18)
    full = list(look_at.about_disks(tmp_path / "state", {"HOME": str(tmp_path)}))[-1]
    assert full.verdict is Verdict.ERROR
    assert "df -h" in full.cure
    assert "router.state_dir" in full.cure


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder, and a configuration that is fine."""
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.chdir(tmp_path)
    backend = '[models.a]\nspawn.command = ["sh", "-c", "exec false $port"]\n'
    with socket.create_server(("127.0.0.1", 0)) as probe:  # this machine may run a router, too
        port = probe.getsockname()[1]
    router = f'[router]\nport = {port}\nstate_dir = "state"\n'
    (tmp_path / "router.toml").write_text(router + backend)
    return tmp_path


def test_the_page_has_every_topic(home, capsys) -> None:
    """Without an error the exit status is 0, and nothing is written."""
    assert command.doctor() == 0
    said = capsys.readouterr().out
    topics = [line for line in said.splitlines() if not line.startswith(" ")]
    assert topics == ["llama-router", "configuration", "memory", "disk", "router", "service"]
    assert not (home / "state").exists()


def test_a_broken_configuration_ends_with_1(home, capsys) -> None:
    """It has the problem with its line, also beside JSON."""
    (home / "router.toml").write_text("[router]\nprot = 1\n")
    assert command.doctor(json=True) == 1
    said = capsys.readouterr()
    assert "router.toml:2: error: router.prot: unknown key" in said.err
    assert json.loads(said.out)[-1]["verdict"] == "error"
