"""Deadlines of a router's shutdown, and the last steps of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import trio

from ..core.config.config import Config
from ..core.config.containers import runs_container
from ..core.config.specs import SpawnSpec
from ..model_logs.store import LogStore
from ..process.instances import InstanceRecord
from ..process.process import REAP_TIMEOUT_S
from ..threads import in_thread, in_thread_or_here
from ..timeouts import move_on_after_running

#: Seconds in which refusals are written, however short ``drain_s`` is.
REFUSAL_S: Final = 0.25

#: Seconds in which containers are found and removed after their clients have ended.
CONTAINER_S: Final = 10.0

#: Seconds in which the logs of models are flushed to the disk.
LOG_FLUSH_S: Final = 2.0

#: Seconds in which the file system then removes the record of running backends.
RECORD_CLOSE_S: Final = 1.0


def drain_s(config: Config) -> float:
    """Return how many seconds requests in flight get."""
    return max(config.router.drain_s, REFUSAL_S)


def longest_shutdown_s(config: Config) -> float:
    """Return an upper bound of the whole shutdown, in seconds."""
    before_s = drain_s(config) + _save_s(config)
    return before_s + _grace_s(config) + REAP_TIMEOUT_S + LOG_FLUSH_S + RECORD_CLOSE_S


async def bound_backend_stops(
    config: Config,
    requested: trio.Event,
    force_stop: trio.Event,
    until_stopped: trio.CancelScope,
) -> None:
    """Set *force_stop* when *requested* is set, or when the backends' grace is over.

    Args:
        config: Gives the grace of the slowest backend.
        requested: Set from outside when backends get no more time.
        force_stop: Ends the grace of every backend that is being stopped.
        until_stopped: Cancelled by the caller when all backends have exited. It is a shield,
            so that the stop is bounded, too, when the router is cancelled or fails by a bug.
    """
    with until_stopped:
        await move_on_after_running(requested.wait, _grace_s(config) + REAP_TIMEOUT_S)
    force_stop.set()


async def close_files(logs: LogStore, record: InstanceRecord) -> None:
    """Flush the logs of models to the disk, and remove the record of running backends.

    Both are given up if the file system hangs: the next start then finds no process to end.
    """
    with trio.move_on_after(LOG_FLUSH_S + RECORD_CLOSE_S, shield=True):
        await in_thread_or_here(logs.close, LOG_FLUSH_S, abandon_on_cancel=True)
        with suppress(OSError):
            await in_thread(record.close, abandon_on_cancel=True)


def _save_s(config: Config) -> float:
    spawns = (spec.spawn for spec in config.models.values())
    return max((spawn.keep_cache_max_s for spawn in spawns if spawn.keep_cache), default=0.0)


def _grace_s(config: Config) -> float:
    return max((_stop_s(spec.spawn) for spec in config.models.values()), default=0.0)


def _stop_s(spawn: SpawnSpec) -> float:
    """Return how long the stop of a backend may take: by its command first, then by SIGTERM."""
    stop_s = spawn.stop_timeout_s * (1 if spawn.stop_command is None else 2)
    return stop_s + (CONTAINER_S if runs_container(spawn.command) else 0)
