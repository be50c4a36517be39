"""The proof that a restored prompt cache is used: what the first answer says about it. Pure.

A restore may report success and have no effect (llama.cpp 26676). llama-server says in each answer
how much of the prompt came from its cache; the first answer after a restore is compared with what
was restored. A client may begin with another conversation, so a miss proves something only if the
slots show, when they are saved again, that it was the restored one that went on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: What an answer says about its prompt: tokens from the cache, in the ways of llama.cpp, OpenAI
#: and Anthropic. The last one in the answer counts.
_CACHED: Final = re.compile(
    rb'"(?:cache_n|cached_tokens|cache_read_input_tokens)"\s*:\s*(\d{1,15})(?=[^0-9])'
)

#: The part of a restored conversation that has to come from the cache.
HIT_PART: Final = 0.5


def cached_tokens(tail: bytes) -> int | None:
    """Return how many tokens of its prompt an answer had from the cache; None if it does not say.

    Args:
        tail: The end of the answer.
    """
    found = _CACHED.findall(tail)
    return int(found[-1]) if found else None


class Trial:
    """One load with restored conversations, from the restore to the next save.

    Args:
        restored: Tokens of each restored conversation.

    Attributes:
        first: Tokens that the first answer had from the cache; None before one that says it.
    """

    def __init__(self, restored: Sequence[int]) -> None:
        self._restored = tuple(restored)
        self.first: int | None = None

    @property
    def waits(self) -> bool:
        """True until an answer told what came from the cache."""
        return bool(self._restored) and self.first is None

    @property
    def has_hit(self) -> bool:
        """True if the first answer used a restored conversation."""
        if self.first is None:
            return False
        return any(self.first >= HIT_PART * tokens for tokens in self._restored)

    def has_missed(self, *, used_slots: int, continued: bool) -> bool:
        """Return whether the first answer should have used a restored conversation, and did not.

        Args:
            used_slots: Slots that served a request since the load.
            continued: The content of such a slot goes on with a restored conversation. With one
                slot, the first answer belonged to it.
        """
        return self.first is not None and not self.has_hit and used_slots == 1 and continued
