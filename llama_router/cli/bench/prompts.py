"""Prompts of a wanted number of tokens, each one new, so that no cache has it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import attrs

#: Common words: most vocabularies have a token for each.
_TEXT: Final = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work number night
point home water room mother area money story fact month lot right study book eye job word
business issue side kind head house service friend father power hour game line end member
"""
_WORDS: Final = _TEXT.split()

#: Words of the two prompts by which tokens are counted.
SHORT: Final = 16
LONG: Final = 144


def prompt_of(words: int, choose: Callable[[Sequence[str]], str]) -> str:
    """Return a text of that many words, at least one, each of which *choose* takes from a list."""
    return " ".join(choose(_WORDS) for _ in range(max(1, words)))


@attrs.frozen
class Counting:
    """How many tokens a prompt has, by its words.

    Attributes:
        each: Tokens of a word.
        fixed: Tokens that every prompt has: those of the template.
    """

    each: float = 1.0
    fixed: float = 0.0

    @classmethod
    def of(cls, short: int | None, long: int | None) -> Counting:
        """Return it from the tokens of prompts with `SHORT` and `LONG` words, if they are known."""
        if short is None or long is None or long <= short:
            return cls()
        each = (long - short) / (LONG - SHORT)
        return cls(each, max(0.0, short - each * SHORT))

    def words(self, tokens: int) -> int:
        """Return the number of words of a prompt with *tokens* tokens."""
        return max(1, round((tokens - self.fixed) / self.each))
