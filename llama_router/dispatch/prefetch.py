"""Prefetch: the files of the model that starts next are read while others finish their requests.

The kernel keeps what was read in its page cache, so the next load reads from memory. Nothing else
comes of it: the bytes are thrown away. `[scheduler] prefetch = false` turns it off.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial
from itertools import count
from typing import Final, NoReturn

import trio

from ..core.config.specs import ModelSpec
from ..devices.host import host_memory_bytes
from ..devices.port import DriverError
from ..logs.events import log
from ..models.discovery import naming
from ..threads import ThreadRefusedError, in_thread
from .dispatcher import Dispatcher

#: Bytes that are read at once.
_CHUNK_BYTES: Final = 4 * 1024 * 1024

#: Chunks between two looks at how much memory is available.
_LOOK_CHUNKS: Final = 64

#: Changes of the plan within so many seconds are looked at together: a busy queue changes with
#: each request.
_GATHER_S: Final = 0.05

#: The part of the available memory that one model may fill.
_PART: Final = 0.5

#: The part of all memory below which what is available is left alone.
_LEAST_LEFT: Final = 0.1


class Prefetch:
    """Reads ahead for *dispatcher*."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def run(self) -> NoReturn:
        """Read the files of each model that has to wait for others, until cancelled."""
        async with trio.open_nursery() as nursery:
            current: ModelSpec | None = None
            reading = trio.CancelScope()
            while True:
                changed = self._dispatcher.changed
                reads = self._dispatcher.config.scheduler.prefetch
                following = self._dispatcher.next_start() if reads else None
                if following is not current:
                    reading.cancel()  # the plan has changed, or the backend reads by itself now
                    current, reading = following, trio.CancelScope()
                    if following is not None and following.path is not None:
                        nursery.start_soon(self._prefetch, following, reading)
                await changed.wait()
                await trio.sleep(_GATHER_S)

    async def _prefetch(self, spec: ModelSpec, scope: trio.CancelScope) -> None:
        stop = threading.Event()
        begun_s = trio.current_time()
        with scope:
            try:
                read = partial(_read_files, _files(spec), stop)
                size_bytes = await in_thread(read, abandon_on_cancel=True)
            except ThreadRefusedError:
                return
            finally:
                stop.set()
            log.info(
                "model.prefetched",
                model=spec.id,
                mib=round(size_bytes / 2**20),
                took_s=round(trio.current_time() - begun_s, 3),
            )


def _files(spec: ModelSpec) -> list[str]:
    """Return the files that a backend of *spec* reads, in their order."""
    parts = naming.parts_of(spec.path) if spec.path is not None else []
    return [*parts, *([spec.mmproj] if spec.mmproj is not None else [])]


def _read_files(paths: Iterable[str], stop: threading.Event) -> int:
    """Read *paths* until *stop* is set or memory gets short; return the number of bytes. Blocks."""
    buffer = bytearray(_CHUNK_BYTES)
    left_bytes = _available_bytes() * _PART
    total_bytes = 0
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue  # the start will say what is wrong with it
        try:
            for chunk in count():
                if stop.is_set() or total_bytes >= left_bytes:
                    return total_bytes
                if chunk % _LOOK_CHUNKS == _LOOK_CHUNKS - 1 and not _available_bytes():
                    return total_bytes
                size_bytes = os.preadv(descriptor, [buffer], chunk * _CHUNK_BYTES)
                total_bytes += size_bytes
                if not size_bytes:
                    break
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return total_bytes


def _available_bytes() -> int:
    """Return the memory that the kernel could give to programs; 0 if less than a tenth is left."""
    try:
        total_bytes, available_bytes = host_memory_bytes()
    except DriverError:
        return 0
    return available_bytes if available_bytes > total_bytes * _LEAST_LEFT else 0
