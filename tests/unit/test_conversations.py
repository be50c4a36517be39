"""Which backend keeps which conversation, and from where on a stream goes on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.names import ModelId
from llama_router.dispatch.conversations import (
    MAX_NAME,
    Conversations,
    Owner,
    Replay,
    WaitingStream,
    resumed_at,
)
from llama_router.errors.base import RouterError

A, B = Owner(ModelId("a"), 1), Owner(ModelId("b"), 2)


def test_the_latest_owner_counts() -> None:
    """A conversation that goes on with another model is kept by that one."""
    known = Conversations()
    known.note("c", A)
    known.note("c", B)
    assert known.owner("c") == B
    assert known.owner("d") is None


def test_the_oldest_are_forgotten() -> None:
    """One that is answered again is not old."""
    known = Conversations(max_known=2)
    known.note("c", A)
    known.note("d", A)
    known.note("c", A)
    known.note("e", B)
    assert (known.owner("c"), known.owner("d"), known.owner("e")) == (A, None, B)
    assert len(known) == 2


def test_a_name_without_end_is_not_remembered() -> None:
    """Nobody fills the memory with them."""
    known = Conversations()
    known.note("c" * (MAX_NAME + 1), A)
    assert not len(known)


def test_what_a_process_kept_is_gone_with_it() -> None:
    """Also if its model runs again."""
    known = Conversations()
    known.note("c", A)
    known.note("d", B)
    known.note("e", Owner(A.model, 9))
    known.forget_gone({A.model: 9})
    assert [known.owner(name) for name in "cde"] == [None, None, Owner(A.model, 9)]


def test_a_name_means_its_variants_per_model() -> None:
    """As llama-server has it; nothing that only begins alike."""
    known = Conversations()
    for name in ("c", "c::a", "c::b", "cc", "cc::a", "d::a"):
        known.note(name, A)
    assert known.looked_up(["c"]).keys() == {"c", "c::a", "c::b"}
    assert known.looked_up(["c::a", "x"]).keys() == {"c::a"}
    assert known.looked_up([]) == {}


@given(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=300))
def test_a_stream_goes_on_where_its_client_stopped(said: int, at: int, kept: bytes) -> None:
    """What comes is as long as what is missing, and ends with the same bytes."""
    whole = b"n" * said + kept
    from_bytes, filler = resumed_at(said, at)
    resumed = filler + kept[from_bytes:]
    assert len(resumed) == max(0, len(whole) - at)
    assert resumed.endswith(kept[max(0, at - said) :])


@given(st.integers(1, 300))
def test_what_fills_up_is_skipped_by_every_reader(missing: int) -> None:
    """It is a comment or empty lines, and ends an event that it may stand in."""
    _, filler = resumed_at(missing, 0)
    assert filler.endswith(b"\n")
    assert all(not line or line.startswith(b":") for line in filler.split(b"\n"))


@given(st.integers(0, 60), st.integers(0, 400), st.integers(1, 50), st.booleans())
def test_a_replay_bears_the_name_of_the_stream(
    said: int,
    at: int,
    size: int,
    named: bool,  # noqa: FBT001 -- Hypothesis fills by position
) -> None:
    """Its bytes count as they were sent, with the longer name in every event."""
    kept = b'data: {"model":"a","n":1}\n\n' * 8
    sent = kept.replace(b'"a"', b'"a:fast"') if named else kept
    replay = Replay(Owner(A.model, 1, said, "a:fast" if named else None), at)
    left = kept[replay.from_bytes :]
    pieces = [left[begin : begin + size] for begin in range(0, len(left), size)]
    resumed = replay.begin + b"".join(map(replay.feed, pieces))
    assert len(resumed) == max(0, said + len(sent) - at)
    assert resumed.endswith(sent[max(0, at - said) :])


def waiting(cuts: list[RouterError] | None = None) -> WaitingStream:
    """Return a stream that waits, and puts the errors that end it into *cuts*."""
    return WaitingStream(ModelId("a"), ([] if cuts is None else cuts).append, started_s=0)


class TestWaiting:
    """`WaitingStream`, and the conversations that wait."""

    def test_listeners_hear_of_all_that_is_said(self) -> None:
        """As long as they listen."""
        stream, heard = waiting(), list[bytes]()
        with stream.listen(lambda: heard.append(bytes(stream.said))):
            stream.say(b"one")
            stream.say(b"two")
            stream.end(b"!")
        stream.say(b"late")
        assert heard == [b"one", b"onetwo", b"onetwo!"]

    def test_it_ends_once(self) -> None:
        """The first end counts: with a backend, or with an error."""
        stream = waiting()
        stream.end()
        stream.end(b"error")
        assert (stream.over, stream.failed, bytes(stream.said)) == (True, False, b"")
        stream = waiting()
        stream.end(b"error")
        assert (stream.over, stream.failed, bytes(stream.said)) == (True, True, b"error")

    def test_a_conversation_has_one_stream(self) -> None:
        """A second request ends the first, whose end does not end the second."""
        conversations, cuts = Conversations(), list[RouterError]()
        first, second = waiting(cuts), waiting()
        conversations.begin_wait("c", first)
        conversations.begin_wait("c", first)  # again, for the next backend
        assert cuts == []
        conversations.begin_wait("c", second)
        assert [error.code for error in cuts] == ["request_cancelled"]
        conversations.end_wait("c", first)
        assert conversations.waiting("c") is second
        conversations.end_wait("c", second)
        assert conversations.waiting("c") is None

    def test_one_name_finds_the_streams_of_all_models(self) -> None:
        """As llama.cpp's UI names them."""
        conversations, stream = Conversations(), waiting()
        conversations.begin_wait("c::a", stream)
        assert conversations.waiting_of(["c"]) == {"c::a": stream}
        assert conversations.waiting_of(["d"]) == {}
