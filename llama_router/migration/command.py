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

#: Programs that run containers. A process of theirs listens on the published port.
CONTAINERS: Final = frozenset({"docker", "nerdctl", "podman"})

#: Options that set a listening port.
_PORT_OPTIONS: Final = frozenset({"--port", "-p", "--publish", "--http-port", "--listen-port"})

#: A backslash that was at the end of a line, before YAML joined the lines.
_FOLDED: Final = re.compile(r"(?<=\s)\\(?=\s)")

_MODEL_OPTIONS: Final = frozenset({"-m", "--model"})


@attrs.frozen
class Command:
    """A ``command`` of ``router.toml``.

    Attributes:
        words: Its words with placeholders; other dollar signs are escaped.
        path: The value of ``$path``; None if the command does not use it.
        in_container: Whether a process of the container program listens on the port.
    """

    words: tuple[str, ...]
    path: str | None
    in_container: bool

    @property
    def uses_port(self) -> bool:
        """Whether the command contains ``$port``."""
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
    # Without "|", YAML joins lines: the backslash is then inside a line.
    return shlex.split(_FOLDED.sub(" ", "\n".join(lines)))


def translate(words: Sequence[str], fixed_port: str | None) -> Command:
    """Return *words* as a command with placeholders.

    Args:
        words: From `split`; not empty.
        fixed_port: The number of the port that the program listens on, if the file has it. It
            becomes ``$port`` where it is the value of a port option.

    Raises:
        ValueError: as in `template`.
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
    """Return *text* with its dollar signs escaped, and ``$port`` for `PORT`.

    Raises:
        ValueError: if a letter or digit follows `PORT`.
    """
    if re.search(f"{PORT}[A-Za-z0-9_]", text):
        shown = text.replace(PORT, "${PORT}")
        raise ValueError(f"no letter or digit may follow ${{PORT}} directly: {shown!r}")
    return placeholders.escape(text).replace(PORT, "$port")


def _model_file(words: Sequence[str]) -> int | None:
    """Return the index of the word with the absolute path of a llama-server's model."""
    for index, word in enumerate(words[1:], start=1):
        if words[index - 1] in _MODEL_OPTIONS and word.startswith("/") and PORT not in word:
            return index
    return None


def _without_port(word: str, port: str, before: str) -> str:
    """Return *word* with *port* replaced by `PORT` if it is the value of a port option."""
    if before in _PORT_OPTIONS:
        head, colon, tail = word.rpartition(":")  # docker -p [127.0.0.1:]8999:8080
        published = head if colon else word
        if published == port or published.endswith(f":{port}"):
            return published.removesuffix(port) + PORT + colon + (tail if colon else "")
    option, equals, value = word.partition("=")
    if equals and option in _PORT_OPTIONS and value == port:
        return f"{option}={PORT}"
    return word
