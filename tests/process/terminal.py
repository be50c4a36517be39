"""A terminal for a command under test: a pseudo-terminal, and the screen that a person sees."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pyte
import trio

from tests.process.real import environment, home


class _Screen(pyte.Screen):
    """Answers where the cursor is, as terminals do."""

    def __init__(self, columns: int, lines: int, descriptor: int) -> None:
        super().__init__(columns, lines)
        self._descriptor = descriptor

    def write_process_input(self, data: str) -> None:
        os.write(self._descriptor, data.encode())


class Terminal:
    """A running command and its terminal.

    Attributes:
        process: The command.
        raw: All that it wrote.
    """

    def __init__(self, process: trio.Process, descriptor: int, size: tuple[int, int]) -> None:
        self.process = process
        self.raw = ""
        self._descriptor = descriptor
        self._screen = _Screen(*size, descriptor)
        self._stream = pyte.Stream(self._screen)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._news = trio.Event()
        self._closed = False

    @property
    def lines(self) -> list[str]:
        """Return the lines of the screen down to the last one that is not blank."""
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        """Return the screen as text."""
        return "\n".join(self.lines)

    @property
    def cursor_is_hidden(self) -> bool:
        """Return whether the cursor is hidden."""
        return bool(self._screen.cursor.hidden)

    def type(self, text: str) -> None:
        r"""Type *text*; ``\r`` is Enter, ``\x03`` Ctrl-C."""
        os.write(self._descriptor, text.encode())

    async def enter(self, text: str, *, prompt: str = ">>>") -> None:
        """Type *text* once the command asks for a line.

        Before, the terminal itself would take the keys, and turn some into others.
        """
        while not (
            self.lines
            and self.lines[-1].rstrip() == prompt
            and self._screen.cursor.y == len(self.lines) - 1
        ):
            await self._wait(prompt)
        self.type(text)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size of the window."""
        _set_size(self._descriptor, columns, lines)
        self._screen.resize(lines, columns)
        os.killpg(self.process.pid, signal.SIGWINCH)

    async def shows(self, text: str) -> None:
        """Wait until *text* is on the screen."""
        while text not in self.text:
            await self._wait(text)

    async def wrote(self, text: str, *, times: int = 1) -> None:
        """Wait until the command wrote *text*, whatever is on the screen now."""
        while self.raw.count(text) < times:
            await self._wait(text)

    async def ended(self) -> int:
        """Wait for the end of the command; return its exit status."""
        status = await self.process.wait()
        while not self._closed:
            await self._news.wait()
        return status

    async def _wait(self, text: str) -> None:
        assert not self._closed, f"{text!r} is not there:\n{self.text}"
        await self._news.wait()

    async def run(self) -> None:
        """Draw what the command writes, until it and its children have closed the terminal."""
        while not self._closed:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                data = os.read(self._descriptor, 65536)
            except OSError:  # Linux: no process has the terminal open any more
                data = b""
            self._closed = not data
            text = self._decoder.decode(data)
            self.raw += text
            self._stream.feed(text)
            self._news.set()
            self._news = trio.Event()


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@asynccontextmanager
async def terminal(
    *arguments: str, folder: Path, columns: int = 80, lines: int = 24, **changes: str
) -> AsyncIterator[Terminal]:
    """Run ``llama-router`` on a terminal; at the end it is killed if it still runs.

    Args:
        arguments: Of the command.
        folder: Its working directory and home.
        columns: The width of the window.
        lines: The height of the window.
        changes: Of the environment.
    """
    ours, theirs = pty.openpty()
    _set_size(ours, columns, lines)
    unset = dict.fromkeys(("NO_COLOR", "COLUMNS", "LINES", "LC_ALL", "LC_CTYPE"), "")
    given = home(folder) | unset | {"TERM": "xterm-256color", "LANG": "C.UTF-8"} | changes
    env = {name: value for name, value in environment(**given).items() if value}
    process = await trio.lowlevel.open_process(
        # A shell would make it a session of its own with this terminal.
        [sys.executable, "-m", "llama_router", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
        cwd=folder,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    shown = Terminal(process, ours, (columns, lines))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shown.run)
            yield shown
            nursery.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):  # it was killed
            await process.wait()
        os.close(ours)
