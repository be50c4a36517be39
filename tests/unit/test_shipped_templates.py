"""The templates that ``init --template`` writes: each is a configuration without a mistake."""

from __future__ import annotations

import re
import stat
import tomllib
from pathlib import Path

import pytest

from llama_router.cli.commands.configuration import check, init
from llama_router.config.command_warnings import command_warnings
from llama_router.config.shipped_templates import template_names, template_text
from llama_router.core.config.parse import parse_config

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "shipped-templates.md"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A working folder in a home with nothing else."""
    for variable in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_files(text: str, folder: Path) -> str:
    """Make what *text* names below ``/opt`` and ``models``; return it with their places."""
    text = text.replace("/opt/", f"{folder}/opt/")
    document = tomllib.loads(text)
    tables = [*document["templates"].values(), *document["models"].values()]
    for table in tables:
        for cwd in filter(None, [table.get("cwd")]):
            Path(cwd).mkdir(parents=True)
        for name in filter(None, [table.get("path"), *table.get("command", [])[:1]]):
            if "/" in name:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return text


@pytest.mark.parametrize("name", template_names())
def test_a_template_is_a_configuration_that_check_accepts(name, home, capsys) -> None:
    """Its programs may be missing, its keys and its files are right."""
    text = with_files(template_text(name), home)
    if name == "llama-cuda":  # its file is to be a model
        text = re.sub(r"path = \"models/example.gguf\"", 'path = "models/example.bin"', text)
        (home / "models" / "example.bin").touch()
    Path("router.toml").write_text(text)
    assert check(Path("router.toml")) == 0, capsys.readouterr().err
    assert "router.toml: ok, 1 model" in capsys.readouterr().out


@pytest.mark.parametrize("name", template_names())
def test_a_template_and_its_model_go_together(name) -> None:
    """The model uses the template of the file's name, and its command has no usual mistake."""
    document = tomllib.loads(template_text(name))
    (model,) = parse_config(document).models.values()
    assert model.template == name
    assert list(command_warnings(model)) == []
    assert "$host" in " ".join(model.spawn.command)


@pytest.mark.parametrize("name", template_names())
def test_the_guide_has_a_section_for_each_template(name) -> None:
    """With its name as the heading."""
    assert f"\n## `{name}`\n" in GUIDE.read_text()


def test_all_templates_may_stand_in_one_file() -> None:
    """None takes a name from another."""
    parse_config(tomllib.loads("\n".join(map(template_text, template_names()))))


def test_init_writes_templates(home, capsys) -> None:
    """As many as are named, with the schema for editors beside them."""
    assert init(template=("vllm", "whisper")) == 0
    document = tomllib.loads(Path("router.toml").read_text())
    assert document["templates"].keys() == {"vllm", "whisper"}
    assert Path("router.schema.json").exists()
    assert init(template=("vllm",)) == 1
    assert "exists already" in capsys.readouterr().err


def test_init_prints_a_template(home, capsys) -> None:
    """To be added to a file."""
    assert init(Path("-"), template=("sd",)) == 0
    assert "sd" in tomllib.loads(capsys.readouterr().out)["templates"]
    assert list(home.iterdir()) == []


def test_init_names_the_templates(home, capsys) -> None:
    """On request, and where the name is wrong; nothing is written then."""
    assert init(template=("list",)) == 0
    assert capsys.readouterr().out.split() == template_names()
    assert init(template=("vlm",)) == 1
    assert "there is no template 'vlm'; there are: " in capsys.readouterr().err
    assert list(home.iterdir()) == []
