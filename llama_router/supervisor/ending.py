"""How long the end of a router may take, and who sees to it."""

from __future__ import annotations

from typing import Final

import trio

from ..backends.process import REAP_TIMEOUT_S
from ..core.config.whole import Config
from ..patience import patient_wait

#: Seconds that refusals get to be written, however short ``drain_s`` is.
REFUSAL_S: Final = 0.25

#: Seconds that the logs of models get to reach the disk at the end.
LOG_FLUSH_S: Final = 2.0


def drain_s(config: Config) -> float:
    """Return how long requests in flight get, in seconds."""
    return max(config.router.drain_s, REFUSAL_S)


def longest_end_s(config: Config) -> float:
    """Return how long the whole end may take, in seconds."""
    return drain_s(config) + _grace_s(config) + REAP_TIMEOUT_S + LOG_FLUSH_S


async def bound_the_end(config: Config, asked: trio.Event, hurry: trio.Event) -> None:
    """Let backends that are being stopped *hurry* when they were *asked* to, or time is up."""
    await patient_wait(asked.wait, _grace_s(config) + REAP_TIMEOUT_S)
    hurry.set()


def _grace_s(config: Config) -> float:
    specs = config.models.values()
    return max((spec.spawn.stop_timeout_s for spec in specs), default=0.0)
