"""The files that a model needs before its backend can be started. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from typing import Final

import attrs

from .command import placeholder_values
from .kinds import is_llama_server
from .placeholders import expand, names_in
from .specs import ModelSpec

#: Options of llama-server with a file to read. True for a list, separated by commas.
#: Source: llama.cpp, common/arg.cpp, at 0c1e570.
_FILE_OPTIONS: Final = {
    "-m": False,
    "--model": False,
    "-md": False,
    "--model-draft": False,
    "--spec-draft-model": False,
    "-mm": False,
    "--mmproj": False,
    "--lora": True,
    "--control-vector": True,
    "--chat-template-file": False,
    "--grammar-file": False,
    "-jf": False,
    "--json-schema-file": False,
    "--api-key-file": False,
    "--ssl-key-file": False,
    "--ssl-cert-file": False,
}


class FileKind(StrEnum):
    """The required kind of a path."""

    MODEL = "model"  # a file, or a folder for vLLM and its like
    FILE = "file"
    FOLDER = "folder"
    PROGRAM = "program"


@attrs.frozen
class FileNeed:
    """A path that a model needs.

    Attributes:
        path: Absolute, or relative to the folder of the router's process.
        kind: The required kind.
    """

    path: str
    kind: FileKind


@attrs.frozen
class FileFault:
    """A missing or unusable file that prevents the start of a model.

    Attributes:
        need: The file.
        reason: The predicate of a sentence about the path: ``is not there``.
    """

    need: FileNeed
    reason: str


def needs_of(spec: ModelSpec) -> Iterator[FileNeed]:
    """Yield each file that the backend of *spec* needs, as far as its settings name them.

    Arguments of other programs than llama-server are ignored. A program without a slash, or
    with a placeholder, is searched when it is started.
    """
    program, *words = *spec.spawn.command, *spec.spawn.args
    of_llama_server = is_llama_server(program)
    if spec.path is not None:
        yield FileNeed(spec.path, FileKind.FILE if of_llama_server else FileKind.MODEL)
    if spec.mmproj is not None:
        yield FileNeed(spec.mmproj, FileKind.FILE)
    if spec.spawn.cwd is not None:
        yield FileNeed(spec.spawn.cwd, FileKind.FOLDER)
    if "/" in program and not names_in(program):
        yield FileNeed(expand(program, {}), FileKind.PROGRAM)
    if not of_llama_server:
        return
    for option, written in pairwise(words):
        if option in _FILE_OPTIONS and written not in ("", "$path", "$mmproj"):
            value = expand(written, placeholder_values(spec, port=0, host=""))
            names = value.split(",") if _FILE_OPTIONS[option] else [value]
            for name in names:
                path = _below(spec.spawn.cwd, name)
                if path not in (spec.path, spec.mmproj):
                    yield FileNeed(path, FileKind.FILE)


def _below(folder: str | None, path: str) -> str:
    return path if folder is None or path.startswith("/") else f"{folder}/{path}"
