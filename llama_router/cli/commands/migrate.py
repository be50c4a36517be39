"""``import-llama-swap`` and ``import-presets``: translates other routers' configurations."""

from __future__ import annotations

import os
import stat
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import Parameter

from ...config.load import load_config
from ...errors.config import ConfigError, Problem
from ...files import write_new
from ...migration import llama_swap, presets
from ...migration.draft import Draft, render
from ..printing import fail, print_message, print_problem

if TYPE_CHECKING:
    from collections.abc import Callable

#: Largest file that is read, in bytes: enough for thousands of models.
MAX_FILE_BYTES: Final = 4 * 1024 * 1024

#: Environment variables that hold no secret.
_PUBLIC_VARIABLES: Final = frozenset({"HOME", "HOSTNAME", "LOGNAME", "PWD", "USER"})

_STDOUT: Final = Path("-")

Output = Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]
"""The file to write."""

_DEFAULT_OUTPUT: Final = Path("router.toml")


def import_llama_swap(file: Path, /, *, output: Output = _DEFAULT_OUTPUT) -> int:
    """Translate llama-swap's configuration; does not overwrite an existing file.

    Args:
        file: llama-swap's config.yaml. ``${env.NAME}`` in it is read from the environment.
        output: The file to write; "-" is standard output.
    """
    translate = partial(llama_swap.translate, source=str(file), environ=os.environ)
    return _import(file, output, translate)


def import_presets(file: Path, /, *, output: Output = _DEFAULT_OUTPUT) -> int:
    """Translate the INI presets of llama-server; does not overwrite an existing file.

    Args:
        file: The file for ``llama-server --models-preset``.
        output: The file to write; "-" is standard output.
    """
    return _import(file, output, partial(presets.translate, source=str(file)))


def _import(file: Path, output: Path, translate: Callable[[str], Draft]) -> int:
    """Translate *file*, write it to *output*, print notes; return the exit status."""
    try:
        draft = translate(_read(file))
    except ConfigError as exc:
        for problem in sorted(exc.problems, key=lambda each: each.line or 0):
            print_problem(file, problem, "error")
        return 1
    for model, note in draft.all_notes():
        path = () if model is None else ("models", model)
        print_problem(file, Problem(path, f"{note.mark}: {note}", note.line), "warning")
    if output == _STDOUT:
        sys.stdout.write(render(draft))
        return 0
    try:
        _write(output, draft)
    except FileExistsError:
        return fail(f"{output} exists already and was not touched; choose another file with -o")
    except OSError as exc:
        return fail(f"cannot write {output}: {exc.strerror}")
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
    """Create *output*; readable by its owner only if it may hold a secret.

    Raises:
        OSError: if it exists or cannot be written.
    """
    mode = 0o600 if draft.variables - _PUBLIC_VARIABLES else 0o666
    write_new(output, render(draft).encode(errors="backslashreplace"), mode=mode)


def _report(output: Path, draft: Draft) -> int:
    """Print a summary and the next step; return the exit status of ``check``."""
    models, notes = len(draft.models), [note for _, note in draft.all_notes()]
    taken = sum(note.taken for note in notes)
    print_message(
        f"wrote {output}: {models} model{'' if models == 1 else 's'}; "
        f"not taken over: {len(notes) - taken}, to check: {taken}"
        f"{', each as a comment there' if notes else ''}"
    )
    if secrets := draft.variables - _PUBLIC_VARIABLES:
        names = ", ".join(sorted(secrets))
        print_message(f"{output} contains the values of {names}; only you may read it")
    try:
        loaded = load_config(output)
    except ConfigError as exc:
        for problem in exc.problems:
            print_problem(output, problem, "error")
        return fail(f"fix these first, then run: llama-router check {output}")
    for warning in loaded.warnings:
        print_problem(output, warning, "error" if warning in loaded.unavailable else "warning")
    if loaded.unavailable:
        return fail(f"fix these first, then run: llama-router check {output}")
    print_message(f"next: llama-router serve --config {output}")
    return 0
