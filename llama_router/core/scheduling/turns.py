"""Whose turn it is: who is granted, who is started, and who makes way. Pure.

Whoever waits for a model that is not running has a *turn*: the time since when
its oldest request waits, or since when it was made to leave for somebody else,
if that was later. The oldest turn goes first. As long as nobody waits, a ready
model is granted without limit. When somebody does, the models in its way

* leave at once when all of them are idle;
* otherwise are granted for `max_dwell_s` more, counted from the moment when
  both are true: they are ready and somebody waits. Then they drain;
* but each keeps being granted for `min_residency_s` after it became ready, so
  that no load is paid for nothing.

A model that could not start anyhow (its backend is in backoff, failed, or still
exiting) has no turn and drives nobody out.
"""

from __future__ import annotations

from ..config.names import ModelId
from .events import Action, Grant
from .lifecycle import Phase
from .placement import Resident, make_room
from .roster import Roster


def in_turn(roster: Roster) -> list[ModelId]:
    """Return the models that wait to be started, whose turn it is first."""
    waiting = (
        m
        for m in roster.waiting
        if roster.slots[m].phase is Phase.STOPPED and not roster.slots[m].spec.keep_loaded
    )
    return sorted(waiting, key=lambda m: roster.slots[m].turn_s)


def is_open(roster: Roster, model: ModelId, order: list[ModelId], now_s: float) -> bool:
    """Say whether ready *model* is still granted, though others may wait."""
    slot = roster.slots[model]
    if slot.spec.keep_loaded:
        return True
    group = slot.spec.group_key
    rival_s = next(
        (roster.slots[m].turn_s for m in order if roster.slots[m].spec.group_key != group), None
    )
    if rival_s is None or not slot.served:
        return True
    router = roster.config.router
    until_s = max(
        max(rival_s, roster.group_ready_since_s.get(group, now_s)) + router.max_dwell_s,
        slot.ready_since_s + router.min_residency_s,
    )
    return not roster.due(until_s, now_s)


def grant(roster: Roster, now_s: float) -> list[Action]:
    """Grant whoever waits for a model that is ready and still open."""
    order = in_turn(roster)
    actions: list[Action] = []
    for model in sorted(roster.waiting, key=lambda m: roster.slots[m].turn_s):
        slot = roster.slots[model]
        if slot.phase is not Phase.READY or not is_open(roster, model, order, now_s):
            continue
        while slot.queued and slot.has_room:
            request = next(iter(slot.queued))
            del slot.queued[request]
            roster.hold(request, slot)
            actions.append(Grant(request, model))
        if not slot.queued:
            roster.waiting.discard(model)
    return actions


def swap(roster: Roster, now_s: float) -> list[Action]:
    """Start whoever fits, and make room for whose turn it is."""
    actions: list[Action] = []
    order = in_turn(roster)
    evicting = False
    for model in order:
        slot = roster.slots[model]
        room = make_room(group=slot.spec.group_key, residents=residents(roster, order, now_s))
        if not room.blockers:
            if _may_join(roster, model, order, now_s):
                actions.append(roster.start(model))
        elif not evicting:
            evicting = True  # only for the oldest turn; the others wait for theirs
            for victim in room.victims:
                actions.append(roster.stop(victim, f"model {model!r} takes its place"))
                roster.slots[victim].made_way_s = now_s
    return actions


def _may_join(roster: Roster, model: ModelId, order: list[ModelId], now_s: float) -> bool:
    """Say whether *model* may still start beside its group, though others may wait.

    Without residents it may: then it is first in turn, or of the group of the first.
    """
    group = roster.slots[model].spec.group_key
    neighbours = [slot for slot in roster.sharing() if slot.spec.group_key == group]
    if not neighbours or group not in roster.group_ready_since_s:
        return True
    older = order[: order.index(model)]
    rival_s = next(
        (roster.slots[m].turn_s for m in older if roster.slots[m].spec.group_key != group), None
    )
    if rival_s is None:
        return True
    since_s = max(rival_s, roster.group_ready_since_s[group])
    return not roster.due(since_s + roster.config.router.max_dwell_s, now_s)


def residents(roster: Roster, order: list[ModelId], now_s: float) -> list[Resident]:
    """Return who occupies the place of the groups, as `make_room` wants to know it."""
    found = []
    for slot in roster.sharing():
        open_ = slot.phase is not Phase.READY or is_open(roster, slot.spec.id, order, now_s)
        found.append(
            Resident(
                model=slot.spec.id,
                group=slot.spec.group_key,
                leaving=slot.phase in (Phase.DRAINING, Phase.STOPPING),
                idle=not slot.in_flight and not (slot.queued and open_),
                closed=not open_,
            )
        )
    return found
