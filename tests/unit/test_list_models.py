"""``llama-router list``: what the router would serve, and where it comes from."""

from __future__ import annotations

import json
import os

import pytest

from llama_router.cli.commands.list_models import age, list_models
from llama_router.models.tiny.chat import make_chat_model


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (9 * 86400, "1 week ago"),
     (800 * 86400, "2 years ago"), (-5, "just now")],
)  # fmt: skip
def test_an_age_is_one_number(seconds, words) -> None:
    """In the largest unit; a file from the future is new."""
    assert age(seconds) == words


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration with a folder of models, a model in the hub cache and a broken one."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")})
    (tmp_path / "folder").mkdir()
    make_chat_model(tmp_path / "folder" / "found-Q8_0.gguf", name="found", seed=1)
    make_chat_model(tmp_path / "folder" / "ours-Q8_0.gguf", name="ours", seed=2)
    snapshot = tmp_path / "hf/hub/models--me--repo/snapshots/abc"
    snapshot.mkdir(parents=True)
    make_chat_model(snapshot / "repo-Q4_K_M.gguf", name="cached", seed=1)
    config = tmp_path / "router.toml"
    config.write_text(
        '[router]\nstate_dir = "state"\nmodels_dirs = ["folder"]\n'
        '[models.broken]\npath = "missing.gguf"\naliases = ["b"]\n'
        '[models.program]\nspawn.command = ["python3", "$port"]\n'
        f'[models.ours]\npath = "{tmp_path}/folder/ours-Q8_0.gguf"\n'
    )
    return config


def test_every_model_is_there_with_its_origin(tmp_path, config, capsys) -> None:
    """Those of the configuration, of folders and of caches; nothing is recorded."""
    assert list_models(config=config, json=True) == 0
    listed = {each["id"]: each for each in json.loads(capsys.readouterr().out)}
    assert {name: each["origin"] for name, each in listed.items()} == {
        "broken": "configuration",
        "program": "configuration",
        "me/repo:Q4_K_M": "hub cache",
        "found-Q8_0": str(tmp_path / "folder"),
        "ours": f"{tmp_path / 'folder'}, configuration",
    }
    found = listed["found-Q8_0"]
    assert found["size_bytes"] == (tmp_path / "folder/found-Q8_0.gguf").stat().st_size
    assert (found["quantization"], found["fault"]) == ("Q8_0", None)
    assert "missing.gguf is not there" in listed["broken"]["fault"]
    assert listed["program"]["path"] is None
    assert not (tmp_path / "state" / "models.toml").exists()


def test_the_table_has_a_line_for_each(config, capsys) -> None:
    """With headings; what is not known is a dash."""
    assert list_models(config=config) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["MODEL", "SIZE", "QUANT", "MODIFIED", "FROM", "NOTES"]
    assert len(rows) == 5
    (program,) = [row for row in rows if row.startswith("program")]
    assert program.split() == ["program", "-", "-", "-", "configuration"]


def test_without_models_it_says_how_to_get_one(tmp_path, monkeypatch, capsys) -> None:
    """And that is no failure."""
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    monkeypatch.chdir(tmp_path)
    assert list_models() == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "llama-router pull user/repo" in said.err


def test_a_broken_configuration_is_reported(tmp_path, capsys) -> None:
    """With its lines, and with status 1."""
    config = tmp_path / "router.toml"
    config.write_text("[router]\nprot = 1\n")
    assert list_models(config=config) == 1
    assert f"{config}:2: error: router.prot: unknown key" in capsys.readouterr().err
