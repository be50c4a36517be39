"""Token figures from the two ends of an answer, without parsing it. Pure.

The last event of a stream, or the end of a JSON body, has an object with the figures:
``usage``, or llama.cpp's ``timings``. Some answers have it at their beginning: long lists of
embeddings or scores, and the first event of Anthropic's streams, which has the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .dialect import ApiDialect, UsageFields
from .registry import APIS

#: Length of the end of an answer that is kept for this, in bytes.
TAIL_BYTES: Final = 4096

#: Length of its beginning that is kept, in bytes; no more than of its end.
HEAD_BYTES: Final = 1024

#: A number is complete if something follows it; the beginning may be cut anywhere.
_FIGURE: Final = rb'"(?:%b)"\s*:\s*(\d{1,15})(?=[^0-9])'

#: The figures of the prompt and the completion at the beginning of their object, one after the
#: other or with another number between them, in either order: as all known servers have them.
_PAIR: Final = (
    rb"%(object)b\s*:\s*\{\s*(?:"
    rb'"(?:%(prompt)b)"\s*:\s*(\d{1,15})\s*,\s*(?:"\w+"\s*:\s*\d+\s*,\s*)??'
    rb'"(?:%(completion)b)"\s*:\s*(\d{1,15})|'
    rb'"(?:%(completion)b)"\s*:\s*(\d{1,15})\s*,\s*(?:"\w+"\s*:\s*\d+\s*,\s*)??'
    rb'"(?:%(prompt)b)"\s*:\s*(\d{1,15}))(?=[^0-9])'
)

#: The beginning of a JSON object, perhaps behind the size of a chunk.
_WHOLE: Final = re.compile(rb"(?:[0-9A-Fa-f]+[^\r\n]*\r\n)?\s*\{")


class Usage(NamedTuple):
    """Tokens of one exchange; None where the backend did not report them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


_NO_FIGURES: Final = Usage()


class UsageReader:
    """Finds token figures in the ends of an answer of one API.

    Args:
        places: Places of the figures; an earlier one is preferred.
    """

    __slots__ = ("_figures", "_objects", "_pair", "_places")

    def __init__(self, places: Sequence[UsageFields]) -> None:
        self._places = places
        first, *others = dict.fromkeys(place.object for place in places)
        self._objects = tuple(b'"%b"' % name for name in (first, *others))
        best = [place for place in places if place.object == first]
        self._pair: re.Pattern[bytes] | None = None
        if not any(place.prompt_cached for place in best):
            parts = {
                b"object": self._objects[0],
                b"prompt": _any_of(place.prompt for place in best),
                b"completion": _any_of(place.completion for place in best),
            }
            self._pair = re.compile(_PAIR % parts)
        names = {n for p in places for n in (p.prompt, p.completion, *p.prompt_cached)}
        self._figures = re.compile(rb'"(%b)"\s*:\s*(\d{1,15})(?=[^0-9])' % _any_of(sorted(names)))

    def read(self, tail: bytes, head: bytes = b"") -> Usage:
        """Return the figures in the ends of an answer.

        In *tail* the last object counts, and in *head* the first one, for what *tail* has not.
        The first event of a stream counts for the prompt only.

        Args:
            tail: The last `TAIL_BYTES` of the answer.
            head: The first `HEAD_BYTES` of the answer.
        """
        # The text of the model precedes the figures: most of the tail, and not searched.
        # A quotation mark inside a JSON string is escaped, so no text of the model is found.
        at = tail.rfind(self._objects[0])
        if at >= 0 and self._pair is not None:
            # Nearly always both are found here, at a third of the price.
            pair = self._pair.match(tail, at)
            if pair is not None:
                prompt, completion, first_completion, last_prompt = pair.groups()
                if prompt is not None:
                    return Usage(int(prompt), int(completion))
                return Usage(int(last_prompt), int(first_completion))
        elif at < 0:
            at = max((0, *map(tail.rfind, self._objects[1:])))
        usage = self._figures_from(tail, at)
        if not head or None not in usage:
            return usage
        begin = next((at for name in self._objects if (at := head.find(name)) >= 0), None)
        if begin is None:
            return usage
        first = self._figures_from(head, begin)
        is_whole = _WHOLE.match(head) is not None
        return Usage(
            first.prompt_tokens if usage.prompt_tokens is None else usage.prompt_tokens,
            first.completion_tokens
            if usage.completion_tokens is None and is_whole
            else usage.completion_tokens,
        )

    def _figures_from(self, data: bytes, at: int) -> Usage:
        pairs = self._figures.findall(data, at)
        if not pairs:
            return _NO_FIGURES
        found = {name: int(figure) for name, figure in pairs}
        prompts = (_prompt_tokens(place, found) for place in self._places)
        completions = (found.get(place.completion) for place in self._places)
        return Usage(
            next((tokens for tokens in prompts if tokens is not None), None),
            next((tokens for tokens in completions if tokens is not None), None),
        )


def usage_places(api: ApiDialect, dialects: Iterable[ApiDialect]) -> tuple[UsageFields, ...]:
    """Return the places of token figures in an answer of *api*, the preferred ones first.

    A backend may report llama.cpp's figures, or OpenAI's, in an answer of any API. Where two
    APIs give one name different meanings, that of *api* counts: ``input_tokens`` includes
    cached tokens in OpenAI's responses, and leaves them out in Anthropic's messages.

    Args:
        api: The API.
        dialects: All APIs, in the order of preference.
    """
    places: dict[tuple[bytes, bytes], UsageFields] = {}
    for place in (*api.usage, *(place for other in dialects for place in other.usage)):
        places.setdefault((place.object, place.prompt), place)
    return tuple(places.values())


def _prompt_tokens(place: UsageFields, found: dict[bytes, int]) -> int | None:
    if place.prompt not in found:
        return None
    return found[place.prompt] + sum(found.get(name, 0) for name in place.prompt_cached)


def _any_of(names: Iterable[bytes]) -> bytes:
    return b"|".join(map(re.escape, names))


_READERS: Final = {api: UsageReader(usage_places(api, APIS.dialects)) for api in APIS.dialects}


def usage_of(path: str, tail: bytes, head: bytes = b"") -> Usage:
    """Return the token figures of the answer to a request for *path*, decoded.

    Args:
        path: The path, also with the name of a model before it.
        tail: The last `TAIL_BYTES` of the answer.
        head: The first `HEAD_BYTES` of the answer.
    """
    return _READERS[APIS.api_of(path)].read(tail, head)
