"""Figures learned from earlier loads, by launch: how long they took, and what they needed. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final, NewType

import attrs
import msgspec
from msgspec import Meta

from ..config.specs import ModelSpec
from . import versioned_file
from .devices import DeviceId
from .fit import Fit
from .footprint import Footprint

LaunchKey = NewType("LaunchKey", str)
"""Stands for everything that a load depends on: program, arguments, variables and files."""

MachineId = NewType("MachineId", str)
"""Stands for a machine and its GPUs: figures of another one say nothing about this one."""

#: Most launches that are kept, of all machines; those that were not used for longest leave.
MAX_LAUNCHES: Final = 1000

#: Version of the file's format.
_FORMAT: Final = 1

_Seconds = Annotated[float, Meta(ge=0)]
_Mib = Annotated[int, Meta(ge=0)]


@attrs.frozen(kw_only=True)
class Learned:
    """What is known of a launch from its earlier loads.

    Attributes:
        load_s: Seconds that the last load took, from spawn to ready.
        peak_mib: What it was seen to take of each device at most.
        reported: What llama.cpp said that it takes.
        n_ctx_slot: The context of one request, in tokens, in the last load.
        fit: What llama.cpp's fitting chose last.
        widest: The widest choice that its fitting ever made.
        at_s: The last load, in seconds since the epoch.
    """

    load_s: _Seconds | None = None
    peak_mib: Mapping[DeviceId, _Mib] = attrs.field(factory=dict[DeviceId, int])
    reported: Footprint | None = None
    n_ctx_slot: Annotated[int, Meta(ge=0)] | None = None
    fit: Fit | None = None
    widest: Fit | None = None
    at_s: _Seconds = 0.0


NOTHING: Final = Learned()
"""What is known of a launch before its first load."""


class _Entry(msgspec.Struct):
    machine: str
    launch: str
    figures: Learned


class _File(versioned_file.Versioned):
    launches: list[_Entry]


@attrs.frozen
class LearnedFigures:
    """The figures of all launches, of all machines that share the file; last used ones last."""

    _known: Mapping[tuple[MachineId, LaunchKey], Learned] = attrs.field(
        factory=dict[tuple[MachineId, LaunchKey], Learned]
    )

    def __len__(self) -> int:
        return len(self._known)

    def machines(self) -> Iterator[MachineId]:
        """Yield the machine of each launch."""
        return (machine for machine, _ in self._known)

    def of(self, machine: MachineId, launch: LaunchKey) -> Learned:
        """Return what is known of *launch* on *machine*; `NOTHING` before its first load."""
        return self._known.get((machine, launch), NOTHING)

    def with_figures(
        self, machine: MachineId, launch: LaunchKey, figures: Learned
    ) -> LearnedFigures:
        """Return these with *figures* as the last used ones; the oldest beyond the bound leave."""
        known = dict(self._known)
        known.pop((machine, launch), None)
        known[machine, launch] = figures
        for oldest in list(known)[: max(0, len(known) - MAX_LAUNCHES)]:
            del known[oldest]
        return LearnedFigures(known)


def after_load(
    known: Learned,
    *,
    load_s: float,
    at_s: float,
    fit: Fit | None,
    reported: Footprint | None,
    n_ctx_slot: int | None,
) -> Learned:
    """Return *known* with the figures of one more load.

    Args:
        known: What was known before.
        load_s: See `Learned`.
        at_s: See `Learned`.
        fit: What the fitting chose; None if there was none.
        reported: See `Learned`; None if it was not told.
        n_ctx_slot: See `Learned`; None if it was not told.
    """
    choices = [choice for choice in (known.widest, fit) if choice is not None]
    return attrs.evolve(
        known,
        load_s=load_s,
        at_s=at_s,
        fit=fit,
        widest=max(choices, key=lambda choice: choice.width, default=None),
        reported=known.reported if reported is None else reported,
        n_ctx_slot=known.n_ctx_slot if n_ctx_slot is None else n_ctx_slot,
    )


def encode(figures: LearnedFigures) -> bytes:
    """Return the content of a file with *figures*."""
    entries = [_Entry(machine, launch, each) for (machine, launch), each in figures._known.items()]  # noqa: SLF001 -- the codec of the class above
    return versioned_file.encode(_File(_FORMAT, entries))


def decode(data: bytes) -> LearnedFigures:
    """Return the figures in the content of a file.

    Raises:
        ValueError: if they cannot be read; with the reason.
    """
    file = versioned_file.decode(data, _File, _FORMAT)
    last = file.launches[-MAX_LAUNCHES:]
    return LearnedFigures(
        {(MachineId(each.machine), LaunchKey(each.launch)): each.figures for each in last}
    )


def launch_key(spec: ModelSpec, *, program: str, files: Mapping[str, str]) -> LaunchKey:
    """Return the key of the launches of *spec*.

    Placeholders count as they are written: two models that differ in their names only have the
    same figures, and a port changes nothing.

    Args:
        spec: The model.
        program: Identity of its program: the path and the version.
        files: The versions of its files, by path.
    """
    spawn = spec.spawn
    parts = (
        program,
        (*spawn.command, *spawn.args),
        spec.path,
        spec.mmproj,
        spawn.cwd,
        sorted(spawn.env.items()),
        sorted(files.items()),
    )
    return LaunchKey(_digest(msgspec.json.encode(parts)))


def machine_id(identity: str, gpus: Iterable[str]) -> MachineId:
    """Return the id of a machine.

    Args:
        identity: What tells it from others, the same after each boot. It cannot be read out of
            the id.
        gpus: Its GPUs.
    """
    return MachineId(_digest(msgspec.json.encode((identity, sorted(gpus)))))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
