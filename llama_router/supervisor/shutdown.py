"""How long the end of a router may take, and who sees to it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from ..core.config.whole import Config
from ..model_logs.store import LogStore
from ..process.instances import InstanceRecord
from ..process.process import REAP_TIMEOUT_S
from ..threads import in_thread, in_thread_or_here
from ..timeouts import move_on_after_running

#: Seconds that refusals get to be written, however short ``drain_s`` is.
REFUSAL_S: Final = 0.25

#: Seconds that the logs of models get to reach the disk at the end.
LOG_FLUSH_S: Final = 2.0

#: Seconds that the file system then gets to remove the record of what runs.
RECORD_CLOSE_S: Final = 1.0


def drain_s(config: Config) -> float:
    """Return how long requests in flight get, in seconds."""
    return max(config.router.drain_s, REFUSAL_S)


def longest_end_s(config: Config) -> float:
    """Return how long the whole end may take, in seconds."""
    return drain_s(config) + _grace_s(config) + REAP_TIMEOUT_S + LOG_FLUSH_S + RECORD_CLOSE_S


async def bound_the_end(
    config: Config, asked: trio.Event, hurry: trio.Event, until_ended: trio.CancelScope
) -> None:
    """Let backends that are being stopped *hurry* when they were *asked* to, or time is up.

    Args:
        config: Says how much time they have.
        asked: Set when nobody gets any more time.
        hurry: Set then, or when time is up.
        until_ended: To be cancelled when the backends have ended. It is a shield: the end of
            a router that is cancelled, or that a bug ends, must be bounded, too.
    """
    with until_ended:
        await move_on_after_running(asked.wait, _grace_s(config) + REAP_TIMEOUT_S)
    hurry.set()


async def close_files(logs: LogStore, record: InstanceRecord) -> None:
    """Let the last output reach the disk, and remove the record of what runs.

    If the file system hangs, both are given up: the next start finds nothing to end, then.
    """
    with trio.move_on_after(LOG_FLUSH_S + RECORD_CLOSE_S, shield=True):
        await in_thread_or_here(logs.close, LOG_FLUSH_S, abandon_on_cancel=True)
        with suppress(OSError):
            await in_thread(record.close, abandon_on_cancel=True)


def _grace_s(config: Config) -> float:
    specs = config.models.values()
    return max((spec.spawn.stop_timeout_s for spec in specs), default=0.0)
