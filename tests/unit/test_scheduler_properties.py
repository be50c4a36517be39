"""Invariants of the scheduler under any order of events, with any placement policy."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import Priority
from llama_router.core.memory.devices import Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import UNKNOWN, Footprint, Source
from llama_router.core.memory.view import DeviceState, MemoryView
from llama_router.core.scheduling.events import (
    Arrived,
    Changed,
    FileRestored,
    Finished,
    Grant,
    Hung,
    MemoryChanged,
    Reconfigured,
    Refuse,
    Start,
    Stop,
    Tick,
    Unload,
)
from llama_router.core.scheduling.lifecycle import RESIDENT, Intent, Phase, Signal
from llama_router.core.scheduling.memory_placement import MemoryPlacement
from llama_router.core.scheduling.placement import Placement
from llama_router.core.scheduling.policies import placement_for
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.errors.backends import BackendExitedError, BackendHungError, SpawnError
from tests.policies import AtMost

GROUPS = {"a": "g", "b": "g", "c": None, "d": "h", "e": None}
KEPT = "k"
HOME = "e"
TTL_S = {"b": 7.0, "c": 3.0}
HOME_AFTER_S = 4.0
DWELL_S, RESIDENCY_S, WAIT_S, YIELD_S = 10.0, 2.0, 1000.0, 12.0


def config(limits: dict[str, int], revision: int = 0) -> Config:
    models = {}
    for name, group in GROUPS.items():
        models[name] = {"path": f"{name}.gguf", "max_queued": 5}
        if group:
            models[name]["group"] = group
        if name in limits:
            models[name]["max_in_flight"] = limits[name]
    for name, ttl_s in TTL_S.items():
        models[name]["ttl_s"] = ttl_s
    models[KEPT] = {"path": "k.gguf", "keep_loaded": True, "max_queued": 5}
    models["a"]["args"] = [f"--revision={revision}"]
    router = {
        "max_dwell_s": DWELL_S,
        "min_residency_s": RESIDENCY_S,
        "max_queue_wait_s": WAIT_S,
        "cooldown_s": 20,
        "stable_after_s": 30,
        "home_model": HOME,
        "home_after_s": HOME_AFTER_S,
    }
    scheduler = {"max_yield_s": YIELD_S}
    return parse_config({"router": router, "scheduler": scheduler, "models": models})


class SchedulerMachine(RuleBasedStateMachine):
    """Clients come and go, backends do as they like, the clock moves."""

    def placement_for(self, conf: Config) -> Placement:
        """Return the policy under test."""
        return placement_for(conf)

    def check_placed(self, alive: set[ModelId]) -> None:
        """Fail if *alive* must not run together."""
        groups = {GROUPS[m] or m for m in alive - {KEPT}}
        assert len(groups) <= 1, "two groups at once"

    def has_place_for(self, model: ModelId) -> bool:
        """Return whether nothing that is alive is in the way of *model*."""
        return model == KEPT or not self.alive - {KEPT}

    def __init__(self) -> None:
        super().__init__()
        self.limits = {"b": 1, "c": 2}
        self.scheduler = Scheduler(config(self.limits), self.placement_for)
        self.now_s = 0.0
        self.last_request = 0
        self.forced = self.unloading = False
        self.revision = 0
        self.waiting: dict[int, float] = {}
        self.loading: dict[int, ModelId] = {}  # requests that their model may be loaded for
        self.slotless: set[int] = set()
        self.granted: dict[int, ModelId | None] = {}  # None: its process died under it
        self.alive: set[ModelId] = set()  # processes as the shell would see them
        self.feed(Tick())  # as the shell does: some models come without being asked for

    def feed(self, event) -> None:
        for action in self.scheduler.handle(event, now_s=self.now_s):
            match action:
                case Grant(request, model):
                    assert self.scheduler.phase(model) is Phase.READY
                    del self.waiting[request]  # KeyError: granted twice, or after it left
                    self.granted[request] = model
                case Refuse(request, _):
                    del self.waiting[request]
                case Start(model):
                    assert model not in self.alive, "two processes of one model"
                    assert model in self.may_start(), "no request may load it"
                    self.alive.add(model)
                    self.check_placed(self.alive)
                case Stop(model):
                    assert model in self.alive
                    assert self.forced or model not in self.granted.values(), "a request was cut"
                    assert self.forced or self.unloading or model != KEPT, "it was to be kept"

    def may_start(self) -> set[ModelId]:
        """Return the models that may be loaded now."""
        unasked = {ModelId(KEPT), ModelId(HOME), *self.scheduler.returning}
        return unasked | {self.loading[r] for r in self.waiting if r in self.loading}

    @rule(name=st.sampled_from([*GROUPS, KEPT]), force=st.booleans())
    def unload(self, name: str, *, force: bool) -> None:
        model = ModelId(name)
        self.unloading = True  # from now on: it may still have to drain
        self.forced = force
        self.feed(Unload(model, force))
        self.forced = False
        if self.scheduler.phase(model) is Phase.STOPPING:
            for request in [r for r, m in self.granted.items() if m == model]:
                self.granted[request] = None

    @rule(name=st.sampled_from([*GROUPS, KEPT]))
    def hang(self, name: str) -> None:
        model = ModelId(name)
        self.forced = True
        self.feed(Hung(model, BackendHungError("silent")))
        self.forced = False
        if self.scheduler.phase(model) is Phase.STOPPING:
            for request in [r for r, m in self.granted.items() if m == model]:
                self.granted[request] = None

    @rule(name=st.sampled_from([*GROUPS, KEPT]))
    def mended(self, name: str) -> None:
        self.feed(FileRestored(ModelId(name)))

    @rule(
        name=st.sampled_from([*GROUPS, KEPT, "zzz"]),
        may_load=st.booleans() | st.just(True),
        takes_slot=st.booleans() | st.just(True),
        client=st.sampled_from(["", "agent", "person"]),
        priority=st.just(Priority.NORMAL) | st.sampled_from(Priority),
        weight=st.sampled_from([1.0, 0.25, 8.0]),
    )
    def arrive(
        self,
        name: str,
        *,
        may_load: bool,
        takes_slot: bool,
        client: str,
        priority: Priority,
        weight: float,
    ) -> None:
        self.last_request += 1
        self.waiting[self.last_request] = self.now_s
        if may_load:
            self.loading[self.last_request] = ModelId(name)
        if not takes_slot:
            self.slotless.add(self.last_request)
        about = client, priority, weight
        self.feed(Arrived(self.last_request, ModelId(name), may_load, takes_slot, *about))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave_the_queue(self, data) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        del self.waiting[request]
        self.feed(Finished(request))

    @precondition(lambda self: self.granted)
    @rule(data=st.data())
    def finish(self, data) -> None:
        request = data.draw(st.sampled_from(sorted(self.granted)))
        del self.granted[request]
        self.feed(Finished(request))

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def backend_moves(self, data) -> None:
        model = data.draw(st.sampled_from(sorted(self.alive)))
        starting = self.scheduler.phase(model) is Phase.STARTING
        move = data.draw(
            st.sampled_from(["ready", "ready", "exit", "spawn", "broken"] if starting else ["exit"])
        )
        if move == "ready":
            self.feed(Changed(model, Signal.PROBE_OK))
            return
        error = BackendExitedError(model, 1) if move == "exit" else SpawnError("no")
        if move == "broken":  # it evicts nothing until it is mended
            error.cause = "broken_model"
        self.process_ended(model)
        self.feed(Changed(model, Signal.EXITED, error))

    def process_ended(self, model: ModelId) -> None:
        self.alive.discard(model)
        for request in [r for r, m in self.granted.items() if m == model]:
            self.granted[request] = None

    @rule(delta_s=st.sampled_from([0.1, 1, 5, 20]))
    def time_passes(self, delta_s: float) -> None:
        end_s = self.now_s + delta_s
        while self.scheduler.wake_s <= end_s:
            assert self.scheduler.wake_s > self.now_s, "a wake-up that is already over"
            self.now_s = self.scheduler.wake_s
            self.feed(Tick())
        self.now_s = end_s

    @rule()
    def reload(self) -> None:
        self.revision += 1
        self.feed(Reconfigured(config(self.limits, self.revision)))

    @invariant()
    def every_request_is_granted_or_queued_exactly_once(self) -> None:
        stats = self.scheduler.statistics().values()
        assert sum(s.queued for s in stats) == len(self.waiting)
        assert sum(s.in_flight for s in stats) == len(self.granted)

    @invariant()
    def processes_are_accounted_for(self) -> None:
        stats = self.scheduler.statistics()
        assert {m for m, s in stats.items() if s.phase in RESIDENT} == self.alive

    @invariant()
    def limits_hold(self) -> None:
        stats = self.scheduler.statistics()
        for name, limit in self.limits.items():
            crashed = stats[ModelId(name)].phase is not Phase.READY
            in_slots = [r for r, m in self.granted.items() if m == name and r not in self.slotless]
            assert crashed or len(in_slots) <= limit
        # Beside `max_queued`, those that got or get a slot when the model is loaded.
        assert all(s.queued <= 5 + self.limits.get(str(m), 0) for m, s in stats.items())

    @invariant()
    def nothing_is_due_twice(self) -> None:
        assert self.scheduler._reconcile(self.now_s) == []

    @invariant()
    def no_request_waits_without_a_reason(self) -> None:
        """Each request that waits has a cause: a process that lives, or a timed retry."""
        stats = self.scheduler.statistics()
        for model, s in stats.items():
            if s.queued and s.phase is Phase.STOPPED:
                assert self.alive, f"{model} waits although nothing runs"
                assert not self.has_place_for(model), f"{model} waits although it could run"
            if s.queued:
                assert self.scheduler.wake_s < float("inf")
            assert not (s.queued and s.phase is Phase.FAILED)

    @invariant()
    def what_takes_no_slot_waits_for_none(self) -> None:
        """It waits for a model that is not ready, or that makes way for another one."""
        entries = self.scheduler._state.entries
        for entry in entries.values():
            if entry.phase is Phase.READY and entry.slotless & entry.queued.keys():
                assert self.scheduler._state.in_turn(self.now_s), "nothing else is due"
            assert entry.slotless <= entry.in_flight | entry.queued.keys()

    @invariant()
    def a_returning_model_is_not_there_yet(self) -> None:
        stats = self.scheduler.statistics()
        there = {model for model, s in stats.items() if s.phase is Phase.READY}
        assert not there & self.scheduler.returning

    @invariant()
    def no_model_outstays_its_time(self) -> None:
        stats = self.scheduler.statistics()
        for name, ttl_s in TTL_S.items():
            idle_since_s = stats[ModelId(name)].idle_since_s
            assert idle_since_s is None or self.now_s <= idle_since_s + ttl_s

    def honest_backends(self) -> None:
        """Let every load succeed and every stopped process exit."""
        for model in sorted(self.alive):
            phase = self.scheduler.phase(model)
            if phase is Phase.STARTING:
                self.feed(Changed(model, Signal.PROBE_OK))
            elif phase is Phase.STOPPING:
                self.process_ended(model)
                self.feed(Changed(model, Signal.EXITED))

    def end_requests(self, requests) -> None:
        for request in requests:
            del self.granted[request]
            self.feed(Finished(request))

    def teardown(self) -> None:
        """Progress: with honest backends and requests that end, every request is served."""
        for _ in range(400):
            if not self.waiting:
                break
            self.honest_backends()
            self.end_requests(sorted(self.granted))
            self.time_passes(0.1)
        # 40 s of pretended time are far below max_queue_wait_s: no request was refused for that.
        assert not self.waiting
        for name in (*GROUPS, KEPT):
            self.mended(name)
        self.everything_comes_to_rest()

    def everything_comes_to_rest(self) -> None:
        """The kept model and the home model are there in the end, unless they were unloaded."""
        for _ in range(600):
            self.honest_backends()
            self.end_requests(sorted(self.granted))
            self.time_passes(0.1)
        assert not self.scheduler.returning
        entries = self.scheduler._state.entries
        for name in (KEPT, HOME):
            entry = entries[ModelId(name)]
            held_off = entry.intent is Intent.HELD_OFF
            assert held_off or entry.phase is Phase.READY, (name, entry.phase)
        for name in TTL_S:
            assert entries[ModelId(name)].phase is not Phase.READY


class BusyMachine(SchedulerMachine):
    """The same, but a stream of requests for one model never ends: others must not starve."""

    def intruder(self) -> Arrived:
        """Return the next request of the stream."""
        return Arrived(self.last_request, ModelId("c"))

    #: Seconds in which every request gets its grant. Each group may dwell twice before the last
    #: victim's turn, and the lower classes yield: for each start, and at c for each grant.
    BOUND_S = 8 * (DWELL_S + RESIDENCY_S) + 14 * YIELD_S + 40

    def teardown(self) -> None:
        """Bounded wait: a second-long request for c begins every 0.1 s, so c is never idle."""
        victims = set(self.waiting)
        granted_at_s = dict.fromkeys(self.granted, self.now_s)
        deadline_s = self.now_s + self.BOUND_S
        while victims & self.waiting.keys() and self.now_s < deadline_s:
            if len(self.waiting.keys() - victims) < 4:
                self.last_request += 1
                self.waiting[self.last_request] = self.now_s
                event = self.intruder()
                self.loading[self.last_request] = event.model
                self.feed(event)
            self.honest_backends()
            for request in self.granted:
                granted_at_s.setdefault(request, self.now_s)
            over = [r for r in sorted(self.granted) if granted_at_s[r] <= self.now_s - 1]
            self.end_requests(over)
            self.time_passes(0.1)
        assert not victims & self.waiting.keys()


class ManyClientsMachine(BusyMachine):
    """The same, but each request of the stream has another client, of the highest class."""

    def intruder(self) -> Arrived:
        """Return the next request of the stream."""
        client = f"stranger {self.last_request}"
        model = ModelId("c" if self.last_request % 3 else "d")
        return Arrived(
            self.last_request,
            model,
            client=client,
            priority=Priority.INTERACTIVE,
            weight=8.0,
        )


class Counted:
    """The same, with a policy of another kind: some number of models, whatever their groups."""

    LIMIT = 2
    alive: set[ModelId]

    def placement_for(self, _: Config) -> AtMost:
        """Return the policy under test."""
        return AtMost(limit=self.LIMIT, guard_s=1.0)

    def check_placed(self, alive: set[ModelId]) -> None:
        """Fail if *alive* are too many."""
        assert len(alive) <= self.LIMIT

    def has_place_for(self, _: ModelId) -> bool:
        """Return whether one more may run."""
        return len(self.alive) < self.LIMIT


class CountedMachine(Counted, SchedulerMachine):
    """Everything holds for that policy."""


class CountedBusyMachine(Counted, BusyMachine):
    """The bounded wait, too."""

    LIMIT = 3


GPU = DeviceId("gpu")
NEEDS_MIB = {"a": 40, "b": 30, "c": 50, "d": 70, "e": None, KEPT: 20}
BUDGET_MIB = 120


class Remembered:
    """The same, with the policy of memory: what does not fit does not run together.

    The footprint of ``e`` is not known before it was loaded once. Other programs take up to 30.
    """

    alive: set[ModelId]
    now_s: float

    def placement_for(self, conf: Config) -> Placement:
        """Return the policy under test."""
        return MemoryPlacement.of(conf)

    def view(self, others_mib: int) -> MemoryView:
        """Return the devices as they are now."""
        footprints = {
            ModelId(name): Footprint(source=Source.CONFIGURED, gpu_mib=mib)
            for name, mib in NEEDS_MIB.items()
            if mib is not None
        }
        footprints[ModelId("e")] = (
            Footprint(source=Source.MEASURED, gpu_mib=60) if self.measured else UNKNOWN
        )
        device = Device(id=GPU, kind=DeviceKind.SIMULATED, capacity_mib=BUDGET_MIB)
        return MemoryView(
            devices={GPU: DeviceState(device=device, others_mib=others_mib)},
            footprints=footprints,
            measured={ModelId("e"): {GPU: 60}} if self.measured else {},
        )

    measured = False

    def check_placed(self, alive: set[ModelId]) -> None:
        """Fail if *alive* do not fit, or one of them is to run alone."""
        if not self.measured and "e" in alive:
            assert alive <= {"e", KEPT}
        taken = (NEEDS_MIB[str(model)] or 60 for model in alive if self.measured or model != "e")
        assert sum(taken) <= BUDGET_MIB

    def has_place_for(self, _: ModelId) -> bool:
        """Return whether only the kept model may be alive: then any other one fits."""
        return not self.alive - {KEPT}


class MemoryMachine(Remembered, SchedulerMachine):
    """Everything holds for that policy; readings come at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.feed(MemoryChanged(self.view(0)))

    @rule(others_mib=st.sampled_from([0, 10, 30]), measured=st.booleans())
    def devices_are_read(self, others_mib: int, *, measured: bool) -> None:
        self.measured = self.measured or (measured and ModelId("e") in self.alive)
        self.feed(MemoryChanged(self.view(others_mib)))

    def teardown(self) -> None:
        self.feed(MemoryChanged(self.view(0)))
        super().teardown()


class MemoryBusyMachine(Remembered, BusyMachine):
    """The bounded wait, too."""

    def __init__(self) -> None:
        super().__init__()
        self.feed(MemoryChanged(self.view(0)))


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestCounted = CountedMachine.TestCase
TestCounted.settings = TestScheduler.settings
TestMemory = MemoryMachine.TestCase
TestMemory.settings = TestScheduler.settings
TestBusy = BusyMachine.TestCase
TestBusy.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestManyClients = ManyClientsMachine.TestCase
TestManyClients.settings = TestBusy.settings
TestCountedBusy = CountedBusyMachine.TestCase
TestCountedBusy.settings = TestBusy.settings
TestMemoryBusy = MemoryBusyMachine.TestCase
TestMemoryBusy.settings = TestBusy.settings
