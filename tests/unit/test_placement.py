"""Placement policies: the one of groups, and what the scheduler does with any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import llama_router
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.scheduling.events import (
    Action,
    Arrived,
    Changed,
    Finished,
    Grant,
    Reconfigured,
    Start,
    Stop,
    Tick,
)
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.placement import (
    GroupPlacement,
    Occupancy,
    Placement,
    Resident,
)
from llama_router.core.scheduling.policies import placement_for
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.core.scheduling.waits import Blocker, Wait
from tests.policies import AtMost

A, B, C, D = map(ModelId, "abcd")
NO_MODEL: frozenset[ModelId] = frozenset()


def config(*, router: dict | None = None, **models: dict) -> Config:
    document = {m: {"path": f"{m}.gguf", **fields} for m, fields in models.items()}
    return parse_config({"router": router or {}, "models": document})


def specs(**models: dict) -> dict[str, ModelSpec]:
    return {str(model): spec for model, spec in config(**models).models.items()}


def occupied_by(*residents: Resident) -> Occupancy:
    return Occupancy(residents=residents, waiters=(), now_s=0.0)


def resident(spec: ModelSpec, phase: Phase = Phase.READY, **more: Any) -> Resident:
    return Resident(spec=spec, phase=phase, **more)


class TestGroups:
    """Models of one group run side by side, one group at a time."""

    def test_a_model_is_blocked_by_other_groups_only(self) -> None:
        """Neither its own group nor a kept model is in its way."""
        of = specs(a={"group": "g"}, b={"group": "g"}, c={}, d={"keep_loaded": True})
        there = occupied_by(resident(of["b"]), resident(of["c"]), resident(of["d"]))
        verdict = GroupPlacement().may_start(of["a"], there)
        assert (verdict.allowed, verdict.blockers) == (False, (C,))
        assert GroupPlacement().may_start(of["a"], occupied_by(resident(of["b"]))).allowed

    def test_a_kept_model_starts_beside_any_group(self) -> None:
        """It has no blockers, even if it names a group."""
        of = specs(a={"group": "g", "keep_loaded": True}, b={})
        assert GroupPlacement().may_start(of["a"], occupied_by(resident(of["b"]))).allowed

    def test_idle_blockers_leave_together(self) -> None:
        """While one is busy, stopping its idle neighbour would gain nothing."""
        of = specs(a={"group": "g"}, b={"group": "g"}, c={})
        both = [resident(of["a"]), resident(of["b"])]
        assert GroupPlacement().victims(of["c"], occupied_by(*both), NO_MODEL) == (A, B)
        busy = [resident(of["a"]), resident(of["b"], in_flight=1)]
        assert GroupPlacement().victims(of["c"], occupied_by(*busy), NO_MODEL) == ()

    def test_a_closed_blocker_leaves_alone(self) -> None:
        """Its queue does not hold it, because none of it is granted any more."""
        of = specs(a={"group": "g"}, b={"group": "g"}, c={})
        there = occupied_by(resident(of["a"], queued=1), resident(of["b"], in_flight=1))
        assert GroupPlacement().victims(of["c"], there, frozenset({A, B})) == (A,)

    @pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING])
    def test_a_leaving_blocker_is_not_stopped_again(self, phase) -> None:
        """It blocks until its process is gone, but is no victim."""
        of = specs(a={}, b={})
        there = occupied_by(resident(of["a"], phase))
        assert GroupPlacement().may_start(of["b"], there).blockers == (A,)
        assert GroupPlacement().victims(of["b"], there, NO_MODEL) == ()

    def test_it_is_the_policy_of_every_configuration(self) -> None:
        """No setting chooses another one yet."""
        assert placement_for(config(a={})) == GroupPlacement()


def scheduler(conf: Config, limit: int = 2, guard_s: float = 0.0) -> Scheduler:
    return Scheduler(conf, lambda _: AtMost(limit=limit, guard_s=guard_s))


def start(s: Scheduler, model: ModelId, request: int, now_s: float) -> None:
    """Bring *model* up for *request*, which stays in flight."""
    assert s.handle(Arrived(request, model), now_s=now_s) == [Start(model)]
    assert s.handle(Changed(model, Signal.PROBE_OK), now_s=now_s) == [Grant(request, model)]


def stopped(actions: list[Action]) -> list[ModelId]:
    return [action.model for action in actions if isinstance(action, Stop)]


class TestAnotherPolicy:
    """The scheduler obeys whatever policy it is given."""

    def test_it_decides_which_models_run_together(self) -> None:
        """Two models without a group run side by side; a third one waits for one to leave."""
        s = scheduler(config(a={}, b={}, c={}))
        start(s, A, 1, 0)
        start(s, B, 2, 1)
        assert s.handle(Arrived(3, C), now_s=2) == []
        assert stopped(s.handle(Finished(2), now_s=3)) == [B]
        assert s.handle(Changed(B, Signal.EXITED), now_s=4) == [Start(C)]

    def test_it_chooses_the_victim(self) -> None:
        """One of two idle models leaves: the longest idle one."""
        s = scheduler(config(a={}, b={}, c={}))
        start(s, A, 1, 0)
        start(s, B, 2, 1)
        s.handle(Finished(2), now_s=2)
        s.handle(Finished(1), now_s=3)
        assert stopped(s.handle(Arrived(3, C), now_s=4)) == [B]

    def test_its_reason_is_what_a_request_waits_for(self) -> None:
        """In the wait, and in the error of a wait that took too long."""
        s = scheduler(config(router={"max_queue_wait_s": 5, "max_dwell_s": 99}, a={}, b={}), 1)
        start(s, A, 1, 0)
        s.handle(Arrived(2, B), now_s=1)
        reason = "1 models run, and no more than 1 may"
        others = (Blocker(model=A, phase=Phase.READY),)
        assert s.wait_of(2) == Wait(model=B, phase=Phase.STOPPED, blockers=others, reason=reason)
        (refusal,) = s.handle(Tick(), now_s=6)
        assert f"it cannot start: {reason}" in str(refusal.error)

    def test_it_is_asked_again_when_it_says(self) -> None:
        """A guard that ends by itself causes a tick."""
        s = scheduler(config(a={}, b={}), limit=1, guard_s=7)
        start(s, A, 1, 0)
        s.handle(Finished(1), now_s=1)
        assert s.handle(Arrived(2, B), now_s=2) == []
        assert s.wake_s == 7
        assert stopped(s.handle(Tick(), now_s=7)) == [A]

    def test_dwell_time_holds_for_it(self) -> None:
        """A busy model is granted no more when its time is over, and leaves."""
        s = scheduler(config(router={"max_dwell_s": 10}, a={}, b={}), limit=1)
        start(s, A, 1, 0)
        s.handle(Arrived(2, B), now_s=1)
        assert s.handle(Arrived(3, A), now_s=10.9) == [Grant(3, A)]
        assert s.handle(Arrived(4, A), now_s=11) == []
        s.handle(Finished(1), now_s=12)
        assert stopped(s.handle(Finished(3), now_s=13)) == [A]

    def test_a_kept_model_needs_its_leave(self) -> None:
        """An idle model is stopped for it; a busy one is waited for."""
        s = scheduler(config(a={}, k={"keep_loaded": True}), limit=1)
        kept = ModelId("k")
        assert s.handle(Tick(), now_s=0) == [Start(kept)]
        s.handle(Arrived(1, A), now_s=1)
        assert s.handle(Changed(kept, Signal.EXITED), now_s=2) == [Start(A)]  # k is in backoff
        s.handle(Changed(A, Signal.PROBE_OK), now_s=3)
        assert s.phase(kept) is Phase.STOPPED
        assert stopped(s.handle(Finished(1), now_s=4)) == [A]
        assert s.handle(Changed(A, Signal.EXITED), now_s=5) == [Start(kept)]

    def test_a_reload_replaces_it(self) -> None:
        """What the new one allows is started at once."""
        asked: list[Config] = []

        def policy_of(conf: Config) -> Placement:
            asked.append(conf)
            return AtMost(limit=len(conf.models) - 1)

        s = Scheduler(config(a={}, b={}), policy_of)
        start(s, A, 1, 0)
        assert s.handle(Arrived(2, B), now_s=1) == []
        new = config(a={}, b={}, c={})
        assert s.handle(Reconfigured(new), now_s=2) == [Start(B)]
        assert asked[-1] is new


def test_no_other_module_compares_groups() -> None:
    """The seam holds: the key of a group is known to its policy and to the configuration."""
    package = Path(llama_router.__file__).parent
    knowing = {p.name for p in package.rglob("*.py") if "group_key" in p.read_text()}
    assert knowing == {"placement.py", "specs.py"}


def test_the_policy_is_asked_about_the_whole_moment() -> None:
    """It sees all residents with their phases and requests, what waits, and the time."""
    seen: list[Occupancy] = []

    class Watching(GroupPlacement):
        def may_start(self, spec, occupancy):
            seen.append(occupancy)
            return super().may_start(spec, occupancy)

    s = Scheduler(config(a={}, b={"max_in_flight": 1}), lambda _: Watching())
    start(s, A, 1, 2.0)
    s.handle(Arrived(2, B), now_s=3.0)
    there = seen[-1]
    assert (there.now_s, [w.spec.id for w in there.waiters]) == (3.0, [B])
    assert (there.waiters[0].queued, there.waiters[0].turn_s) == (1, 3.0)
    (only,) = there.residents
    assert (only.model, only.phase, only.in_flight, only.ready_since_s) == (A, Phase.READY, 1, 2.0)
