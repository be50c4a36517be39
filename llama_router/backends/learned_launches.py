"""``learned.json`` in the state directory: what was learned from earlier loads of each launch.

It is read at the start, and written in the background after each load. A file that cannot be read
is kept aside, and the router starts without figures: it learns them again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio

from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.memory.devices import DeviceId
from ..core.memory.learned import (
    LaunchKey,
    Learned,
    LearnedFigures,
    MachineId,
    decode,
    encode,
)
from ..files import read_up_to, reason_of, replace_atomically
from ..logs.events import log
from ..threads import ThreadRefusedError, in_thread
from .launch_identity import keys_of

FILE_NAME: Final = "learned.json"

#: Seconds for which the first search for launches may delay the start of a router.
START_TIMEOUT_S: Final = 0.5

#: Models of one batch, see `_batches`.
_BATCH: Final = 20

#: Largest file that is read; the most launches that are kept take a fifth of it.
_MAX_BYTES: Final = 8 * 1024 * 1024


class LearnedLaunches:
    """What is known of launches on this machine, and its file.

    Args:
        path: The file; None for none.
        machine: This machine.
        figures: What the file has.
        enqueue: Calls a blocking function in the background, in order.

    Attributes:
        revision: A number that is another one after each change of what is known.
    """

    def __init__(
        self,
        path: Path | None,
        machine: MachineId,
        figures: LearnedFigures,
        enqueue: Callable[[Callable[[], None]], None],
    ) -> None:
        self._path = path
        self._machine = machine
        self._figures = figures
        self._enqueue = enqueue
        self._is_queued = False
        self._keys: dict[ModelId, LaunchKey] = {}
        self._changed = trio.Event()
        self.revision = 0

    async def run(
        self,
        config: Callable[[], Config],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> NoReturn:
        """Find the launches of the models of *config* now and after `configuration_changed`.

        It has started when they are found; a file system that hangs delays that only briefly.
        """
        with trio.move_on_after(START_TIMEOUT_S):
            await self.find_launches(config())
        task_status.started()
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.find_launches(config())

    async def find_launches(self, config: Config) -> None:
        """Find the launches of the models of *config*, on threads."""
        for specs in _batches(config.local.models.values()):
            with suppress(ThreadRefusedError):  # logged; the next change is another chance
                self._keys |= await in_thread(
                    keys_of, specs, config.file_versions, abandon_on_cancel=True
                )
        for model in self._keys.keys() - config.models.keys():
            del self._keys[model]
        self.revision += 1

    def configuration_changed(self) -> None:
        """Let `run` look at the configuration again."""
        self._changed.set()

    def note_launch(self, model: ModelId, launch: LaunchKey) -> None:
        """Take note of a launch of *model*: its files may be others than at the last reload."""
        self._keys[model] = launch
        self.revision += 1

    def of_model(self, model: ModelId) -> Learned:
        """Return what is known of the launch of *model*."""
        return self.of(self._keys.get(model))

    def of(self, launch: LaunchKey | None) -> Learned:
        """Return what is known of *launch*; nothing if that is None."""
        return Learned() if launch is None else self._figures.of(self._machine, launch)

    def update(self, launch: LaunchKey, figures: Learned) -> None:
        """Replace what is known of *launch*, and write the file in the background."""
        self._figures = self._figures.with_figures(self._machine, launch, figures)
        self.revision += 1
        if self._path is not None and not self._is_queued:
            self._is_queued = True
            self._enqueue(self._write)

    def note_peak(self, model: ModelId, peak_mib: Mapping[DeviceId, int]) -> None:
        """Take note of what a backend of *model* was seen to take at most."""
        if (launch := self._keys.get(model)) is not None:
            self.update(launch, attrs.evolve(self.of(launch), peak_mib=dict(peak_mib)))

    def forget_fit(self, launch: LaunchKey) -> None:
        """Let llama.cpp fit the model again at its next start: a start has failed."""
        known = self.of(launch)
        if known.fit is not None:
            self.update(launch, attrs.evolve(known, fit=None))

    def _write(self) -> None:
        assert self._path is not None
        self._is_queued = False  # before the figures are taken: a later update is written again
        try:
            replace_atomically(self._path, encode(self._figures))
        except OSError as exc:
            log.warning("learned.unwritten", path=str(self._path), reason=reason_of(exc))


def _batches(specs: Iterable[ModelSpec]) -> Iterator[list[ModelSpec]]:
    """Yield *specs* in parts: a thread that works on one keeps the event loop waiting briefly."""
    left = iter(specs)
    while batch := list(islice(left, _BATCH)):
        yield batch


def read_figures(path: Path, machine: MachineId, *, keep_broken: bool = False) -> LearnedFigures:
    """Return the figures in the file *path*, of all machines; empty ones if it is unusable.

    Blocks. What is wrong is logged, and so is the number of launches of other machines than
    *machine*: they are kept, because several may share the folder, but say nothing here.

    Args:
        path: The file.
        machine: This machine.
        keep_broken: Leave a broken file where it is: the router keeps it aside.
    """
    try:
        figures = decode(read_up_to(path, _MAX_BYTES))
    except FileNotFoundError:
        return LearnedFigures()
    except OSError as exc:
        log.warning("learned.unreadable", path=str(path), reason=reason_of(exc), kept_as=None)
        return LearnedFigures()
    except ValueError as exc:
        aside = path
        if not keep_broken:
            with suppress(OSError):
                aside = path.replace(path.with_suffix(".broken"))
        log.warning("learned.unreadable", path=str(path), reason=str(exc), kept_as=str(aside))
        return LearnedFigures()
    foreign = sum(each != machine for each in figures.machines())
    if foreign:
        log.info("learned.ignored", path=str(path), launches=foreign)
    return figures
