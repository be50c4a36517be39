"""A command line of llama-swap as a ``command`` of ``router.toml``. Pure."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from typing import Final

import attrs

from ..core.config import placeholders
from .macros import PORT

#: Container programs publish ports by a process of their own.
CONTAINERS: Final = frozenset({"docker", "nerdctl", "podman"})

_PORT_OPTIONS: Final = frozenset({"--port", "-p", "--publish", "--http-port", "--listen-port"})
#: A backslash that was at the end of a line.
_FOLDED: Final = re.compile(r"(?<=\s)\\(?=\s)")

_MODEL_OPTIONS: Final = frozenset({"-m", "--model"})


@attrs.frozen
class Command:
    """A command that our placeholders fit into.

    Attributes:
        words: With placeholders, dollar signs escaped.
        path: What ``$path`` stands for; None if the command does not use it.
        in_container: Whether another process will listen on the port.
    """

    words: tuple[str, ...]
    path: str | None
    in_container: bool

    @property
    def uses_port(self) -> bool:
        """Whether the program is told on which port to listen."""
        return any("port" in placeholders.names_in(word) for word in self.words)


def without_comments(text: str) -> str:
    """Return *text* without the lines that begin with "#"."""
    return "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))


def split(text: str) -> list[str]:
    """Split *text* into words as llama-swap does: comment lines and line ends do not count.

    Raises:
        ValueError: if a quotation is not closed.
    """
    lines: list[str] = []
    for line in without_comments(text).split("\n"):
        bare = line.strip()
        lines.append(bare.removesuffix("\\") + " " if bare.endswith("\\") else line)
    # YAML makes one line of several where there is no "|": the end of a line is then inside.
    return shlex.split(_FOLDED.sub(" ", "\n".join(lines)))


def translate(words: Sequence[str], fixed_port: str | None) -> Command:
    """Return the command that *words* become.

    Args:
        words: From `split`; not empty.
        fixed_port: The port that the program uses so far, if its number is written out. It
            becomes ``$port`` where it is certainly the port.

    Raises:
        ValueError: if ``$port`` would run into the text after it.
    """
    program = posixpath.basename(words[0])
    file_index = _model_file(words) if program.startswith("llama-server") else None
    written: list[str] = []
    for index, word in enumerate(words):
        if index == file_index:
            written.append("$path")
        elif fixed_port is None:
            written.append(template(word))
        else:
            before = words[index - 1] if index else ""
            written.append(template(_without_port(word, fixed_port, before)))
    path = None if file_index is None else words[file_index]
    return Command(tuple(written), path, program in CONTAINERS)


def template(text: str) -> str:
    """Write *text* so that its dollar signs stay, and `PORT` is the port.

    Raises:
        ValueError: if the name of the placeholder would run into the text after it.
    """
    if re.search(f"{PORT}[A-Za-z0-9_]", text):
        shown = text.replace(PORT, "${PORT}")
        raise ValueError(f"letters or digits right after ${{PORT}} cannot be written: {shown!r}")
    return placeholders.escape(text).replace(PORT, "$port")


def _model_file(words: Sequence[str]) -> int | None:
    """Return the index of the model file that a llama-server is given by its full name."""
    for index, word in enumerate(words[1:], start=1):
        if words[index - 1] in _MODEL_OPTIONS and word.startswith("/") and PORT not in word:
            return index
    return None


def _without_port(word: str, port: str, before: str) -> str:
    """Return *word* with *port* replaced by `PORT`, if it is what the program listens on."""
    if before in _PORT_OPTIONS:
        head, colon, tail = word.rpartition(":")  # docker -p [127.0.0.1:]8999:8080
        published = head if colon else word
        if published == port or published.endswith(f":{port}"):
            return published.removesuffix(port) + PORT + colon + (tail if colon else "")
    option, equals, value = word.partition("=")
    if equals and option in _PORT_OPTIONS and value == port:
        return f"{option}={PORT}"
    return word
