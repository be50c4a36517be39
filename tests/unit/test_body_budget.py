"""The memory that the bodies of all requests may take together."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.requests.body_budget import BodyBudget, BodyShare


class Bodies:
    """Bodies of some sizes, each of which takes its memory bit by bit and is then kept for a while.

    Attributes:
        budget: What they share.
        woken: Those that were told to try again.
        waiting: Those that were refused, and not told so since.
        largest_bytes: The size of the largest one.
    """

    def __init__(self, limit_bytes: int, sizes: list[int], step_bytes: int) -> None:
        self.budget = BodyBudget(limit_bytes)
        self.sizes = dict(enumerate(sizes))
        self.shares = {i: self.budget.share(partial(self._wake, i)) for i in self.sizes}
        self.step_bytes = step_bytes
        self.waiting: set[int] = set()
        self.largest_bytes = max(sizes)

    def _wake(self, body: int) -> None:
        self.waiting.discard(body)

    @property
    def growing(self) -> list[int]:
        return [
            i for i, share in self.shares.items()
            if share.held_bytes < self.sizes[i] and i not in self.waiting
        ]  # fmt: skip

    @property
    def complete(self) -> list[int]:
        return [i for i, share in self.shares.items() if share.held_bytes == self.sizes[i]]

    def grow(self, body: int) -> None:
        share = self.shares[body]
        if not share.take(min(self.step_bytes, self.sizes[body] - share.held_bytes)):
            self.waiting.add(body)

    def end(self, body: int) -> None:
        self.waiting.discard(body)
        self.shares.pop(body).give_back()

    def check(self) -> None:
        held = sum(share.held_bytes for share in self.shares.values())
        assert self.budget.held_bytes == held
        assert held <= self.budget.limit_bytes + self.largest_bytes


@given(
    st.integers(1, 30),
    st.lists(st.integers(1, 20), min_size=1, max_size=12),
    st.integers(1, 8),
    st.data(),
)
def test_all_bodies_get_through(limit: int, sizes: list[int], step: int, data) -> None:
    """In any order, also those that are all half here; and never more is held than promised."""
    bodies = Bodies(limit, sizes, step)
    while bodies.shares:
        growing, complete = bodies.growing, bodies.complete
        assert growing or complete, "they wait for each other"
        choice = data.draw(st.sampled_from([*growing, *complete]))
        (bodies.grow if choice in growing else bodies.end)(choice)
        bodies.check()
    assert bodies.budget.held_bytes == 0


@given(
    st.integers(1, 30),
    st.lists(st.integers(1, 20), min_size=1, max_size=12),
    st.integers(1, 8),
    st.data(),
)
def test_those_that_leave_hold_nobody_up(limit: int, sizes: list[int], step: int, data) -> None:
    """Whether they were waiting, were told to try again, or were halfway."""
    bodies = Bodies(limit, sizes, step)
    while bodies.shares:
        growing, complete = bodies.growing, bodies.complete
        assert growing or complete, "they wait for each other"
        leaving = data.draw(st.sampled_from([None, None, *bodies.shares]))
        if leaving is not None:
            bodies.end(leaving)
        else:
            choice = data.draw(st.sampled_from([*growing, *complete]))
            (bodies.grow if choice in growing else bodies.end)(choice)
        bodies.check()
    assert bodies.budget.held_bytes == 0


def share(budget: BodyBudget, woken: list[BodyShare]) -> BodyShare:
    """Return a share that says in *woken* when it is woken."""
    made = budget.share(lambda: woken.append(made))
    return made


def test_one_body_passes_that_is_over_the_budget() -> None:
    """When it is alone; the next one waits until it has gone."""
    budget, woken = BodyBudget(10), list[BodyShare]()
    first, second = share(budget, woken), share(budget, woken)
    assert first.take(8)
    assert first.take(8)
    assert not second.take(1)
    first.give_back()
    assert woken == [second]
    assert second.take(1)


def test_the_oldest_body_is_the_first_to_get_room() -> None:
    """And a new one does not overtake those that wait."""
    budget, woken = BodyBudget(10), list[BodyShare]()
    a, b, c, d = (share(budget, woken) for _ in range(4))
    assert a.take(11)
    assert not c.take(1)
    assert not b.take(1)
    a.give_back()
    assert woken == [b]
    assert not d.take(1)
    assert b.take(1)
    assert woken == [b, c]
    assert c.take(1)
    assert woken == [b, c, d]


def test_a_lower_limit_counts_at_once() -> None:
    """Nothing is taken away, but nothing more is given either beyond one body."""
    budget = BodyBudget(10)
    a, b, c = (share(budget, []) for _ in range(3))
    assert a.take(9)
    budget.limit_bytes = 5
    assert b.take(1)
    assert not c.take(1)
    b.give_back()
    assert c.take(1)
    a.give_back()
    c.give_back()
    assert budget.held_bytes == 0
