"""``import-llama-swap`` and ``import-presets``: other routers' files as ``router.toml``."""

from __future__ import annotations

import os
import stat
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..config.load import load_config
from ..errors.config import ConfigError, Problem
from ..migration import llama_swap, presets
from ..migration.draft import Draft, render
from .files import say

if TYPE_CHECKING:
    from collections.abc import Callable

#: Largest file that is read, in bytes: thousands of models.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024

#: Variables whose values are no secrets.
_HARMLESS: Final = frozenset({"HOME", "HOSTNAME", "LOGNAME", "PWD", "USER"})

_STDOUT: Final = Path("-")


def import_llama_swap(file: Path, output: Path) -> int:
    """Write what llama-swap's *file* is here to *output*; return the exit status."""
    translate = partial(llama_swap.translate, source=str(file), environ=os.environ)
    return _import(file, output, translate)


def import_presets(file: Path, output: Path) -> int:
    """Write what the presets in *file* are here to *output*; return the exit status."""
    return _import(file, output, partial(presets.translate, source=str(file)))


def _import(file: Path, output: Path, translate: Callable[[str], Draft]) -> int:
    try:
        draft = translate(_read(file))
    except ConfigError as exc:
        for problem in sorted(exc.problems, key=lambda each: each.line or 0):
            say(file, problem, "error")
        return 1
    for model, note in draft.all_notes():
        where = () if model is None else ("models", model)
        say(file, Problem(where, f"{note.mark}: {note}", note.line), "warning")
    if output == _STDOUT:
        sys.stdout.write(render(draft))
        return 0
    try:
        _write(output, draft)
    except FileExistsError:
        _tell(f"{output} exists already and was not touched; say another one with -o")
        return 1
    except OSError as exc:
        _tell(f"cannot write {output}: {exc.strerror}")
        return 1
    return _report(output, draft)


def _read(file: Path) -> str:
    """Return the text of *file*.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):  # reading a FIFO would wait for a writer
            raise ConfigError((Problem((), "it is not a file"),))
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError((Problem((), f"cannot be read: {exc.strerror}"),)) from exc
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError((Problem((), f"is larger than {MAX_FILE_BYTES} bytes"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError((Problem((), "not UTF-8 text", line),)) from exc


def _write(output: Path, draft: Draft) -> None:
    """Make *output*, for nobody else's eyes if it may hold a secret.

    Raises:
        OSError: if it exists or cannot be written.
    """
    mode = 0o600 if draft.variables - _HARMLESS else 0o666
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(descriptor, "w", encoding="utf-8") as opened:  # noqa: PTH123 -- a descriptor
        opened.write(render(draft))


def _report(output: Path, draft: Draft) -> int:
    """Say what was written and what is still to do; return the exit status of ``check``."""
    models, notes = len(draft.models), [note for _, note in draft.all_notes()]
    taken = sum(note.taken for note in notes)
    _tell(
        f"wrote {output}: {models} model{'' if models == 1 else 's'}; "
        f"not taken over: {len(notes) - taken}, to check: {taken}"
        f"{', each as a comment there' if notes else ''}"
    )
    if secrets := draft.variables - _HARMLESS:
        names = ", ".join(sorted(secrets))
        _tell(f"{output} contains the values of {names}; only you may read it")
    try:
        loaded = load_config(output)
    except ConfigError as exc:
        for problem in exc.problems:
            say(output, problem, "error")
        _tell(f"mend these, then: llama-router check {output}")
        return 1
    for warning in loaded.warnings:
        say(output, warning, "error" if warning in loaded.unavailable else "warning")
    if loaded.unavailable:
        _tell(f"mend these, then: llama-router check {output}")
        return 1
    _tell(f"next: llama-router serve --config {output}")
    return 0


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # noqa: T201 -- the command's output
