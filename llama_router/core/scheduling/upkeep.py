"""Which models come or go without anybody asking. Pure.

* A model with `keep_loaded` is started whenever it is not running. It is in nobody's
  way, nobody is in its way, and it does not count in any group.
* A model that was idle for its `ttl_s`, or as long as the latest request said that gave a
  time (`Keep`), is stopped; the home model is not.
* When all others were idle for `home_after_s` and nobody waits, the `home_model` takes
  their place.
* A model that was unloaded by request stays away until somebody asks for it.
* A model whose process is replaced, because its settings changed, comes back when the old
  process is gone -- unless its place is taken by then, or somebody of another group waits
  for it. If the new process fails, it is tried again like one that somebody waits for; if
  it is given up, the next change of its settings brings it back, or a `Mended`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..config.names import ModelId
from .events import Action
from .lifecycle import Phase, Signal
from .placement import make_room
from .roster import Roster
from .turns import in_turn, residents


def expires_s(stays_s: float, *, busy: bool, idle_since_s: float) -> float:
    """Return the clock time at which a ready model has been idle for long enough.

    Args:
        stays_s: Seconds of idleness after which it is stopped; infinite for never.
        busy: It serves somebody, or somebody waits for it.
        idle_since_s: When it became ready or its last request ended, the later one.
    """
    return math.inf if busy else idle_since_s + stays_s


def home_due_s(idle_since_s: Iterable[float], home_after_s: float) -> float:
    """Return the clock time at which the home model may take the place of the others.

    Args:
        idle_since_s: Of every other resident model: since when it is idle; infinite for a
            busy one.
        home_after_s: Seconds for which all of them must have been idle.
    """
    return max((since_s + home_after_s for since_s in idle_since_s), default=-math.inf)


def expire(roster: Roster, now_s: float) -> list[Action]:
    """Stop who has been idle for its ``ttl_s``."""
    if not roster.expiring:
        return []
    actions: list[Action] = []
    for model in tuple(roster.resident):
        slot = roster.slots[model]
        if slot.phase is not Phase.READY or roster.stays_anyhow(slot):
            continue
        stays_s = slot.stays_s
        if roster.due(expires_s(stays_s, busy=slot.busy, idle_since_s=slot.idle_since_s), now_s):
            who = "ttl_s" if slot.keep_s is None else "keep_alive"
            actions.append(roster.stop(model, f"it was idle for {stays_s:g} s ({who})"))
    return actions


def keep(roster: Roster, now_s: float) -> list[Action]:
    """Start every model with ``keep_loaded`` that does not run."""
    return [roster.start(model) for model in roster.kept if _may_come(roster, model, now_s)]


def bring_back(roster: Roster, now_s: float) -> list[Action]:
    """Start again whose process was replaced, unless its place is taken, or asked for."""
    actions: list[Action] = []
    order = in_turn(roster)
    wanted = {roster.slots[model].spec.group_key for model in order}
    for model in sorted(roster.returning):
        slot = roster.slots[model]
        if slot.phase is not Phase.STOPPED:
            continue
        group = slot.spec.group_key
        there = [] if slot.spec.keep_loaded else residents(roster, order, now_s)
        others = [resident for resident in there if resident.group != group]
        taken = any(not other.leaving for other in others)
        if not slot.spec.keep_loaded and (taken or wanted - {group} or not slot.stays_s):
            roster.stays_away(model)
            slot.keep_s = None
        elif not others:
            actions.append(roster.start(model))
    return actions


def go_home(roster: Roster, home: ModelId, now_s: float) -> list[Action]:
    """Let the home model take the place of models that nobody has used for a while."""
    if roster.slots[home].spec.keep_loaded or home in roster.resident:
        return []
    if roster.fresh and roster.config.router.startup_model is not None:
        return []  # that one is about to be asked for
    others = roster.sharing()
    due_s = home_due_s(
        (math.inf if slot.busy else slot.idle_since_s for slot in others),
        roster.config.router.home_after_s,
    )
    if not roster.due(due_s, now_s) or not _may_come(roster, home, now_s):
        return []
    room = make_room(
        group=roster.slots[home].spec.group_key, residents=residents(roster, [], now_s)
    )
    if not room.blockers:
        return [roster.start(home)]
    reason = f"the home model {home!r} takes its place"
    return [roster.stop(victim, reason) for victim in room.victims]


def _may_come(roster: Roster, model: ModelId, now_s: float) -> bool:
    """Say whether *model*, for which nobody waits, may be started now."""
    slot = roster.slots[model]
    if slot.held_off:
        return False
    if slot.phase is Phase.FAILED and roster.due(slot.breaker.retry_at_s, now_s):
        roster.move(slot, Signal.RETRY)
    return slot.phase is Phase.STOPPED
