"""Notices that clients send back as thoughts of the model are taken out of requests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.apis.notices import MARK, marked
from llama_router.core.requests.body_overrides import (
    MAX_NOTICES,
    cut_out,
    notices_in,
    without_notices,
)
from llama_router.core.requests.json_scan import SEARCHED_BYTES

NOTICES = marked("Unloading model 'a'...") + marked("Loading model 'b \"\\x\"'...")


def chat(**message: Any) -> dict[str, Any]:
    return {"model": "b", "messages": [{"role": "assistant", "content": "hi", **message}]}


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_notices_are_taken_out_of_thoughts(field: str, ascii_only) -> None:
    """The model's own thoughts stay, in whatever way the client writes JSON."""
    body = json.dumps(chat(**{field: NOTICES + "so\nthen"}), ensure_ascii=ascii_only).encode()
    assert json.loads(without_notices(body)) == chat(**{field: "so\nthen"})


def test_a_block_of_thoughts_in_the_content() -> None:
    """Some clients put thoughts there, between tags."""
    body = json.dumps(chat(content=f"<think>{NOTICES}</think>hi")).encode()
    assert json.loads(without_notices(body)) == chat(content="<think></think>hi")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(chat(reasoning_content="Loading model 'b'...\n")).encode(),  # a model's own
        json.dumps(chat(content="\\u2063one\\u2063")).encode(),  # text about the mark
        json.dumps(chat(content=f"{MARK}half")).encode(),
        json.dumps(chat(content=f"{MARK}a", name=f"b{MARK}")).encode(),  # not in one string
        b"--x\r\n" + NOTICES.encode(),  # no JSON
        b"",
        b"{",
    ],
)
def test_everything_else_stays_as_it_was(body: bytes) -> None:
    """Only a whole notice with both marks is recognised."""
    assert without_notices(body) == body


def test_a_trimmed_notice_is_recognised() -> None:
    """Clients cut white space off the end of thoughts."""
    body = json.dumps(chat(thinking=NOTICES.strip())).encode()
    assert json.loads(without_notices(body)) == chat(thinking="")


def test_a_large_body_takes_many_steps() -> None:
    """Notices anywhere in it are found, also where two steps meet."""
    picture = "A" * (3 * SEARCHED_BYTES)
    for shift in range(6):
        gap = picture[: SEARCHED_BYTES - 60 - shift]
        body = bytearray(json.dumps(chat(content=gap, thinking=NOTICES, image=picture)).encode())
        found = list(notices_in(body))
        assert None in found
        spans = [span for span in found if span is not None]
        assert json.loads(cut_out(body, spans)) == chat(content=gap, thinking="", image=picture)


def test_the_work_has_a_bound() -> None:
    """Further marks than any history has stay."""
    body = json.dumps([MARK] * (4 * MAX_NOTICES)).encode()
    assert len(list(notices_in(body))) < 2 * MAX_NOTICES


@given(st.lists(st.one_of(st.text(), st.just(NOTICES), st.just(MARK))))
def test_the_result_is_always_json(texts: list[str]) -> None:
    """Whatever stands around notices."""
    for ascii_only in (True, False):
        body = json.dumps(texts, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        assert len(json.loads(without_notices(body))) == len(texts)
