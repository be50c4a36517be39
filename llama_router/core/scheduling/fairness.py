"""Fairness between clients: classes, weights, and deficit round robin. Pure.

The requests that wait for a model stand in a `Line`. A line has a *lane* for each class, and in a
lane each client has a queue of its own, oldest request first. The next grant goes

* to the highest class that waits; but a lower one that had no grant for `max_yield_s` has one;
* in the class to the client that was granted least, by its account;
* of this client to the oldest request.

An account counts the seconds for which the client's requests held the model, divided by the
client's weight. A grant is charged with the usual duration at once, and corrected when the request
ends. Who joins starts where the others are: nobody saves up credit, or pays for what was idle. So
a client with one request waits for one of each other client, and not for all of an agent's 500.

Models that wait to be started take turns in the same way: see `turn_order`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from typing import Final

import attrs

from ..config.specs import Priority
from .waits import Behind

#: The classes by rank: lower ranks go first.
CLASSES: Final = tuple(Priority)
RANKS: Final = {priority: rank for rank, priority in enumerate(CLASSES)}

#: What a request is charged at least and at most, in seconds. A stream of hours counts as half a
#: minute, so no client waits for long because of its earlier requests.
LEAST_COST_S: Final = 0.05
MOST_COST_S: Final = 30.0

#: The least that a request is charged, as a share of the usual duration: so a client waits for a
#: few short requests of another one at most, however short they are.
_LEAST_SHARE: Final = 0.25

#: Duration of a request to a model of which none has ended yet, in seconds.
_FIRST_COST_S: Final = 1.0

#: Weight of the latest duration in the usual one.
_NEWEST: Final = 0.2

#: Accounts that are kept before those that make no difference are forgotten.
_MOST_KNOWN: Final = 64


@attrs.define(eq=False)
class Account:
    """What one client was granted, where several take turns.

    Attributes:
        spent: What it was charged, divided by its weight, on the scale of the others.
        weight: Its share: with 2 it gets twice as much as others.
        stamp: Of clients that were granted the same, the one with the lowest goes first.
        waiting: It has something to be granted.
    """

    spent: float
    weight: float
    stamp: int
    waiting: bool = True


class Accounts:
    """The accounts of clients that take turns: deficit round robin, with one number for each.

    Whoever is granted moves the common *round* on to where it then is, and whoever joins starts
    there. So the round passes every client that waits, however many others come and go.
    """

    __slots__ = ("_known", "_round", "_stamps")

    def __init__(self) -> None:
        self._known: dict[str, Account] = {}
        self._round = 0.0
        self._stamps = 0

    def join(self, client: str, weight: float) -> None:
        """Let *client*, which had nothing to be granted, take part."""
        account = self._known.get(client)
        if account is None:
            if len(self._known) >= _MOST_KNOWN:
                self._forget()
            account = self._known[client] = Account(self._round, weight, 0)
        account.spent = max(account.spent, self._round)
        account.weight, account.waiting, account.stamp = weight, True, self._stamp()

    def leave(self, client: str) -> None:
        """Record that *client* has nothing to be granted any more."""
        self._known[client].waiting = False

    def turn(self, client: str, cost: float, places: int = 1) -> tuple[float, int]:
        """Return the place of *client*, by which the next ones are sorted.

        Args:
            client: The client; it takes part.
            cost: What a grant is charged with.
            places: How many grants to it are looked at: the place of the last of them.
        """
        account = self._known[client]
        return account.spent + places * cost / account.weight, account.stamp

    def weight(self, client: str) -> float:
        """Return the weight of *client*, which takes part."""
        return self._known[client].weight

    def charge(self, client: str, cost: float) -> Account:
        """Charge a grant to *client*; return its account."""
        account = self._known[client]
        account.spent += cost / account.weight
        account.stamp = self._stamp()
        self._round = max(self._round, account.spent)
        return account

    def correct(self, account: Account, difference: float) -> None:
        """Charge what a grant was in the end more than expected, or less."""
        spent = account.spent + difference / account.weight
        account.spent = min(spent, self._round + MOST_COST_S / account.weight)

    def _stamp(self) -> int:
        self._stamps += 1
        return self._stamps

    def _forget(self) -> None:
        """Forget the accounts that are no other than new ones."""
        self._known = {
            client: account
            for client, account in self._known.items()
            if account.waiting or account.spent > self._round
        }


@attrs.define(eq=False)
class _Lane:
    """The waiting requests of one class.

    Attributes:
        queues: Those of each client, oldest first.
        accounts: The accounts of the clients.
        since_s: Clock time of its last grant, or since when it is not empty, in seconds.
        yielded: A higher class had a grant since its last one: only so it may go first again.
    """

    queues: dict[str, dict[int, None]] = attrs.field(factory=dict[str, dict[int, None]])
    accounts: Accounts = attrs.field(factory=Accounts)
    since_s: float = -math.inf
    yielded: bool = True

    def take(self, cost: float, count: float) -> Iterator[tuple[int, Account]]:
        """Remove and yield the next *count* requests, each with the account that was charged."""
        turns = [(self.accounts.turn(client, cost), client) for client in self.queues]
        heapq.heapify(turns)
        while turns and count > 0:
            count -= 1
            client = turns[0][1]
            queue = self.queues[client]
            request = next(iter(queue))
            del queue[request]
            account = self.accounts.charge(client, cost)
            if queue:
                heapq.heapreplace(turns, (self.accounts.turn(client, cost), client))
            else:
                heapq.heappop(turns)
                del self.queues[client]
                self.accounts.leave(client)
            yield request, account

    def in_order(self, cost: float) -> Iterator[int]:
        """Yield the requests in the order in which they will be granted."""
        ranked = [
            (*self.accounts.turn(client, cost, place), request)
            for client, queue in self.queues.items()
            for place, request in enumerate(queue, start=1)
        ]
        for *_, request in sorted(ranked):
            yield request


@attrs.frozen
class _Place:
    rank: int
    client: str


@attrs.frozen
class Charge:
    """The charge for a request that holds the model."""

    lane: _Lane
    account: Account
    cost: float
    granted_s: float


class Line:
    """The requests that wait for one model, in the order of their grants.

    Attributes:
        charges: The requests that were granted and hold the model, with their charges.
        usual_s: How long a request usually holds the model, in seconds.
    """

    __slots__ = ("_counts", "_lanes", "_order", "_places", "charges", "usual_s")

    def __init__(self) -> None:
        self._lanes = tuple(_Lane() for _ in CLASSES)
        self._places: dict[int, _Place] = {}
        self._counts: dict[str, int] = {}
        self.charges: dict[int, Charge] = {}
        self._order: dict[int, int] | None = None  # places by request, once computed
        self.usual_s = _FIRST_COST_S

    @property
    def rank(self) -> int:
        """Rank of the highest class that waits; the lowest one if none does."""
        for rank, lane in enumerate(self._lanes):
            if lane.queues:
                return rank
        return len(self._lanes) - 1

    def clients(self, rank: int) -> dict[str, float]:
        """Return the clients with waiting requests of a class, with their weights."""
        lane = self._lanes[rank]
        return {client: lane.accounts.weight(client) for client in lane.queues}

    def add(self, request: int, client: str, rank: int, weight: float, now_s: float) -> bool:
        """Let *request* wait; return whether no other one of this client and class does."""
        lane = self._lanes[rank]
        if not lane.queues:
            lane.since_s = now_s
        is_first = client not in lane.queues
        if is_first:
            lane.queues[client] = {}
            lane.accounts.join(client, weight)
        lane.queues[client][request] = None
        self._places[request] = _Place(rank, client)
        self._counts[client] = self._counts.get(client, 0) + 1
        self._order = None
        return is_first

    def discard(self, request: int) -> None:
        """Remove *request*, if it waits."""
        place = self._places.get(request)
        if place is None:
            return
        lane = self._lanes[place.rank]
        queue = lane.queues[place.client]
        del queue[request]
        if not queue:
            del lane.queues[place.client]
            lane.accounts.leave(place.client)
        self._forget(request)

    def take(self, count: float, now_s: float, max_yield_s: float) -> list[int]:
        """Remove and return the requests to grant now, in order; charge their clients.

        Args:
            count: How many there may be; perhaps infinite.
            now_s: Clock time, in seconds.
            max_yield_s: See `fairness`.
        """
        taken: list[int] = []
        cost = self.usual_s
        while self._places and len(taken) < count:
            lane, is_due = self._next_lane(now_s, max_yield_s)
            most = 1 if is_due else count - len(taken)
            for lower in self._lanes[self._lanes.index(lane) :]:
                lower.yielded = True
            lane.since_s, lane.yielded = now_s, False
            for request, account in lane.take(cost, most):
                self._forget(request)
                self.charges[request] = Charge(lane, account, cost, now_s)
                taken.append(request)
        return taken

    def settle(self, request: int, now_s: float) -> None:
        """Correct the charge for *request*, which holds the model no more."""
        charge = self.charges.pop(request, None)
        if charge is None:
            return  # it was admitted while none waited
        held_s = min(MOST_COST_S, max(LEAST_COST_S, now_s - charge.granted_s))
        cost = max(held_s, _LEAST_SHARE * charge.cost)
        charge.lane.accounts.correct(charge.account, cost - charge.cost)
        self.usual_s += _NEWEST * (held_s - self.usual_s)

    def place(self, request: int) -> int:
        """Return how many requests that wait are granted before *request*, which waits."""
        if self._order is None:
            ranked = (each for lane in self._lanes for each in lane.in_order(self.usual_s))
            self._order = {each: place for place, each in enumerate(ranked)}
        return self._order[request]

    def behind(self, request: int) -> Behind | None:
        """Return what is granted before *request*; None if that are those of its client only."""
        mine = self._places[request]
        if self.rank < mine.rank:
            return Behind.CLASS
        own = next(
            place
            for place, each in enumerate(self._lanes[mine.rank].queues[mine.client])
            if each == request
        )
        return Behind.CLIENT if self.place(request) > own else None

    def crowd(self, client: str) -> int | None:
        """Return the request that leaves a full queue for one of *client*; None if none does.

        It is the latest one of the client with the most requests, if those are more than *client*
        would have.
        """
        largest = max(self._counts, key=self._counts.__getitem__, default=None)
        if largest is None or self._counts[largest] <= self._counts.get(client, 0) + 1:
            return None
        lanes = (lane for lane in reversed(self._lanes) if largest in lane.queues)
        return next(reversed(next(lanes).queues[largest]))

    def _next_lane(self, now_s: float, max_yield_s: float) -> tuple[_Lane, bool]:
        """Return the lane of the next grant, and whether it goes before a higher class."""
        waiting = [lane for lane in self._lanes if lane.queues]
        due = [lane for lane in waiting[1:] if lane.yielded and lane.since_s + max_yield_s <= now_s]
        return (min(due, key=lambda lane: lane.since_s), True) if due else (waiting[0], False)

    def _forget(self, request: int) -> None:
        client = self._places.pop(request).client
        if self._counts[client] == 1:
            del self._counts[client]
        else:
            self._counts[client] -= 1
        self._order = None
