"""The tutorial can be followed to the letter: its commands run, and say what it shows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.real import NEEDS_CURL, ROOT, RealRouter, alive, environment

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [
    pytest.mark.process,
    pytest.mark.embedded,
    NEEDS_CURL,
]

PAGE = (ROOT / "docs" / "tutorial" / "first-router.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: A command of its own, so that PATH needs nothing installed.
LAUNCHER = """\
#!/bin/sh
exec {python} -m llama_router "$@"
"""

#: What is not run here, but is what the README says or what whoever runs this has done.
INSTALLATION = ("python3 -m venv .venv", "source .venv/bin/activate")


def small_and_large(text: str, line: str) -> str:
    """Return the configuration *text* with *line* in the tables of both models."""
    return re.sub(r"^\[models\.\w+\]\n", rf"\g<0>{line}\n", text, flags=re.MULTILINE)


#: What the prose asks the reader to do to router.toml, by words of it.
EDITS: dict[str, Callable[[str], str]] = {
    '`port = "8082"` and `pth` instead of `path` for `large`': lambda text: text.replace(
        "port = 0", 'port = "8082"'
    ).replace('path = "models/tiny-b', 'pth = "models/tiny-b'),
    'Give both models the line `group = "tiny"`, and save': lambda text: small_and_large(
        text, 'group = "tiny"'
    ),
    'change `"1024"` to `"2048"`': lambda text: text.replace('"1024"', '"2048"'),
    "`grup` instead of `group` for `small`": lambda text: text.replace("group", "grup", 1),
}


@attrs.define
class Reader:
    """Somebody who follows the page, in a home of their own.

    Attributes:
        home: Their home.
        nursery: Where their router's output is read.
        environment: In which they run commands.
        router: The router in their first terminal.
        skipped: Commands that were not run.
    """

    home: Path
    nursery: trio.Nursery
    environment: dict[str, str]
    router: RealRouter | None = None
    skipped: list[str] = attrs.field(factory=list)
    _seen: int = 0

    @property
    def folder(self) -> Path:
        """Where they are."""
        folder = self.home / "first-router"
        return folder if folder.exists() else self.home

    async def follow(self, before: str, language: str, block: str) -> None:
        """Do what one block of the page says, and the prose *before* it."""
        configuration = self.folder / "router.toml"
        kept = configuration.read_text() if configuration.exists() else ""
        edits = [edit for words, edit in EDITS.items() if words in before]
        for edit in edits:
            configuration.write_text(edit(configuration.read_text()))
        if "Press Ctrl-C" in before:
            await self._interrupt()
        if language == "toml":
            configuration.write_text(block.replace("8082", "0"))
        elif block.startswith("$ "):
            for line, shown in commands(block):
                await self._run(line, shown)
        elif block.startswith("router.toml:"):
            assert edits
            await self._run("llama-router check", block)
            configuration.write_text(kept)
        else:
            await self._look(block)

    async def _run(self, line: str, shown: str) -> None:
        if line.startswith(INSTALLATION):
            self.skipped.append(line)
        elif line == "llama-router serve":
            await self._serve()
        else:
            if self.router is not None:
                line = line.replace("http://127.0.0.1:8082", self.router.url)
            done = await trio.run_process(
                ["bash", "-c", line.replace("curl ", "curl -sS ")],
                cwd=self.folder,
                env=self.environment,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
            said = (done.stdout or done.stderr).decode().strip()
            assert pattern(shown).fullmatch(said), f"{line}\n{said}\n{shown}"
            assert (done.returncode != 0) == ("error: " in shown), f"{line}\n{said}"

    async def _serve(self) -> None:
        process = await trio.lowlevel.open_process(
            ["llama-router", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment,
            cwd=self.folder,
        )
        self.router = router = RealRouter(process)
        self.nursery.start_soon(router.listen)
        router.url = (await router.event("router.ready"))["urls"][0]

    async def _look(self, block: str) -> None:
        """Wait for the events that the page shows, in this order."""
        assert self.router is not None
        for line in block.splitlines():
            fields: dict[str, object] = dict(re.findall(r'"(\w+)":"([^"…]+)"', line))
            for name, value in re.findall(r'"(\w+)":(\[(?:"[^"…]*",?)*\])', line):
                fields[name] = json.loads(value)
            name = str(fields.pop("event"))
            event = await self.router.event(name, after=self._seen, **fields)
            self._seen = self.router.events.index(event) + 1

    async def _interrupt(self) -> None:
        assert self.router is not None
        family = self.router.family()
        self.router.signal(signal.SIGINT)
        assert await self.router.process.wait() == 0
        assert not alive(family)

    async def leave(self) -> None:
        """End what still runs."""
        if self.router is None:
            return
        process = self.router.process
        if process.poll() is None:
            for pid in self.router.family():
                os.kill(pid, signal.SIGKILL)
            process.kill()
        with trio.CancelScope(shield=True):  # it was killed
            await process.wait()
            assert process.stderr is not None
            await process.stderr.aclose()


def commands(block: str) -> list[tuple[str, str]]:
    """Return the commands of a block, each with what is shown behind it."""
    joined = block.replace("\\\n", "")
    pieces = re.split(r"^\$ (.*)\n", joined, flags=re.MULTILINE)
    assert not pieces[0]
    return list(zip(pieces[1::2], pieces[2::2], strict=True))


def pattern(shown: str) -> re.Pattern[str]:
    """Return what a shown text stands for: any number for a number, anything for an ellipsis."""
    escaped = re.sub(r"[0-9]+(?:\\\.[0-9]+)?", r"[0-9]+(?:\\.[0-9]+)?", re.escape(shown.strip()))
    return re.compile(re.sub(r"(?:\\\s)+", r"\\s+", escaped).replace("…", ".*?"), re.DOTALL)


async def test_the_page_as_it_is_written(tmp_path) -> None:
    """Block by block, with the edits that the prose asks for."""
    launcher = tmp_path / "bin" / "llama-router"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    changes = dict.fromkeys(
        ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "LLAMA_CACHE", "HF_HUB_CACHE"), ""
    )
    path = f"{launcher.parent}:{os.environ['PATH']}"
    environ = environment(HOME=str(tmp_path), PATH=path, NO_PROXY="*", COLUMNS="100", **changes)
    before = 0
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            reader = Reader(tmp_path, nursery, environ)
            try:
                for block in BLOCK.finditer(PAGE):
                    await reader.follow(PAGE[before : block.start()], block[1], block[2])
                    before = block.end()
            finally:
                await reader.leave()
                nursery.cancel_scope.cancel()
    assert [line.split(" && ")[0] for line in reader.skipped] == [
        "python3 -m venv .venv",
        "source .venv/bin/activate",
    ]
    assert reader.router is not None
    assert reader.router.process.returncode == 0
    assert all(PAGE.count(words) == 1 for words in EDITS)
