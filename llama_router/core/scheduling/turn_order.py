"""Order of the models that wait to be started: by class, by client, by age. Pure.

The turns of models follow the same rules as the requests in a queue (`fairness`), with one start
in place of one grant: the highest class first, but a lower one that had no start for
`max_yield_s` has the next; in a class the client for which fewest models were started; for one
client the model that waits for longest. So a model that one request waits for starts after at
most one model of each other client, however many those wait for.

Before all of them is the model for which another one was stopped: that one, whose clients may
have the better turns, would else take its place again.

The order is kept from event to event: an event costs what it changes, not a walk over all models.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import chain, islice
from typing import TypeAlias

import attrs

from ..config.names import ModelId
from .fairness import CLASSES, Accounts

#: What a start is charged.
_START = 1.0

_Aged: TypeAlias = tuple[float, ModelId]
"""Since when a model waits, as clock time in seconds, and the model."""


@attrs.frozen
class _Waiter:
    """What was noted about a model: by this it is found again."""

    rank: int
    turn_s: float
    clients: tuple[str, ...]


class TurnOrder:
    """The models that wait to be started, and an account of each client for the starts it had.

    Attributes:
        until_s: Clock time until which `first` returns the same if no model is noted, in seconds.
    """

    __slots__ = (
        "_accounts",
        "_promised",
        "_queues",
        "_since_s",
        "_started",
        "_waiters",
        "until_s",
    )

    def __init__(self) -> None:
        self._accounts = tuple(Accounts() for _ in CLASSES)
        #: By rank and client, its models, oldest turn first.
        self._queues: tuple[dict[str, list[_Aged]], ...] = tuple({} for _ in CLASSES)
        self._since_s: dict[int, float] = {}  # by rank: of the last start, or of joining
        self._started: set[int] = set()  # by rank: no higher class had a start since its own
        self._waiters: dict[ModelId, _Waiter] = {}
        self._promised: ModelId | None = None
        self.until_s = math.inf

    def promise(self, model: ModelId) -> None:
        """Give *model*, which waits, the next turn: another one is stopped for it."""
        self._promised = model
        self.until_s = -math.inf  # the order is another one now

    def note(
        self, model: ModelId, rank: int, turn_s: float, clients: dict[str, float], now_s: float
    ) -> None:
        """Let *model* wait, or replace what was noted about it.

        Args:
            model: The model.
            rank: Rank of the highest class that waits for it.
            turn_s: Clock time since when it is its turn, in seconds.
            clients: The clients of that class that wait for it, with their weights.
            now_s: Clock time, in seconds.
        """
        waiter = _Waiter(rank, turn_s, tuple(clients))
        if (known := self._waiters.get(model)) is not None:
            if known == waiter:
                return
            self.forget(model, staying=waiter)
        self._waiters[model] = waiter
        queues, accounts = self._queues[rank], self._accounts[rank]
        for client, weight in clients.items():
            if client not in queues:
                queues[client] = []
                accounts.join(client, weight)
            insort(queues[client], (turn_s, model))
        self._since_s.setdefault(rank, now_s)

    def forget(self, model: ModelId, *, staying: _Waiter | None = None) -> None:
        """Let *model* wait no more; the clients of *staying* keep their places meanwhile."""
        waiter = self._waiters.pop(model, None)
        if waiter is None:
            return
        if staying is None and model == self._promised:
            self._promised = None
        queues, accounts = self._queues[waiter.rank], self._accounts[waiter.rank]
        kept = staying.clients if staying is not None and staying.rank == waiter.rank else ()
        for client in waiter.clients:
            queue = queues[client]
            del queue[bisect_left(queue, (waiter.turn_s, model))]
            if not queue and client not in kept:
                del queues[client]
                accounts.leave(client)
        if not queues:
            del self._since_s[waiter.rank]

    def started(self, model: ModelId, now_s: float) -> None:
        """Charge the start of *model*, if requests wait for it, and let it wait no more."""
        if (waiter := self._waiters.get(model)) is None:
            return
        accounts = self._accounts[waiter.rank]
        accounts.charge(min(waiter.clients, key=lambda each: accounts.turn(each, _START)), _START)
        self._since_s[waiter.rank] = now_s
        self._started = {rank for rank in self._started if rank < waiter.rank} | {waiter.rank}
        self.forget(model)

    def first(self, count: int | None, now_s: float, max_yield_s: float) -> list[ModelId]:
        """Return the first *count* models in the order of their turns; None for all."""
        ranks = sorted(self._since_s)
        due, self.until_s = [], math.inf
        for rank in ranks[1:]:
            if rank in self._started:
                continue
            due_s = self._since_s[rank] + max_yield_s
            if due_s <= now_s:
                due.append(rank)
            else:
                self.until_s = min(self.until_s, due_s)
        due.sort(key=self._since_s.__getitem__)
        ordered = [*due, *(rank for rank in ranks if rank not in due)]
        turns = chain.from_iterable(map(self._in_class, ordered))
        if (promised := self._promised) is not None:
            turns = chain((promised,), (model for model in turns if model != promised))
        return list(islice(turns, count))

    def _in_class(self, rank: int) -> Iterator[ModelId]:
        """Yield the models of a class: those of each client by age, the clients in turns."""
        queues, accounts = self._queues[rank], self._accounts[rank]
        if len(queues) == 1:
            for queue in queues.values():
                yield from (model for _, model in queue)
            return
        turns = [(accounts.turn(client, _START), client, 0, 1) for client in queues]
        heapq.heapify(turns)
        seen: set[ModelId] = set()
        while turns:
            _, client, at, place = turns[0]
            queue, found = queues[client], None
            while at < len(queue) and found is None:
                model = queue[at][1]
                at += 1
                if model not in seen:
                    found = model
            if at < len(queue):
                turn = accounts.turn(client, _START, place + 1)
                heapq.heapreplace(turns, (turn, client, at, place + 1))
            else:
                heapq.heappop(turns)
            if found is not None:
                seen.add(found)
                yield found
