"""Token figures from the end of an answer, without parsing it. Pure.

The last SSE event, or the tail of a JSON body, carries ``usage`` (OpenAI) and
often ``timings`` (llama.cpp). Both lie within the last few KiB.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: How much of the end of an answer is kept for this, in bytes.
TAIL_BYTES: Final = 4096

_FIGURES = re.compile(
    rb'"(prompt_tokens|completion_tokens|input_tokens|output_tokens|cache_n|prompt_n|predicted_n)"'
    rb"\s*:\s*(\d{1,15})"
)
_PROMPT = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d{1,15})')
_COMPLETION = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d{1,15})')


class Usage(NamedTuple):
    """Tokens of one exchange; None where the backend did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def usage_of(tail: bytes) -> Usage:
    """Return the figures in *tail*, the last `TAIL_BYTES` of an answer.

    ``usage`` counts before llama.cpp's ``timings``, in which the prompt is
    ``cache_n`` tokens from the cache and ``prompt_n`` new ones. The last ``usage`` counts.
    """
    # What precedes the figures is text of the model: most of the tail, and not looked at.
    # A quotation mark inside of a JSON text is escaped, so this finds no mention in one.
    at = tail.rfind(b'"usage"')
    if at >= 0:
        # Nearly always both are there, and two searches cost a third of what the rest does.
        prompt, completion = _PROMPT.search(tail, at), _COMPLETION.search(tail, at)
        if prompt is not None and completion is not None:
            return Usage(int(prompt[1]), int(completion[1]))
    else:
        at = tail.rfind(b'"timings"')
    found = {name: int(figure) for name, figure in _FIGURES.findall(tail, max(at, 0))}
    prompt_tokens = found.get(b"prompt_tokens", found.get(b"input_tokens"))
    if prompt_tokens is None and b"prompt_n" in found:
        prompt_tokens = found.get(b"cache_n", 0) + found[b"prompt_n"]
    completion_tokens = found.get(b"completion_tokens", found.get(b"output_tokens"))
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=found.get(b"predicted_n")
        if completion_tokens is None
        else completion_tokens,
    )
