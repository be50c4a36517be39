"""Shell completion: the names of models, and what bash, zsh and fish offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from llama_router.cli import completion_names
from llama_router.cli.commands.completion import completion, options_of_commands
from llama_router.cli.completion_scripts import SHELLS, script_for

MODELS = """
[models.coder]
path = "coder.gguf"
aliases = ["gpt"]

[models."user/repo:Q4_K_M"]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with a configuration, a found model, and the program on PATH."""
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "router.toml").write_text(f'[router]\nstate_dir = "state"\n{MODELS}')
    (tmp_path / "state").mkdir()
    (tmp_path / "state/models.toml").write_text('[models.found]\npath = "/f"\n')
    return tmp_path


def test_names_are_those_of_the_configuration_and_of_scans(home) -> None:
    """With aliases."""
    assert completion_names.known_names() == {"coder", "gpt", "user/repo:Q4_K_M", "found"}


@pytest.mark.parametrize("text", ["[", "models = 1", "[models]\na = 1\n", "\x00"])
def test_broken_files_are_no_failure(home, text) -> None:
    """A shell that completes shows no traceback."""
    (home / "router.toml").write_text(text)
    (home / "state/models.toml").write_text(text)
    completion_names.print_names()


def test_names_need_few_imports() -> None:
    """No commands, no HTTP client, no structuring of the configuration."""
    code = "import sys, llama_router.cli, llama_router.cli.completion_names; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in said.stdout.split()}
    assert found & {"cyclopts", "httpx", "trio", "cattrs", "tomlkit", "rich"} == set()


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    """The script of each shell."""
    options = options_of_commands()
    return {shell: script_for(shell, options) for shell in SHELLS}


@pytest.mark.parametrize("shell", SHELLS)
def test_scripts_are_valid(shell, scripts, tmp_path) -> None:
    """In the shell itself, if it is installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    path = tmp_path / "script"
    path.write_text(scripts[shell])
    subprocess.run([shell, "-n", str(path)], check=True, capture_output=True)


def offered_by_bash(script: str, line: str, path: str) -> list[str]:
    """Return what bash offers at the end of *line*; a colon separates words there."""
    code = f"""{script}
COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
words={line!r}; words=${{words//:/ : }}
read -ra COMP_WORDS <<< "$words"; [[ {line!r} == *[' ':] ]] && COMP_WORDS+=("")
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_llama_router llama-router "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    environ = {"HOME": os.environ["HOME"], "PATH": path}
    said = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=environ,
                          check=True)  # fmt: skip
    return said.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("llama-router lo", ["load", "logs"]),
        ("llama-router load c", ["coder"]),
        ("llama-router load coder g", ["gpt"]),
        ("llama-router run user/", ["user/repo:Q4_K_M"]),
        ("llama-router run user/repo:", ["Q4_K_M"]),
        ("llama-router run user/repo:Q", ["Q4_K_M"]),
        ("llama-router ps --w", ["--watch"]),
    ],
)
def test_bash_offers(line, offered, home, scripts) -> None:
    """Commands, options of the command, and names of models, also behind a colon."""
    program = home / "bin" / "llama-router"
    program.parent.mkdir()
    source = "import sys; from llama_router.cli import main; sys.exit(main())"
    program.write_text(f"#!{sys.executable}\n{source}\n")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    assert offered_by_bash(scripts["bash"], line, path) == offered


def test_without_a_shell_it_says_which_there_are(capsys) -> None:
    """With the status of a wrong command line."""
    assert completion() == 2
    assert "bash|zsh|fish" in capsys.readouterr().err
