"""The documentation can be followed: links, examples, commands."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest

from llama_router.cli.app import app
from llama_router.cli.command_list import COMMANDS as ALL_COMMANDS
from llama_router.config.example import example_config, meanings
from llama_router.core.config.json_schema import json_schema
from llama_router.core.config.parse import parse_config

ROOT = Path(__file__).parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
DEMO = (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[embedded]' && .venv/bin/llama-router demo"
)
TEST = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"

FLAGS = re.MULTILINE | re.DOTALL
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", FLAGS)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """Return the contents of the fenced blocks of *language* in *path*."""
    return [body for _, found, body in FENCE.findall(path.read_text()) if found == language]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings in *path*."""
    prose = FENCE.sub("", path.read_text())
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(prose)
    }


SCHEMA = jsonschema.Draft202012Validator(json_schema(meanings(example_config())))

EXAMPLES = [
    pytest.param(body, id=f"{name(path)}-{number}")
    for path in PAGES
    for number, body in enumerate(blocks(path, "toml"), 1)
]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    """Each relative link names a file that exists, and a heading in it."""
    for link in LINK.findall(FENCE.sub("", path.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert target.resolve().is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.md")), ids=name)
def test_the_index_knows_every_page(path: Path) -> None:
    """No page can be found by its file name only."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link).resolve() for link in LINK.findall(index.read_text())}
    assert path == index or path in linked


@pytest.mark.parametrize("example", EXAMPLES)
def test_configuration_examples_are_valid(example: str) -> None:
    """Each example is a whole file, or without a table header some spawn settings."""
    document = tomllib.loads(example)
    if not re.search(r"^\[", example, re.MULTILINE):
        document = {"default_spawn": document}
    for model, table in document.get("models", {}).items():
        if ":" in model:  # a model of the hub that a scan found
            table.setdefault("path", "/found.gguf")
    parse_config(document)
    SCHEMA.validate(document)


COMMANDS = [
    pytest.param(line, id=f"{name(path)}-{line.split('llama-router ')[1].split(' #')[0].strip()}")
    for path in PAGES
    for body in blocks(path, "")
    for line in body.splitlines()
    if re.match(r"(sudo )?(\.venv/bin/)?llama-router [a-z]", line)
]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_in_examples_exist(line: str) -> None:
    """Each line that calls the program names a command, with options that it has."""
    words = shlex.split(line, comments=True)
    arguments = words[next(i for i, w in enumerate(words) if w.endswith("llama-router")) + 1 :]
    command, _, ignored = app.parse_args(arguments, print_error=False, exit_on_error=False)
    assert command in {app[name].default_command for name in app if not name.startswith("-")}
    assert not ignored


def test_the_list_of_commands_has_their_own_words() -> None:
    """The line of a command in ``--help`` is the first line of its docstring."""
    for command in ALL_COMMANDS:
        function = app[command.name].default_command
        assert function is not None
        assert (function.__doc__ or "").partition("\n")[0] == command.summary


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda command: command.name)
def test_examples_in_help_are_valid(command) -> None:
    """Each is a command line of that command, with options that it has."""
    for example in command.examples:
        line = re.sub(r"<\((.*)\)", r"\1", example).partition(" > ")[0]
        words = shlex.split(line, comments=True)
        arguments = words[words.index("llama-router") + 1 :]
        assert arguments[0] == command.name
        _, _, ignored = app.parse_args(arguments, print_error=False, exit_on_error=False)
        assert not ignored


def test_the_list_of_commands_imports_none() -> None:
    """``llama-router --help`` names every command without importing its module."""
    code = (
        "import sys; from llama_router.cli.app import app\n"
        "app(['--help'], result_action='return_value')\n"
        "print('imported:', *(name for name in sys.modules if '.cli.commands' in name))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert "imported:\n" in ended.stdout
    for command in ALL_COMMANDS:
        assert f" {command.name} " in ended.stdout


def test_the_readme_has_its_two_commands() -> None:
    """Each stands alone on a line of a block, ready to be copied."""
    lines = [line for body in blocks(ROOT / "README.md", "") for line in body.splitlines()]
    assert lines.count(DEMO) == 1
    assert lines.count(TEST) == 1


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """What newcomers type is what is checked."""
    assert TEST in [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]


def test_the_command_reference_is_complete() -> None:
    """It has every command, and every option of each."""
    page = (ROOT / "docs" / "reference" / "cli.md").read_text()
    sections = dict(
        re.findall(
            r"^##+ `llama-router ([\w-]+).*?`\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL
        )
    )
    shared = page.partition("## Commands to a running router\n")[2].partition("\n##")[0]
    of_all = set(re.findall(r"^\| `(--[\w-]+)", shared, re.MULTILINE))
    commands = {command for command in app if not command.startswith("-")}
    assert sections.keys() == commands
    for command in commands:
        options = {
            argument.name
            for argument in app[command].assemble_argument_collection()
            if argument.name.startswith("--") and not argument.field_info.is_positional
        }
        if "--token-file" in options:
            assert of_all <= options
            options -= of_all
        assert set(re.findall(r"^\| `(--[\w-]+)", sections[command], re.MULTILINE)) == options


@pytest.mark.parametrize("path", [*PAGES, ROOT / ".ci" / "run", ROOT / "router.toml"], ids=name)
def test_nothing_depends_on_one_machine(path: Path) -> None:
    """No path below somebody's home or work folder."""
    text = path.read_text()
    assert not re.search(r"(?<![\w.~])/(?:home|root|tmp|work|Users)/", text)
    assert str(ROOT) not in text


def test_each_dependency_says_what_it_is_for() -> None:
    """In a comment above it, in ``pyproject.toml``."""
    lines = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0].splitlines()
    named = [
        number for number, line in enumerate(lines) if re.match(r'    "[A-Za-z][^:]*",$', line)
    ]
    bare = [lines[number].strip() for number in named if not lines[number - 1].startswith("    # ")]
    assert len(named) > 30
    assert bare == []
