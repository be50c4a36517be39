"""Slots of a backend: how many requests it serves at once, by its own answer or its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from ..core.memory.flags import read_flags
from ..errors.base import RouterError
from .backend import Backend
from .client import BackendExchange, Timeouts

#: Seconds for the question. A backend that is ready answers within a millisecond.
ASK_S: Final = 1.0

#: Longest answer that is read: the template of a chat is in it, too.
_MAX_BYTES: Final = 4 * 1024 * 1024

#: Options of other programs: those of vLLM and SGLang.
_OPTIONS: Final = frozenset(("--max-num-seqs", "--max-running-requests"))

#: No number of slots has more digits.
_MAX_DIGITS: Final = 6


class _Props(msgspec.Struct):
    total_slots: int | None = None


async def find_slots(
    backend: Backend, argv: Sequence[str], env: Mapping[str, str], *, asks: bool
) -> int | None:
    """Return how many requests *backend*, which is ready, serves at once; None if unknown.

    Args:
        backend: The backend.
        argv: Its command line.
        env: Its environment.
        asks: It is a llama-server, which says it in ``/props``. One with a key of its own does
            not; then its command line counts.
    """
    return (await _ask(backend) if asks else None) or slots_of_command(argv, env)


def slots_of_command(argv: Sequence[str], env: Mapping[str, str]) -> int | None:
    """Return the slots that a command line asks for; None if it says nothing."""
    found = read_flags(argv, env).n_parallel
    words = [part for word in argv for part in word.split("=", 1)]
    for option, text in pairwise(words):
        if option in _OPTIONS and text.isdecimal() and len(text) <= _MAX_DIGITS:
            found = int(text)
    return found if found is not None and found > 0 else None


async def _ask(backend: Backend) -> int | None:
    limits = Timeouts(connection_s=ASK_S, silence_s=ASK_S, total_s=ASK_S)
    try:
        with BackendExchange(backend, limits) as exchange:
            await exchange.request("GET", "/props")
            props = msgspec.json.decode(await exchange.receive_all(_MAX_BYTES), type=_Props)
    except (RouterError, msgspec.DecodeError):
        return None
    slots = props.total_slots
    return slots if slots is not None and slots > 0 else None
