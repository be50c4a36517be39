"""Slots of a llama-server, as ``GET /slots`` lists them, and which of them are worth a file. Pure.

Source: llama.cpp, tools/server at b11549. A slot that has not served a request since the load has
no ``id_task``; an older server says -1. ``n_prompt_tokens`` is what the slot holds, and 0 once its
content was moved to the server's own cache in host memory (``--cache-ram``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

#: Slots of which each is asked for, if the server does not list them. No server has more.
MOST_SLOTS: Final = 256


class Slot(msgspec.Struct, frozen=True):
    """One slot.

    Attributes:
        id: Its number.
        is_processing: It serves a request now.
        id_task: Number of its latest request; None or negative before the first one.
        n_prompt_tokens: Tokens in it; None if the server does not say.
    """

    id: int
    is_processing: bool = False
    id_task: int | None = None
    n_prompt_tokens: int | None = None

    @property
    def was_used(self) -> bool:
        """Whether it has served a request."""
        return self.id_task is not None and self.id_task >= 0


def parse_slots(data: bytes) -> list[Slot]:
    """Return the slots in the body of an answer to ``GET /slots``.

    Raises:
        ValueError: if it is no such list.
    """
    try:
        slots = msgspec.json.decode(data, type=list[Slot])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    return slots[:MOST_SLOTS]


def slots_to_save(
    slots: Iterable[Slot], *, min_tokens: int, saved: Mapping[int, int | None]
) -> list[Slot]:
    """Return the slots that are worth a file now, the last used one first.

    Args:
        slots: All slots of the server.
        min_tokens: A slot with fewer tokens is quicker to compute than to save.
        saved: The latest request of each slot when it was saved; those are not saved again.
    """
    worth = [
        slot
        for slot in slots
        if not slot.is_processing
        and slot.was_used
        and (slot.n_prompt_tokens is None or slot.n_prompt_tokens >= min_tokens)
        and saved.get(slot.id, -1) != slot.id_task
    ]
    return sorted(worth, key=lambda slot: slot.id_task or 0, reverse=True)
