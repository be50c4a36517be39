"""Which requests take a slot of their backend."""

from __future__ import annotations

import pytest

from llama_router.core.requests.slots import acts_on_slots, takes_slot


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"POST", b"/v1/chat/completions", True),
        (b"POST", b"/v1/messages?beta=true", True),
        (b"POST", b"/completion", True),
        (b"POST", b"/infill", True),
        (b"POST", b"/v1/embeddings", True),
        (b"POST", b"/v1/rerank", True),
        (b"POST", b"/slots/0?action=erase", True),
        (b"POST", b"/unknown", True),
        (b"PUT", b"/unknown", True),
        (b"POST", b"/tokenize", False),
        (b"POST", b"/detokenize", False),
        (b"POST", b"/apply-template", False),
        (b"POST", b"/v1/messages/count_tokens?beta=true", False),
        (b"POST", b"/v1/responses/input_tokens", False),
        (b"POST", b"/props", False),
        (b"POST", b"/lora-adapters", False),
        (b"GET", b"/lora-adapters", False),
        (b"GET", b"/metrics", False),
        (b"GET", b"/bundle.js", False),
        (b"HEAD", b"/", False),
        (b"DELETE", b"/v1/stream/x", False),
    ],
)
def test_slots(method: bytes, target: bytes, *, expected: bool) -> None:
    """Generations, embeddings and what is not known take one; looks, counts and settings do not."""
    assert takes_slot(method, target, upgrade=False) is expected


def test_a_websocket_takes_a_slot() -> None:
    """A whole conversation may go over it."""
    assert takes_slot(b"GET", b"/v1/realtime", upgrade=True)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        (b"POST", b"/slots/0", True),
        (b"POST", b"/slots", True),
        (b"PUT", b"//slots/0", True),
        (b"POST", b"/prefix/slots/0", True),
        (b"POST", b"/%73lots/0", True),
        (b"POST", b"/slots%2f0", True),
        (b"DELETE", b"/x/../slots/0", True),
        (b"GET", b"/slots", False),
        (b"POST", b"/v1/chat/completions", False),
        (b"POST", b"/timeslots/0", False),
        (b"POST", b"/%zz\xff", False),
    ],
)
def test_actions_on_slots(method: bytes, path: bytes, *, expected: bool) -> None:
    """However the path is written; to look at slots is no action."""
    assert acts_on_slots(method, path) is expected
