"""Retry of models with a missing file, as soon as the file is back (a disk was mounted)."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from ..core.config.file_needs import FileKind, FileNeed
from ..core.config.names import ModelId
from ..core.scheduling.events import FileRestored
from ..errors.backends import FileMissingError
from ..files.faults import fault_of
from ..threads import ThreadRefusedError, in_thread
from .dispatcher import Dispatcher

#: Seconds between two checks for the files, while some are missing. A notification of the
#: kernel would miss a disk that is mounted over a folder of their path.
POLL_S: Final = 1.0


async def watch_missing_files(dispatcher: Dispatcher) -> NoReturn:
    """Report every file that is back to *dispatcher*, until cancelled."""
    seen = dispatcher.feed.last
    while True:
        missing = _missing(dispatcher)
        if not missing:
            await dispatcher.feed.wait_after(seen)
            seen = dispatcher.feed.last
            continue
        await trio.sleep(POLL_S)
        # On a thread: a file system may hang. It is abandoned at the end then.
        try:
            back = await in_thread(_present, missing, abandon_on_cancel=True)
        except ThreadRefusedError:
            continue
        for model in back & _missing(dispatcher).keys():
            dispatcher.submit(FileRestored(model))


def _missing(dispatcher: Dispatcher) -> dict[ModelId, FileNeed]:
    """Return the models that were given up because a file was missing, each with the file."""
    return {
        model: FileNeed(found.last_error.path, FileKind(found.last_error.kind))
        for model, found in dispatcher.failed().items()
        if isinstance(found.last_error, FileMissingError)
    }


def _present(files: dict[ModelId, FileNeed]) -> set[ModelId]:
    return {model for model, need in files.items() if fault_of(need) is None}
