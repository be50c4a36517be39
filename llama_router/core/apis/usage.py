"""Token figures from the end of an answer, without parsing it. Pure.

The last event of a stream, or the tail of a JSON body, has an object with the figures:
``usage``, or llama.cpp's ``timings``. Both lie within the last few KiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .dialect import UsageFields
from .registry import APIS

#: Length of the end of an answer that is kept for this, in bytes.
TAIL_BYTES: Final = 4096

_FIGURE: Final = rb'"(?:%b)"\s*:\s*(\d{1,15})'


class Usage(NamedTuple):
    """Tokens of one exchange; None where the backend did not report them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class UsageReader:
    """Finds token figures in the end of an answer of any API.

    Which API an answer has is not asked: a backend may report llama.cpp's figures in an
    answer of any other.

    Args:
        places: Places of the figures; an earlier one is preferred.
    """

    __slots__ = ("_completion", "_figures", "_objects", "_places", "_prompt")

    def __init__(self, places: Sequence[UsageFields]) -> None:
        self._places = places
        first, *others = dict.fromkeys(place.object for place in places)
        self._objects = tuple(b'"%b"' % name for name in (first, *others))
        best = [place for place in places if place.object == first]
        self._prompt = re.compile(_FIGURE % _any_of(place.prompt for place in best))
        self._completion = re.compile(_FIGURE % _any_of(place.completion for place in best))
        names = {n for p in places for n in (p.prompt, p.completion, p.prompt_cached) if n}
        self._figures = re.compile(rb'"(%b)"\s*:\s*(\d{1,15})' % _any_of(sorted(names)))

    def read(self, tail: bytes) -> Usage:
        """Return the figures in *tail*, the last `TAIL_BYTES` of an answer.

        The last object counts, and ``usage`` before ``timings``.
        """
        # The text of the model precedes the figures: most of the tail, and not searched.
        # A quotation mark inside a JSON string is escaped, so no text of the model is found.
        at = tail.rfind(self._objects[0])
        if at >= 0:
            # Nearly always both are found, and two searches cost a third of the rest.
            prompt, completion = self._prompt.search(tail, at), self._completion.search(tail, at)
            if prompt is not None and completion is not None:
                return Usage(int(prompt[1]), int(completion[1]))
        else:
            at = max((0, *map(tail.rfind, self._objects[1:])))
        found = {name: int(figure) for name, figure in self._figures.findall(tail, at)}
        prompts = (_prompt_tokens(place, found) for place in self._places)
        completions = (found.get(place.completion) for place in self._places)
        return Usage(
            next((tokens for tokens in prompts if tokens is not None), None),
            next((tokens for tokens in completions if tokens is not None), None),
        )


def _prompt_tokens(place: UsageFields, found: dict[bytes, int]) -> int | None:
    if place.prompt not in found:
        return None
    return found[place.prompt] + found.get(place.prompt_cached, 0)


def _any_of(names: Iterable[bytes]) -> bytes:
    return b"|".join(map(re.escape, names))


usage_of: Final = UsageReader(APIS.usage_fields).read
