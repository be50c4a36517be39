"""Prompt caches that outlive their process: which slots, which files, which proof."""

from __future__ import annotations

import struct

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.names import ModelId
from llama_router.core.memory.learned import LaunchKey
from llama_router.core.prompt_cache import state_file
from llama_router.core.prompt_cache.command import reason_against
from llama_router.core.prompt_cache.kept import MISSES, KeptSlot, KeptSlots, decode, encode
from llama_router.core.prompt_cache.slot_list import Slot, parse_slots, slots_to_save
from llama_router.core.prompt_cache.trial import Trial, cached_tokens

A, B = ModelId("a"), ModelId("b")
ONE, TWO = LaunchKey("one"), LaunchKey("two")

#: What the embedded server answers to GET /slots after one request.
LISTED = b"""[
{"id":0,"n_ctx":8192,"speculative":false,"is_processing":false},
{"id":1,"n_ctx":8192,"is_processing":true,"id_task":30,"n_prompt_tokens":9000},
{"id":2,"n_ctx":8192,"is_processing":false,"id_task":13,"n_prompt_tokens":0},
{"id":3,"n_ctx":8192,"is_processing":false,"id_task":2,"n_prompt_tokens":1522}]"""


def kept(number: int, model: ModelId = A, launch: LaunchKey = ONE, size: int = 10) -> KeptSlot:
    """Return the file of a conversation that was used at the time *number*."""
    return KeptSlot(
        model=model,
        file=f"{model}{number}.slot",
        launch=launch,
        n_tokens=1000,
        size_bytes=size,
        mtime_ns=number,
        used_s=float(number),
    )


def all_of(*slots: KeptSlot) -> KeptSlots:
    """Return *slots*, taken in one after the other."""
    known = KeptSlots()
    for slot in slots:
        known = known.with_slot(slot)
    return known


def tokens(*numbers: int) -> bytes:
    """Return tokens as a file has them."""
    return struct.pack(f"<{len(numbers)}i", *numbers)


# -- slots --------------------------------------------------------------------------------


def test_slots_with_a_conversation_are_saved() -> None:
    """Not those that were not used since the load, that serve a request, or are empty."""
    saved = slots_to_save(parse_slots(LISTED), min_tokens=512, saved={})
    assert [slot.id for slot in saved] == [3]


def test_the_last_used_slot_is_saved_first() -> None:
    """The time may not be enough for all of them."""
    slots = [Slot(id=n, id_task=task) for n, task in enumerate((4, 9, 6))]
    assert [slot.id for slot in slots_to_save(slots, min_tokens=1, saved={})] == [
        1,
        2,
        0,
    ]


def test_a_saved_slot_is_saved_again_only_after_another_request() -> None:
    """Slots are saved while others drain, and what is left at the stop."""
    slots = [Slot(id=0, id_task=4), Slot(id=1, id_task=9)]
    saved = slots_to_save(slots, min_tokens=1, saved={0: 4, 1: 8})
    assert [slot.id for slot in saved] == [1]


def test_a_slot_of_unknown_length_is_saved() -> None:
    """Old servers do not list it; the answer to the save says it."""
    assert slots_to_save([Slot(id=0, id_task=0)], min_tokens=512, saved={})
    assert not slots_to_save([Slot(id=0, id_task=-1)], min_tokens=512, saved={})


@pytest.mark.parametrize("body", [b"", b"{}", b"[{}]", b'[{"id":"x"}]', b"[" * 100_000, b"\xff"])
def test_what_is_no_list_of_slots_is_refused(body: bytes) -> None:
    """Whatever a server answers, it is a value or a ValueError."""
    with pytest.raises(ValueError, match=r"."):
        parse_slots(body)


# -- files --------------------------------------------------------------------------------


def test_the_beginning_of_a_file_says_how_long_its_prompt_is() -> None:
    """As llama.cpp writes it; anything else is no such file."""
    head = b"qsgg" + struct.pack("<II", 4, 1526)
    assert state_file.prompt_bytes(head) == 1526 * 4
    for other in (b"", head[:-1], b"GGUF" + head[4:], b"qsgg" + struct.pack("<II", 4, 2**31)):
        assert state_file.prompt_bytes(other) is None


def test_packed_and_plain_prompts_have_the_same_tokens() -> None:
    """Builds before version 4 of the format write the tokens as they are."""
    packed = struct.pack("<iiI", -1, 1, 3) + tokens(7, 8, 9) + tokens(2, 0)
    assert state_file.tokens_in(packed) == tokens(7, 8, 9)
    assert state_file.tokens_in(tokens(7, 8, 9)) == tokens(7, 8, 9)
    cut = struct.pack("<iiI", -1, 1, 900) + tokens(7)
    assert state_file.tokens_in(cut) == cut


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_common_tokens_are_the_common_beginning(one: list[int], other: list[int]) -> None:
    """One look finds what a walk finds."""
    walked = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        walked += 1
    is_same = len(one) > 0 and walked >= state_file.SAME_PART * len(one)
    assert state_file.continues(tokens(*one), tokens(*other)) is is_same


def test_a_conversation_goes_on_if_nearly_all_of_it_is_still_there() -> None:
    """Clients change the end of what they sent: a thought that is left out, an edited question."""
    before = tokens(*range(100))
    assert state_file.continues(before, tokens(*range(95), 7, 7, 7))
    assert not state_file.continues(before, tokens(*range(80), *[7] * 100))
    assert not state_file.continues(b"", before)


# -- the index ----------------------------------------------------------------------------


def test_the_last_used_conversations_are_first() -> None:
    """They are the ones to restore if there are fewer slots."""
    known = all_of(kept(2), kept(9, B), kept(3), kept(1))
    assert [slot.mtime_ns for slot in known.of(A)] == [3, 2, 1]


def test_another_launch_makes_files_stale() -> None:
    """Another build, other options, or another model file: the state means something else."""
    known = all_of(kept(1), kept(2, launch=TWO), kept(3, B, TWO))
    assert known.stale(A, ONE) == (kept(2, launch=TWO),)


def test_what_is_kept_of_removed_models_is_found() -> None:
    """It is deleted with the model."""
    assert all_of(kept(1), kept(2, B)).removed({A}) == (kept(2, B),)


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.integers(0, 100)), max_size=12),
    st.integers(0, 300),
)
def test_the_oldest_ones_leave_and_no_more_than_must(
    made: list[tuple[ModelId, int]], limit: int
) -> None:
    """What is left fits, what left is older than what stayed, and one fewer would not fit."""
    known = all_of(*(kept(n, model, size=size) for n, (model, size) in enumerate(made)))
    leaving = known.evicted(limit)
    rest = known.without(leaving)
    assert sum(slot.size_bytes for slot in rest.slots) <= limit
    assert known.slots == leaving + rest.slots
    if leaving:
        fewer = known.without(leaving[:-1])
        assert sum(slot.size_bytes for slot in fewer.slots) > limit


@given(st.lists(st.tuples(st.sampled_from("hmo"), st.sampled_from([ONE, TWO])), max_size=12))
def test_the_index_survives_its_file(steps: list[tuple[str, LaunchKey]]) -> None:
    """What is written is read again, whatever is known."""
    known = all_of(kept(1), kept(2, B, TWO))
    for step, launch in steps:
        if step == "o":
            known = known.with_off(launch, "it refuses")
        else:
            known = known.with_hit(launch) if step == "h" else known.with_miss(launch)
    assert decode(encode(known)) == known


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"format":2,"slots":[],"works":[],"misses":{},"off":{}}',
        encode(KeptSlots(slots=(attrs.evolve(kept(1), file="../x"),))),
        encode(KeptSlots(slots=(attrs.evolve(kept(1), file=".."),))),
        b"{" * 100_000,
    ],
    ids=["empty", "list", "format", "path", "parent", "deep"],
)
def test_an_unusable_index_is_refused(data: bytes) -> None:
    """And so is one that names a file elsewhere: what it names is removed one day."""
    with pytest.raises(ValueError, match=r"."):
        decode(data)


# -- the proof ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (b'"timings":{"cache_n":1910,"prompt_n":5}}', 1910),
        (b'"prompt_tokens_details":{"cached_tokens":12}},"timings":{"cache_n":13,"x":1}}', 13),
        (b'"usage":{"cache_read_input_tokens":7,"input_tokens":3}}', 7),
        (b'"usage":{"prompt_tokens":7}}', None),
        (b'"cache_n":19', None),  # cut: perhaps more digits followed
        (b'{"text":"\\"cache_n\\": 5,"}', None),
    ],
)
def test_an_answer_says_what_came_from_the_cache(tail: bytes, expected: int | None) -> None:
    """In the words of its API; not in the text of the model."""
    assert cached_tokens(tail) == expected


def test_a_hit_needs_half_of_a_restored_conversation() -> None:
    """The template of a chat is in every cache."""
    for first, hit in ((14, False), (499, False), (500, True), (2000, True)):
        trial = Trial([1000, 4000])
        trial.first = first
        assert trial.has_hit is hit


def test_a_miss_needs_the_same_conversation() -> None:
    """A client may have begun another one, or two of them shared the load."""
    trial = Trial([1000])
    assert not trial.has_missed(used_slots=1, continued=True)  # no answer yet
    trial.first = 14
    assert trial.has_missed(used_slots=1, continued=True)
    assert not trial.has_missed(used_slots=1, continued=False)
    assert not trial.has_missed(used_slots=2, continued=True)


def test_a_launch_that_worked_once_is_not_given_up() -> None:
    """A miss after that has another cause: clients send other beginnings."""
    known = KeptSlots()
    for _ in range(MISSES):
        assert not known.has_failed(ONE)
        known = known.with_miss(ONE)
    assert known.has_failed(ONE)
    assert not known.with_hit(ONE).with_miss(ONE).has_failed(ONE)
    assert not known.has_failed(TWO)


# -- commands -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "env", "part"),
    [
        (("vllm", "serve"), {}, "no llama-server"),
        (("llama-server", "--slot-save-path", "/x"), {}, "of its own"),
        (("llama-server", "--slot-save-path=/x"), {}, "of its own"),
        (("llama-server", "--slot_save_path", "/x"), {}, "of its own"),
        (("llama-server",), {"LLAMA_ARG_SLOT_SAVE_PATH": "/x"}, "of its own"),
        (("llama-server", "--lora", "x.gguf"), {}, "LoRA"),
        (("llama-server", "--embeddings"), {}, "no text"),
        (("llama-server", "--no-cache-prompt"), {}, "--no-cache-prompt"),
    ],
)
def test_commands_that_keep_nothing_say_why(
    words: tuple[str, ...], env: dict[str, str], part: str
) -> None:
    """One clause, for the log."""
    assert part in (reason_against(words, env) or "")


def test_a_llama_server_can_keep_its_cache() -> None:
    """With whatever path."""
    assert reason_against(("/opt/llama-server", "-m", "x"), {}) is None
