"""Token figures from the end of an answer, without parsing it. Pure.

The last SSE event, or the tail of a JSON body, carries ``usage`` (OpenAI) and
often ``timings`` (llama.cpp). Both lie within the last few KiB.
"""

from __future__ import annotations

import re
from typing import Final

import attrs

#: How much of the end of an answer is kept for this, in bytes.
TAIL_BYTES: Final = 4096

_FIGURES = re.compile(
    rb'"(prompt_tokens|completion_tokens|input_tokens|output_tokens|prompt_n|predicted_n)"\s*:\s*(\d{1,15})'
)


@attrs.frozen
class Usage:
    """Tokens of one exchange; None where the backend did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def usage_of(tail: bytes) -> Usage:
    """Return the figures in *tail*, the last `TAIL_BYTES` of an answer.

    ``usage`` counts before ``timings``, whose ``prompt_n`` leaves out what came
    from the prompt cache; the last mention of each counts.
    """
    found = {name: int(figure) for name, figure in _FIGURES.findall(tail)}

    def first(*names: bytes) -> int | None:
        return next((found[n] for n in names if n in found), None)

    return Usage(
        prompt_tokens=first(b"prompt_tokens", b"input_tokens", b"prompt_n"),
        completion_tokens=first(b"completion_tokens", b"output_tokens", b"predicted_n"),
    )
