"""The search in the documentation: the sections that fit some words best. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from .page import Section

_WORD: Final = re.compile(r"[a-z0-9_]+")


#: How much a word in a heading counts, in words of the text.
_HEADING_WEIGHT: Final = 5

#: Parameters of BM25: how soon repetition stops to count, and how much length counts.
#: Source: Robertson, Zaragoza, The Probabilistic Relevance Framework, 2009.
_SATURATION: Final = 1.2
_LENGTH_WEIGHT: Final = 0.75


def search(sections: Sequence[Section], query: str, limit: int) -> list[Section]:
    """Return at most *limit* sections that have a word of *query*, the best ones first."""
    wanted = set(_words(query))
    counted = [_count(section) for section in sections]
    if not wanted or not counted:
        return []
    usual = sum(counts.total() for counts in counted) / len(counted)
    having = Counter(word for counts in counted for word in wanted & counts.keys())

    def score(counts: Counter[str]) -> float:
        length = 1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * counts.total() / usual
        return sum(
            math.log(1 + (len(counted) - having[word] + 0.5) / (having[word] + 0.5))
            * (counts[word] * (_SATURATION + 1))
            / (counts[word] + _SATURATION * length)
            for word in wanted & counts.keys()
        )

    scores = [score(counts) for counts in counted]
    best = sorted(range(len(sections)), key=lambda index: -scores[index])
    return [sections[index] for index in best[:limit] if scores[index] > 0]


def _count(section: Section) -> Counter[str]:
    counts = Counter(_words(section.text))
    for word in _words(f"{section.heading} {section.topic}"):
        counts[word] += _HEADING_WEIGHT
    return counts


def _words(text: str) -> list[str]:
    """Return the words of *text*, without the s of a plural."""
    return [word.removesuffix("s") for word in _WORD.findall(text.lower())]
