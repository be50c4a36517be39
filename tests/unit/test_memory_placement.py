"""The placement policy of memory: what fits where, and which models leave."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.devices import HOST, Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import UNKNOWN, Footprint, Source
from llama_router.core.memory.settings import MAX_MODELS
from llama_router.core.memory.view import NOTHING_KNOWN, Claims, DeviceState, MemoryView
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.core.scheduling.memory_placement import MemoryPlacement, value_of
from llama_router.core.scheduling.memory_sentences import holders_of
from llama_router.core.scheduling.placement import Obstacle, Occupancy, Resident

GPU0, GPU1, GPU2, LAB = map(DeviceId, ("nvidia0", "nvidia1", "nvidia2", "lab"))
NOT_CLOSED: frozenset[ModelId] = frozenset()
POLICY = MemoryPlacement(min_residency_s=2.0)


def gpu(name: DeviceId, mib: int, **more: Any) -> DeviceState:
    device = Device(id=name, kind=DeviceKind.NVIDIA, capacity_mib=mib)
    return DeviceState(device=device, **more)


def view(*states: DeviceState, **footprints: Footprint | int) -> MemoryView:
    host = Device(id=HOST, kind=DeviceKind.HOST, capacity_mib=32000)
    states = (DeviceState(device=host), *states)
    return MemoryView(
        devices={state.device.id: state for state in states},
        footprints={
            ModelId(name): Footprint(source=Source.ESTIMATED, gpu_mib=each)
            if isinstance(each, int)
            else each
            for name, each in {"b": 1, "c": 1, "k": 1, **footprints}.items()
        },
    )


def spec(name: str, **fields: object) -> ModelSpec:
    devices = {"lab": {"kind": "pool", "amount": 2}}
    table = {"path": "m.gguf", **fields}
    return parse_config({"models": {name: table}, "devices": devices}).models[ModelId(name)]


def resident(
    name: str,
    claims: Claims,
    phase: Phase = Phase.READY,
    *,
    keep_loaded: bool = False,
    **more: float,
) -> Resident:
    values: dict[str, object] = {"demand": 0.0, "load_s": 1.0, **more}
    settings = spec(name, keep_loaded=keep_loaded)
    return Resident(spec=settings, phase=phase, claims=claims, **values)  # type: ignore[arg-type]


def moment(memory: MemoryView, *residents: Resident) -> Occupancy:
    return Occupancy(residents=residents, waiters=(), now_s=100.0, memory=memory)


def blockers(name: str, memory: MemoryView, *residents: Resident) -> tuple[str, ...]:
    return POLICY.may_start(spec(name), moment(memory, *residents)).blockers


class TestWhere:
    """Which devices a model gets."""

    def test_nothing_starts_before_the_devices_were_read(self) -> None:
        """Whatever it takes: nobody knows what is free."""
        verdict = POLICY.may_start(spec("a"), moment(NOTHING_KNOWN))
        assert not verdict.allowed
        assert verdict.obstacle is None

    def test_it_gets_the_gpu_with_the_least_left_over(self) -> None:
        """The larger one stays free for a larger model."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 12000), a=10000)
        assert POLICY.may_start(spec("a"), moment(memory)).claims == {GPU1: 10000}

    def test_a_gpu_with_room_is_better_than_one_that_must_be_cleared(self) -> None:
        """Even if the fit there is worse."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 12000), a=10000)
        there = moment(memory, resident("b", {GPU1: 8000}))
        assert POLICY.may_start(spec("a"), there).claims == {GPU0: 10000}

    def test_a_model_larger_than_each_gpu_is_split_over_the_fewest(self) -> None:
        """In proportion to their room; each further GPU costs something."""
        memory = view(
            gpu(GPU0, 10000),
            gpu(GPU1, 20000),
            gpu(GPU2, 10000),
            a=Footprint(source=Source.ESTIMATED, gpu_mib=26000, per_gpu_mib=1000),
        )
        claims = POLICY.may_start(spec("a"), moment(memory)).claims
        assert claims == {GPU1: 18000, GPU0: 9000}

    @pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.STOPPING])
    def test_it_loads_beside_one_that_leaves_where_memory_allows_both(self, phase: Phase) -> None:
        """The wait for the other's last request and for its exit is not added to the load."""
        memory = view(gpu(GPU0, 10000), a=4000)
        assert POLICY.may_start(
            spec("a"), moment(memory, resident("b", {GPU0: 6000}, phase))
        ).allowed

    def test_a_split_over_what_is_left_saves_an_eviction(self) -> None:
        """Shares go by the room, with a layer more for each GPU; nothing leaves."""
        memory = view(
            gpu(GPU0, 24000),
            gpu(GPU1, 24000),
            a=Footprint(source=Source.ESTIMATED, gpu_mib=16000, per_gpu_mib=500),
        )
        busy = [
            resident(n, {g: 14000}, load_s=14.0, demand=9.0) for n, g in (("b", GPU0), ("c", GPU1))
        ]
        verdict = POLICY.may_start(spec("a"), moment(memory, *busy))
        assert verdict.allowed
        assert verdict.claims == {GPU0: 8750, GPU1: 8750}

    def test_a_split_costs_more_than_a_resident_that_is_hardly_used(self) -> None:
        """It is in the way, and one GPU is enough then."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 24000), a=16000)
        used = resident("b", {GPU0: 14000}, load_s=14.0, demand=9.0)
        stale = resident("c", {GPU1: 14000}, load_s=14.0, demand=0.1)
        assert blockers("a", memory, used, stale) == ("c",)

    def test_a_split_may_need_a_small_resident_to_leave(self) -> None:
        """If that is worth less than the one that would have to leave a GPU of its own."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 24000), a=16000)
        large = [
            resident(n, {g: 14000}, load_s=14.0, demand=9.0) for n, g in (("b", GPU0), ("c", GPU1))
        ]
        small = resident("k", {GPU0: 6000}, load_s=6.0, demand=1.0)
        assert blockers("a", memory, *large, small) == ("k",)

    def test_only_named_devices_are_used(self) -> None:
        """`devices` names them."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 12000), a=10000)
        verdict = POLICY.may_start(spec("a", devices=["nvidia0"]), moment(memory))
        assert verdict.claims == {GPU0: 10000}

    def test_without_any_of_its_devices_it_is_refused(self) -> None:
        """It would not be where its settings say; one of several is enough."""
        memory = view(gpu(GPU0, 24000), a=10000)
        verdict = POLICY.may_start(spec("a", devices=["nvidia1", "nvidia2"]), moment(memory))
        assert verdict.obstacle is Obstacle.NO_DEVICE
        assert verdict.reason == (
            "model 'a' may be on nvidia1 or nvidia2 only (devices), and there is no such GPU "
            "(found: host, nvidia0)"
        )
        some = POLICY.may_start(spec("a", devices=["nvidia1", "nvidia0"]), moment(memory))
        assert some.claims == {GPU0: 10000}

    def test_without_a_gpu_everything_is_in_host_memory(self) -> None:
        """What would be on a GPU, too."""
        memory = view(a=Footprint(source=Source.ESTIMATED, host_mib=500, gpu_mib=4000))
        assert POLICY.may_start(spec("a"), moment(memory)).claims == {HOST: 4500}

    def test_a_named_device_that_is_not_there_takes_nothing(self) -> None:
        """It may be a figure for another machine, or an ignored device."""
        memory = view(a=Footprint(source=Source.CONFIGURED, fixed_mib={GPU2: 100, HOST: 50}))
        assert POLICY.may_start(spec("a"), moment(memory)).claims == {HOST: 50}

    def test_what_others_hold_is_not_free(self) -> None:
        """Nor is what an ended backend still holds: the model waits, and nothing is stopped."""
        memory = view(gpu(GPU0, 10000, others_mib=2000, freeing_mib=3000), a=6000)
        verdict = POLICY.may_start(spec("a"), moment(memory, resident("b", {HOST: 100})))
        assert not verdict.allowed
        assert not verdict.blockers
        assert verdict.obstacle is None
        assert verdict.reason == (
            "model 'a' needs 5.9 GiB of nvidia0; nvidia0 is held by other programs (2.0 GiB) and "
            "an ended backend (2.9 GiB, being freed)."
        )


class TestWhoLeaves:
    """Which residents are in the way."""

    def test_models_that_fit_stay_side_by_side(self) -> None:
        """There is no group."""
        memory = view(gpu(GPU0, 24000), a=10000)
        assert POLICY.may_start(spec("a"), moment(memory, resident("b", {GPU0: 14000}))).allowed

    def test_the_one_worth_least_leaves(self) -> None:
        """Value is the load's duration times the demand."""
        memory = view(gpu(GPU0, 24000), a=10000)
        wanted = resident("b", {GPU0: 11000}, demand=5.0)
        unwanted = resident("c", {GPU0: 11000}, demand=1.0)
        assert blockers("a", memory, wanted, unwanted) == ("c",)
        slow = resident("c", {GPU0: 11000}, demand=1.0, load_s=60.0)
        assert blockers("a", memory, wanted, slow) == ("b",)

    def test_no_more_leave_than_necessary(self) -> None:
        """A large model that suffices spares the small ones chosen before it."""
        memory = view(gpu(GPU0, 24000), a=10000)
        small = resident("b", {GPU0: 2000}, load_s=0.1)
        large = resident("c", {GPU0: 20000})
        assert blockers("a", memory, small, large) == ("c",)

    def test_a_model_elsewhere_is_not_in_the_way(self) -> None:
        """Stopping it would gain nothing."""
        memory = view(gpu(GPU0, 12000), gpu(GPU1, 2000), a=10000)
        far = resident("b", {GPU1: 2000}, load_s=0.01)
        near = resident("c", {GPU0: 9000}, demand=50.0)
        assert blockers("a", memory, far, near) == ("c",)

    def test_a_kept_model_never_leaves(self) -> None:
        """It counts in the budget."""
        memory = view(gpu(GPU0, 24000), a=10000)
        kept = Resident(spec=spec("k", keep_loaded=True), phase=Phase.READY, claims={GPU0: 10000})
        other = resident("b", {GPU0: 9000}, demand=99.0)
        assert blockers("a", memory, kept, other) == ("b",)

    def test_what_does_not_fit_beside_kept_models_is_refused(self) -> None:
        """Nothing is stopped for it."""
        memory = view(gpu(GPU0, 24000), a=20000)
        kept = Resident(spec=spec("k", keep_loaded=True), phase=Phase.READY, claims={GPU0: 10000})
        verdict = POLICY.may_start(spec("a"), moment(memory, kept, resident("b", {GPU0: 1000})))
        assert verdict.obstacle is Obstacle.KEPT
        assert not verdict.blockers
        assert "'k'" in verdict.reason

    def test_what_no_device_can_hold_is_refused(self) -> None:
        """The sentence says what it needs, how that is known, and what there is."""
        memory = view(gpu(GPU0, 24000), a=90000)
        verdict = POLICY.may_start(spec("a"), moment(memory, resident("b", {GPU0: 1000})))
        assert verdict.obstacle is Obstacle.TOO_LARGE
        assert not verdict.blockers
        assert verdict.reason == (
            "model 'a' needs 87.9 GiB of GPU memory (estimated), more than models may take here: "
            "host 31.2 GiB, nvidia0 23.4 GiB"
        )

    def test_an_unknown_model_runs_alone(self) -> None:
        """Until it was measured: beside it nothing starts either."""
        memory = view(gpu(GPU0, 24000), a=1000, b=UNKNOWN)
        there = resident("a", {GPU0: 1000})
        assert blockers("b", memory, there) == ("a",)
        assert blockers("a", memory, resident("b", {})) == ("b",)

    def test_an_exclusive_model_runs_alone(self) -> None:
        """By its settings, whatever would fit."""
        memory = view(gpu(GPU0, 24000), a=1000, b=1000)
        alone = spec("b", exclusive=True)
        there = moment(memory, resident("a", {GPU0: 1000}))
        assert POLICY.may_start(alone, there).blockers == ("a",)
        running = Resident(spec=alone, phase=Phase.READY, claims={GPU0: 1000})
        assert POLICY.may_start(spec("a"), moment(memory, running)).blockers == ("b",)

    def test_units_of_a_pool_are_a_device_like_others(self) -> None:
        """`needs` takes them."""
        pool = DeviceState(device=Device(id=LAB, kind=DeviceKind.POOL, capacity_mib=2))
        memory = view(gpu(GPU0, 24000), pool, a=1000, b=1000)
        needy = spec("a", needs={"lab": 2})
        there = moment(memory, resident("b", {GPU0: 1000, LAB: 1}))
        assert POLICY.may_start(needy, there).blockers == ("b",)

    def test_at_most_so_many_models_run(self) -> None:
        """`max_models` is a pool of which each takes one unit; those kept loaded take none."""
        pool = DeviceState(device=Device(id=MAX_MODELS, kind=DeviceKind.POOL, capacity_mib=2))
        memory = view(gpu(GPU0, 24000), pool, a=1000, k=1000)
        claims = {GPU0: 1000, MAX_MODELS: 1}
        two = [resident("b", claims, demand=1), resident("c", claims, demand=2)]
        assert blockers("a", memory, *two) == ("b",)
        assert POLICY.may_start(spec("k", keep_loaded=True), moment(memory, *two)).allowed

    def test_what_is_being_freed_leaves_the_blockers_of_then(self) -> None:
        """Blockers are those that are left then: one that started meanwhile would be one."""
        memory = view(gpu(GPU0, 10000, freeing_mib=6000), a=9000)
        waiting = POLICY.may_start(spec("a"), moment(memory))
        assert (waiting.allowed, waiting.blockers) == (False, ())
        assert "an ended backend (5.9 GiB, being freed)" in waiting.reason
        assert blockers("a", memory, resident("b", {GPU0: 3000})) == ("b",)


class TestVictims:
    """Which models are stopped now."""

    MEMORY = view(gpu(GPU0, 24000), a=10000)

    def victims(self, *residents: Resident, closed: frozenset[ModelId] = NOT_CLOSED) -> set[str]:
        return set(POLICY.victims(spec("a"), moment(self.MEMORY, *residents), closed))

    def test_an_idle_model_leaves_though_a_busy_one_is_worth_less(self) -> None:
        """A model with requests is never stopped."""
        busy = resident("b", {GPU0: 11000}, in_flight=1)
        idle = resident("c", {GPU0: 11000}, demand=9.0)
        assert self.victims(busy, idle) == {"c"}

    def test_nobody_leaves_while_that_is_not_enough(self) -> None:
        """The idle neighbour of a busy model that must leave, too, stays in use."""
        busy = resident("b", {GPU0: 16000}, in_flight=1)
        idle = resident("c", {GPU0: 7000})
        assert self.victims(busy, idle) == set()

    def test_one_that_is_granted_no_more_leaves_when_it_is_idle(self) -> None:
        """Its place is needed in any case."""
        busy = resident("b", {GPU0: 16000}, in_flight=1)
        idle = resident("c", {GPU0: 8000}, queued=2, load_s=0.1)
        self_closed = frozenset({ModelId("b"), ModelId("c")})
        memory = view(gpu(GPU0, 24000), a=20000)
        there = moment(memory, busy, idle)
        assert POLICY.victims(spec("a"), there, self_closed) == ("c",)

    def test_a_model_that_is_leaving_makes_the_room(self) -> None:
        """No other one is stopped while it suffices."""
        leaving = resident("b", {GPU0: 11000}, phase=Phase.STOPPING)
        idle = resident("c", {GPU0: 11000})
        assert self.victims(leaving, idle) == set()

    def test_a_model_that_became_ready_just_now_stays(self) -> None:
        """For `min_residency_s`; the verdict says when to look again."""
        fresh = resident("b", {GPU0: 20000}, ready_since_s=99.0)
        assert self.victims(fresh) == set()
        verdict = POLICY.may_start(spec("a"), moment(self.MEMORY, fresh))
        assert verdict.look_again_s == 101.0


class TestShrinks:
    """A model that llama.cpp fits into what is left, where there is not enough for all of it."""

    FITTED = Footprint(
        source=Source.ESTIMATED,
        host_mib=500,
        gpu_mib=40000,
        least_host_mib=400,
        least_gpu_mib=18000,
    )

    def test_it_gets_what_the_gpus_have(self) -> None:
        """With the context that it was trained for it is larger than all of them."""
        memory = view(gpu(GPU0, 24000), gpu(GPU1, 12000), a=self.FITTED)
        verdict = POLICY.may_start(spec("a"), moment(memory))
        assert verdict.allowed
        assert verdict.claims == {HOST: 500, GPU0: 24000, GPU1: 12000}

    def test_layers_that_fit_on_no_gpu_are_in_host_memory(self) -> None:
        """If even the least context is too much for the GPUs."""
        memory = view(gpu(GPU0, 10000), a=self.FITTED)
        assert POLICY.may_start(spec("a"), moment(memory)).claims == {HOST: 8500, GPU0: 10000}

    def test_others_leave_for_it(self) -> None:
        """As for one that needs all of the GPU."""
        memory = view(gpu(GPU0, 24000), a=self.FITTED)
        assert blockers("a", memory, resident("b", {GPU0: 2000})) == ("b",)

    def test_beside_kept_models_and_other_programs_it_gets_the_rest(self) -> None:
        """It would fit in full without them; nothing waits for what may never end."""
        fitted = attrs.evolve(self.FITTED, gpu_mib=23000)
        memory = view(gpu(GPU0, 24000, others_mib=2000), a=fitted)
        kept = resident("k", {GPU0: 1500}, keep_loaded=True)
        there = moment(memory, kept, resident("b", {GPU0: 3000}))
        verdict = POLICY.may_start(spec("a"), there)
        assert (verdict.blockers, verdict.claims[GPU0]) == (("b",), 20500)
        assert POLICY.victims(spec("a"), there, NOT_CLOSED) == ("b",)

    def test_it_waits_if_its_layers_would_have_to_leave_the_gpu(self) -> None:
        """A program that takes nearly all of it may give it back soon."""
        memory = view(gpu(GPU0, 24000, others_mib=7000), a=attrs.evolve(self.FITTED, gpu_mib=23000))
        verdict = POLICY.may_start(spec("a"), moment(memory))
        assert (verdict.allowed, verdict.blockers, verdict.obstacle) == (False, (), None)

    def test_busy_models_are_not_in_vain_asked_to_leave(self) -> None:
        """Nothing is stopped now for a smaller start than that which is waited for."""
        memory = view(gpu(GPU0, 24000), a=attrs.evolve(self.FITTED, gpu_mib=23000))
        there = moment(memory, resident("b", {GPU0: 3000}, in_flight=1), resident("c", {GPU0: 900}))
        assert blockers("a", memory, *there.residents) == ("b",)
        assert POLICY.victims(spec("a"), there, NOT_CLOSED) == ()

    def test_without_a_gpu_it_gets_less_of_host_memory(self) -> None:
        """At least what the least context takes."""
        memory = view(a=attrs.evolve(self.FITTED, host_mib=40000, gpu_mib=0, least_gpu_mib=0))
        assert POLICY.may_start(spec("a"), moment(memory)).claims == {HOST: 32000}
        huge = attrs.evolve(self.FITTED, gpu_mib=0, host_mib=40000, least_host_mib=33000)
        refused = POLICY.may_start(spec("a"), moment(view(a=huge)))
        assert refused.obstacle is Obstacle.TOO_LARGE


class TestWhy:
    """The sentence that says what a model needs, and what holds it."""

    def test_models_and_programs_in_the_way_are_named(self) -> None:
        """With what each of them holds, models first; residents that may stay are not in it."""
        memory = view(gpu(GPU0, 12000, others_mib=4000, programs={"ComfyUI/main.py": 4096}), a=7000)
        there = moment(memory, resident("b", {GPU0: 6144}), resident("c", {HOST: 500}))
        assert POLICY.may_start(spec("a"), there).reason == (
            "model 'a' needs 6.8 GiB of nvidia0; nvidia0 is held by model 'b' (6.0 GiB) and "
            "ComfyUI/main.py (4.0 GiB)."
        )

    def test_kept_models_and_what_they_hold_are_named(self) -> None:
        """Programs, too: without them there might be room."""
        memory = view(gpu(GPU0, 12000, others_mib=1000, programs={"game": 1500}), a=9000)
        there = moment(memory, resident("k", {GPU0: 6144}, keep_loaded=True))
        assert POLICY.may_start(spec("a"), there).reason == (
            "model 'a' does not fit beside the models that are kept loaded ('k'): it needs "
            "8.8 GiB of nvidia0; nvidia0 is held by model 'k' (6.0 GiB) and game (1.5 GiB)"
        )

    def test_a_model_that_runs_alone_says_so(self) -> None:
        """There would be room, so what holds memory is not the reason."""
        memory = view(gpu(GPU0, 24000), a=100, odd=UNKNOWN)
        beside = moment(memory, resident("b", {GPU0: 100}))
        assert POLICY.may_start(spec("a", exclusive=True), beside).reason == (
            "model 'a' is set to run alone (exclusive)."
        )
        assert POLICY.may_start(spec("odd"), beside).reason == (
            "model 'odd' runs alone until it is known how much memory it takes."
        )

    def test_many_models_are_counted(self) -> None:
        """The three largest are named."""
        memory = view(gpu(GPU0, 24000), a=24000)
        there = moment(memory, *(resident(f"m{n}", {GPU0: 1024 * (n + 1)}) for n in range(5)))
        assert POLICY.may_start(spec("a"), there).reason.endswith(
            "held by model 'm4' (5.0 GiB), model 'm3' (4.0 GiB), model 'm2' (3.0 GiB) and "
            "2 more models (3.0 GiB)."
        )


@pytest.mark.parametrize(
    ("phase", "value"),
    [(Phase.STARTING, math.inf), (Phase.STOPPING, 0.0), (Phase.DRAINING, 0.0), (Phase.READY, 6.0)],
)
def test_the_value_of_a_resident(phase: Phase, value: float) -> None:
    """The duration of its load times its demand; none if it leaves, all while it loads."""
    assert value_of(resident("a", {}, phase=phase, load_s=2.0, demand=2.0)) == value


def test_the_holders_of_memory_are_named() -> None:
    """For a model that ran out of it; without names where keys must not learn them."""
    memory = view(gpu(GPU0, 24000, others_mib=1000, programs={"game": 700}))
    there = [resident("b", {GPU0: 2048}), resident("c", {GPU0: 1024, HOST: 5})]
    named = holders_of([GPU0], there, memory, anonymous=False)
    assert named == (
        "nvidia0 was held by model 'b' (2.0 GiB), model 'c' (1.0 GiB), game (700 MiB) and "
        "other programs (300 MiB)"
    )
    hidden = holders_of([GPU0], there, memory, anonymous=True)
    assert hidden == "nvidia0 was held by other models (3.0 GiB) and other programs (1000 MiB)"
    assert holders_of([GPU0], [], view(gpu(GPU0, 10)), anonymous=False) == ""
