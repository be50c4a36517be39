"""Who must leave before a model may start. Pure.

The rule of groups: models of one group run side by side; a model of another
group starts only when nobody of the first is left.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from ..config.names import ModelId


@attrs.frozen(kw_only=True)
class Resident:
    """A model whose process exists, or may still exist.

    Attributes:
        model: Which one.
        group: Its group key.
        leaving: It was told to stop, or drains in order to be stopped.
        idle: It serves nobody, and nobody waits for it whom it may still serve.
        closed: It had its time while others waited, and is granted no more.
    """

    model: ModelId
    group: str
    leaving: bool
    idle: bool
    closed: bool


@attrs.frozen(kw_only=True)
class Room:
    """What stands between a model and its start.

    Attributes:
        blockers: Residents of other groups; empty means that it may start now.
        victims: Those of them that should be stopped now.
    """

    blockers: tuple[ModelId, ...]
    victims: tuple[ModelId, ...]


def make_room(*, group: str, residents: Iterable[Resident]) -> Room:
    """Decide who must leave so that a model of *group* can start.

    Idle blockers leave together, once all of them are idle: as long as one is
    busy, stopping its idle neighbour would gain nothing. A closed one leaves as
    soon as it is idle.

    Args:
        group: The group key of the model to start.
        residents: Every model that occupies memory.
    """
    blockers = [r for r in residents if r.group != group]
    staying = [r for r in blockers if not r.leaving]
    all_idle = all(r.idle for r in staying)
    victims = tuple(r.model for r in staying if r.idle and (all_idle or r.closed))
    return Room(blockers=tuple(r.model for r in blockers), victims=victims)
