"""A wait for the first of two events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ...timeouts import first_of


async def wait_first(*waits: Callable[[], Awaitable[object]], timeout_s: float) -> bool:
    """Wait until one of *waits* returns; the others are cancelled.

    Returns:
        False if none of them has within *timeout_s* seconds.
    """
    with trio.move_on_after(timeout_s) as quiet:
        await first_of(*waits)
    return not quiet.cancelled_caught
