"""What is known about all models: the state on which the scheduler decides. Pure.

Also the steps that change it, each of which keeps it consistent, and returns the action
that tells the shell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from ...errors.admission import AdmissionError
from ...errors.backends import BackendError, FileMissingError
from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec
from .events import Action, Refuse, Start, Stop
from .lifecycle import Phase, Signal, advance
from .restart import CLOSED, GIVEN_UP, Breaker


@attrs.frozen(kw_only=True)
class ModelStatistics:
    """A snapshot of one model.

    Attributes:
        phase: Where its backend is in its life.
        in_flight: Requests being served.
        queued: Requests waiting.
        failures: Failures in a row.
        last_error: Why it failed last, in words.
        requests: Requests being served.
        waiting_since_s: Requests waiting, oldest first: since when, as clock time.
        idle_since_s: Since when it is ready and serves nobody, as clock time; else None.
        retry_at_s: When a failed backend may be tried again, as clock time; else None.
        stays_s: How long its backend stays when it is idle, in seconds; perhaps infinite.
    """

    phase: Phase
    in_flight: int
    queued: int
    failures: int
    last_error: BackendError | None
    requests: tuple[int, ...] = ()
    waiting_since_s: Mapping[int, float] = attrs.field(factory=dict[int, float])
    idle_since_s: float | None = None
    retry_at_s: float | None = None
    stays_s: float = math.inf


@attrs.define(eq=False)
class Slot:
    """Everything known about one model.

    Attributes:
        spec: The settings that its next start uses.
        phase: Where its backend is in its life.
        in_flight: Requests being served.
        queued: Requests that wait, oldest first, and when each arrived.
        ready_since_s: Since when it is ready, as clock time.
        idle_since_s: When it became ready, or its last request ended.
        made_way_s: When it was last made to leave for another model.
        served: Granted at least once since it became ready.
        breaker: Its failures, and when it may be tried again.
        last_error: Why it failed last.
        removed: It is in the configuration no more, and leaves.
        held_off: Unloaded by request, and not asked for since.
        keep_s: How long it stays idle, in seconds, if a request said so.
        lost: Given up when it was to come back.
    """

    spec: ModelSpec
    phase: Phase = Phase.STOPPED
    in_flight: set[int] = attrs.field(factory=set)
    queued: dict[int, float] = attrs.field(factory=dict)
    ready_since_s: float = -math.inf
    idle_since_s: float = -math.inf
    made_way_s: float = -math.inf
    served: bool = False
    breaker: Breaker = CLOSED
    last_error: BackendError | None = None
    removed: bool = False
    held_off: bool = False
    keep_s: float | None = None
    lost: bool = False

    @property
    def busy(self) -> bool:
        """Whether it serves somebody, or somebody waits for it."""
        return bool(self.in_flight or self.queued)

    @property
    def stays_s(self) -> float:
        """How long it stays when it is idle, in seconds."""
        return (self.spec.ttl_s or math.inf) if self.keep_s is None else self.keep_s

    @property
    def turn_s(self) -> float:
        """Since when it is this model's turn; only meaningful if somebody waits."""
        return max(next(iter(self.queued.values())), self.made_way_s)

    @property
    def lacks_file(self) -> bool:
        """Whether it was given up because of a file; then a `Mended` says when to try again."""
        return self.phase is Phase.FAILED and isinstance(self.last_error, FileMissingError)

    @property
    def has_room(self) -> bool:
        """Whether it may serve one more request at the same time."""
        limit = self.spec.max_in_flight
        return limit is None or len(self.in_flight) < limit

    def statistics(self, *, stays_anyhow: bool) -> ModelStatistics:
        """Return a snapshot.

        Args:
            stays_anyhow: It stays however long it is idle.
        """
        idle = self.phase is Phase.READY and not self.busy
        failing = self.phase in (Phase.BACKOFF, Phase.FAILED)
        return ModelStatistics(
            phase=self.phase,
            in_flight=len(self.in_flight),
            queued=len(self.queued),
            failures=self.breaker.failures,
            last_error=self.last_error,
            requests=tuple(self.in_flight),
            waiting_since_s=dict(self.queued),
            idle_since_s=self.idle_since_s if idle else None,
            retry_at_s=self.breaker.retry_at_s if failing and not self.lacks_file else None,
            stays_s=math.inf if stays_anyhow else self.stays_s,
        )


class Roster:
    """All models, and the few that matter now: an event never costs a walk over all.

    Attributes:
        config: The configuration in force.
        slots: What is known about each model.
        owner: Which model each request waits for, or holds.
        waiting: Models that somebody waits for.
        resident: Models whose process exists, or may still exist.
        backing_off: Models that are tried again after a while.
        draining: Models that end with their last request, and why.
        returning: Models to be started again without being asked for.
        group_ready_since_s: Since when a model of each group is ready.
        moves: Which models came into which phase, in order.
        kept: Models that are to run always.
        home: The home model, if there is one.
        expiring: Whether any model may go because it is idle.
        tending: Whether any model may come or go without anybody asking.
        fresh: Nobody has asked for anything yet.
        wake_s: When to look again, as clock time.
    """

    __slots__ = (
        "backing_off",
        "config",
        "draining",
        "expiring",
        "fresh",
        "group_ready_since_s",
        "home",
        "kept",
        "moves",
        "owner",
        "resident",
        "returning",
        "slots",
        "tending",
        "waiting",
        "wake_s",
    )

    expiring: bool
    tending: bool
    kept: tuple[ModelId, ...]
    home: ModelId | None

    def __init__(self, config: Config) -> None:
        self.config = config
        self.slots = {m: Slot(spec) for m, spec in config.models.items()}
        self.owner: dict[int, ModelId] = {}
        self.waiting: set[ModelId] = set()
        self.resident: set[ModelId] = set()
        self.backing_off: set[ModelId] = set()
        self.draining: dict[ModelId, str] = {}
        self.returning: set[ModelId] = set()
        self.group_ready_since_s: dict[str, float] = {}
        self.moves: list[tuple[ModelId, Phase]] = []
        self.fresh = True
        self.wake_s = math.inf
        self.note_faults()
        self.moves.clear()  # that is how they are from the beginning
        self.note_upkeep()

    def move(self, slot: Slot, signal: Signal) -> None:
        """Let *signal* happen to the model in *slot*."""
        slot.phase = advance(slot.phase, signal)
        self.moves.append((slot.spec.id, slot.phase))

    def note_faults(self) -> list[tuple[ModelId, FileMissingError]]:
        """Give up the models at rest whose files cannot be used; return which, and why."""
        given_up = []
        for model, fault in self.config.faults.items():
            slot = self.slots[model]
            if slot.phase not in (Phase.STOPPED, Phase.BACKOFF):
                continue  # one that runs goes on
            need = fault.need
            error = FileMissingError(str(model), need.path, fault.reason, need.kind)
            slot.last_error = error
            slot.breaker = GIVEN_UP
            self.backing_off.discard(model)
            self.move(slot, Signal.GIVE_UP)
            given_up.append((model, error))
        return given_up

    def start(self, model: ModelId) -> Start:
        """Note that *model* is started; return what says so."""
        slot = self.slots[model]
        self.move(slot, Signal.START)
        self.resident.add(model)
        return Start(model)

    def stop(self, model: ModelId, reason: str) -> Stop:
        """Note that *model* is stopped; return what says so."""
        slot = self.slots[model]
        self.move(slot, Signal.STOP)
        self.draining.pop(model, None)
        return Stop(model, reason)

    def due(self, at_s: float, now_s: float) -> bool:
        """Say whether *at_s* has come; if not, make sure to look again then."""
        if at_s > now_s:
            self.wake_s = min(self.wake_s, at_s)
        return at_s <= now_s

    def sharing(self) -> list[Slot]:
        """Return the residents that share the place of the groups: all but the kept ones."""
        slots = (self.slots[model] for model in self.resident)
        return [slot for slot in slots if not slot.spec.keep_loaded]

    def stays_anyhow(self, slot: Slot) -> bool:
        """Say whether a model stays however long it is idle."""
        return slot.spec.keep_loaded or slot.spec.id == self.home

    def stays_away(self, model: ModelId) -> None:
        """Note that *model* is not to come back by itself (any more)."""
        if model in self.returning:
            self.returning.discard(model)
            self.note_tending()

    def note_upkeep(self) -> None:
        """Note which models come or go without anybody asking."""
        specs = self.config.models.values()
        self.kept = tuple(spec.id for spec in specs if spec.keep_loaded)
        self.expiring = any(spec.ttl_s and not spec.keep_loaded for spec in specs) or any(
            self.slots[model].keep_s is not None for model in self.resident | self.returning
        )
        home = self.config.router.home_model
        self.home = None if home is None else self.config.resolve(home)
        self.note_tending()

    def note_tending(self) -> None:
        """Note whether any model may come or go without anybody asking."""
        self.tending = (
            self.expiring or bool(self.kept) or self.home is not None or bool(self.returning)
        )

    def hold(self, request: int, slot: Slot) -> None:
        """Let *request* be served by the model in *slot*."""
        self.owner[request] = slot.spec.id
        slot.in_flight.add(request)
        slot.served = True

    def forget(self, request: int, now_s: float) -> None:
        """Give back what *request* holds or waits for."""
        model = self.owner.pop(request, None)
        if model is None:
            return  # refused earlier; nothing is held
        slot = self.slots[model]
        slot.in_flight.discard(request)
        if slot.queued.pop(request, None) is not None and not slot.queued:
            self.waiting.discard(model)
        slot.idle_since_s = now_s
        self.drop_if_removed(model)

    def refuse(self, request: int, error: AdmissionError | BackendError, now_s: float) -> Refuse:
        """Let *request* wait no more; return what says why."""
        self.forget(request, now_s)
        return Refuse(request, error)

    def refuse_queue(
        self, model: ModelId, error: AdmissionError | BackendError, now_s: float
    ) -> list[Action]:
        """Refuse everybody who waits for *model*."""
        queued = tuple(self.slots[model].queued)
        return [self.refuse(request, error, now_s) for request in queued]

    def drop_if_removed(self, model: ModelId) -> None:
        """Forget *model* if it was taken out of the configuration, and nothing of it is left."""
        slot = self.slots[model]
        if slot.removed and slot.phase is Phase.STOPPED and not slot.in_flight:
            del self.slots[model]
