"""Retry of models that were given up for a file, as soon as it is back or was changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Final, NoReturn, TypeAlias

import trio

from ..core.config.file_needs import FileKind, FileNeed, needs_of
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.scheduling.events import FileRestored
from ..errors.backends import BackendError, FileMissingError
from ..files.faults import fault_of
from ..threads import ThreadRefusedError, in_thread
from .dispatcher import Dispatcher

#: Seconds between two checks for the files, while some are missing or damaged. A notification
#: of the kernel would miss a disk that is mounted over a folder of their path.
POLL_S: Final = 1.0

Fingerprint: TypeAlias = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of change of each file of a model; None for a file that is not seen."""


async def watch_missing_files(dispatcher: Dispatcher) -> NoReturn:
    """Report every file that is back, or was changed, to *dispatcher*, until cancelled.

    A changed file counts if its model failed for a permanent cause (`BackendError.permanent`):
    the model, the files that its settings name, and its program.
    """
    seen = dispatcher.feed.last
    known: dict[ModelId, tuple[BackendError, Fingerprint]] = {}
    while True:
        missing, broken = _missing(dispatcher), _broken(dispatcher)
        if not missing and not broken:
            known.clear()
            await dispatcher.feed.wait_after(seen)
            seen = dispatcher.feed.last
            continue
        specs = {m: spec for m in broken if (spec := dispatcher.config.models.get(m)) is not None}
        # On a thread: a file system may hang. It is abandoned at the end then.
        try:
            back, present = await in_thread(_look, missing, specs, abandon_on_cancel=True)
        except ThreadRefusedError:
            await trio.sleep(POLL_S)
            continue
        for model in back & _missing(dispatcher).keys():
            dispatcher.submit(FileRestored(model))
        still = _broken(dispatcher)
        for model, fingerprint in present.items():
            error = broken[model]
            if still.get(model) is not error:
                continue
            before = known.get(model)
            if before is None or before[0] is not error:
                known[model] = (error, fingerprint)
            elif before[1] != fingerprint:
                dispatcher.submit(FileRestored(model))
        await trio.sleep(POLL_S)


def _missing(dispatcher: Dispatcher) -> dict[ModelId, FileNeed]:
    """Return the models that were given up because a file was missing, each with the file."""
    return {
        model: FileNeed(found.last_error.path, FileKind(found.last_error.kind))
        for model, found in dispatcher.failed().items()
        if isinstance(found.last_error, FileMissingError)
    }


def _broken(dispatcher: Dispatcher) -> dict[ModelId, BackendError]:
    """Return the models that were given up for another permanent cause, each with its failure."""
    return {
        model: found.last_error
        for model, found in dispatcher.failed().items()
        if found.last_error is not None
        and found.last_error.permanent
        and not isinstance(found.last_error, FileMissingError)
    }


def _look(
    missing: Mapping[ModelId, FileNeed], broken: Mapping[ModelId, ModelSpec]
) -> tuple[set[ModelId], dict[ModelId, Fingerprint]]:
    """Return the models whose missing file is there, and the fingerprint of each broken one."""
    back = {model for model, need in missing.items() if fault_of(need) is None}
    return back, {model: _fingerprint(spec) for model, spec in broken.items()}


def _fingerprint(spec: ModelSpec) -> Fingerprint:
    program = shutil.which(spec.spawn.command[0], path=spec.spawn.env.get("PATH"))
    paths = [need.path for need in needs_of(spec)]
    return tuple(map(_identity, paths if program is None else [*paths, program]))


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 -- as in `files.faults`
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
