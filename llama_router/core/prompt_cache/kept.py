"""The files of saved slots: which are restored, replaced and evicted; and their index. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Final, TypeVar

import attrs
from msgspec import Meta

from ..config.names import ModelId
from ..memory import versioned_file
from ..memory.learned import LaunchKey

#: Version of the index.
_FORMAT: Final = 1

#: Most launches about which the index says something: the latest ones.
MAX_LAUNCHES: Final = 1000

#: Loads after which a conversation went on, but was computed anew, before saving is given up.
MISSES: Final = 2

_Count = Annotated[int, Meta(ge=0)]

V = TypeVar("V")


@attrs.frozen(kw_only=True)
class KeptSlot:
    """The file of one saved slot, which is one conversation of a model.

    Attributes:
        model: The model.
        file: Its name in the folder of the model; chosen at random.
        launch: The launch of the process that wrote it.
        n_tokens: Tokens in it.
        size_bytes: Its size.
        mtime_ns: The time of its last change; with the size it tells that it is as it was written.
        used_s: When the conversation was in use last, in seconds since the epoch.
    """

    model: ModelId
    file: str
    launch: LaunchKey
    n_tokens: _Count
    size_bytes: _Count
    mtime_ns: int
    used_s: float


@attrs.frozen(kw_only=True)
class KeptSlots:
    """All that is kept: the files, the last used ones last, and what is known of launches.

    Attributes:
        slots: The files.
        works: Launches of which a restored conversation was seen to be used.
        misses: Launches of which it was not: in how many loads.
        off: Launches that keep nothing, and why.
    """

    slots: tuple[KeptSlot, ...] = ()
    works: tuple[LaunchKey, ...] = ()
    misses: Mapping[LaunchKey, int] = attrs.field(factory=dict[LaunchKey, int])
    off: Mapping[LaunchKey, str] = attrs.field(factory=dict[LaunchKey, str])

    def of(self, model: ModelId) -> tuple[KeptSlot, ...]:
        """Return the files of *model*, the last used one first."""
        return tuple(slot for slot in reversed(self.slots) if slot.model == model)

    def stale(self, model: ModelId, launch: LaunchKey) -> tuple[KeptSlot, ...]:
        """Return the files of *model* that another launch than *launch* wrote."""
        return tuple(slot for slot in self.of(model) if slot.launch != launch)

    def removed(self, models: Collection[ModelId]) -> tuple[KeptSlot, ...]:
        """Return the files of models that are not among *models*."""
        return tuple(slot for slot in self.slots if slot.model not in models)

    def evicted(self, limit_bytes: int) -> tuple[KeptSlot, ...]:
        """Return the files to remove so that the rest fits into *limit_bytes*: the oldest ones."""
        over_bytes = sum(slot.size_bytes for slot in self.slots) - limit_bytes
        leaving: list[KeptSlot] = []
        for slot in self.slots:
            if over_bytes <= 0:
                break
            leaving.append(slot)
            over_bytes -= slot.size_bytes
        return tuple(leaving)

    def with_slot(self, slot: KeptSlot) -> KeptSlots:
        """Return these with *slot*, in its place by its time of use."""
        others = (each for each in self.slots if each.file != slot.file)
        by_use = sorted((*others, slot), key=lambda each: each.used_s)
        return attrs.evolve(self, slots=tuple(by_use))

    def without(self, slots: Iterable[KeptSlot]) -> KeptSlots:
        """Return these without *slots*."""
        files = {slot.file for slot in slots}
        return attrs.evolve(self, slots=tuple(s for s in self.slots if s.file not in files))

    # -- what is known of launches --------------------------------------------------------

    def with_hit(self, launch: LaunchKey) -> KeptSlots:
        """Return these, with *launch* as one that is proven to work."""
        works = (*(each for each in self.works if each != launch), launch)[-MAX_LAUNCHES:]
        misses = {each: count for each, count in self.misses.items() if each != launch}
        return attrs.evolve(self, works=works, misses=misses)

    def with_miss(self, launch: LaunchKey) -> KeptSlots:
        """Return these, with one more load after which *launch* computed a conversation anew.

        It counts unless the launch is proven to work: then the client has changed the prompt.
        """
        if launch in self.works:
            return self
        misses = _latest(self.misses, launch, self.misses.get(launch, 0) + 1)
        return attrs.evolve(self, misses=misses)

    def has_failed(self, launch: LaunchKey) -> bool:
        """Return whether *launch* was seen not to work often enough to give it up."""
        return self.misses.get(launch, 0) >= MISSES

    def with_off(self, launch: LaunchKey, reason: str) -> KeptSlots:
        """Return these, with *launch* as one that keeps nothing for *reason*."""
        return attrs.evolve(self, off=_latest(self.off, launch, reason))


class _File(versioned_file.Versioned):
    slots: list[KeptSlot]
    works: list[LaunchKey]
    misses: dict[LaunchKey, _Count]
    off: dict[LaunchKey, str]


def encode(kept: KeptSlots) -> bytes:
    """Return the content of the index."""
    file = _File(_FORMAT, list(kept.slots), list(kept.works), {**kept.misses}, {**kept.off})
    return versioned_file.encode(file)


def decode(data: bytes) -> KeptSlots:
    """Return what the content of an index says.

    A name of a file in it that leads out of its folder makes all of it unusable.

    Raises:
        ValueError: if it cannot be read; with the reason.
    """
    file = versioned_file.decode(data, _File, _FORMAT)
    if any("/" in slot.file or slot.file.startswith(".") for slot in file.slots):
        raise ValueError("it names a file outside of its folder")
    return KeptSlots(
        slots=tuple(sorted(file.slots, key=lambda slot: slot.used_s)),
        works=tuple(file.works),
        misses=file.misses,
        off=file.off,
    )


def _latest(known: Mapping[LaunchKey, V], launch: LaunchKey, value: V) -> dict[LaunchKey, V]:
    kept = {each: old for each, old in known.items() if each != launch} | {launch: value}
    for oldest in list(kept)[: max(0, len(kept) - MAX_LAUNCHES)]:
        del kept[oldest]
    return kept
