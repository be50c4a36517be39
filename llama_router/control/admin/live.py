"""The live state: the rows of models that changed, for followers of ``/admin/events``.

One task compares all models with what was sent, at most once a second, while it has followers.
It sleeps while nothing happens, and gives way between models, so that it holds up no request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, NoReturn

import trio

from ...core.config.names import ModelId
from ...core.config.specs import ModelSpec
from ...dispatch.dispatcher import Dispatcher
from ...threads import ThreadRefusedError
from ...timeouts import first_of
from . import model_schemas
from .model_rows import ModelRows

#: Shortest time between two updates, in seconds.
PERIOD_S: Final = 1.0

#: Seconds between two readings of the memory of backends' processes.
MEMORY_PERIOD_S: Final = 10.0

#: Models that are compared before others get their turn: about half a millisecond.
_SLICE: Final = 40

#: A change of what a device holds that is worth an update: in MiB, and as a part of it.
_NOISE_MIB: Final = 16
_NOISE_PART: Final = 0.005

#: Models of former configurations that followers are told of when they come back.
_MAX_GONE: Final = 1000


class LiveState:
    """The rows of all models, each with the number of the update that it changed in.

    Args:
        dispatcher: Tells when something happens.
        rows: Makes the rows.

    Attributes:
        version: Number of the last update.
    """

    def __init__(self, dispatcher: Dispatcher, rows: ModelRows) -> None:
        self._dispatcher = dispatcher
        self._rows = rows
        self.version = 0
        self._sent: dict[ModelId, tuple[tuple[object, ...], int, model_schemas.Model]] = {}
        self._gone: dict[ModelId, int] = {}
        self._devices: tuple[int, list[model_schemas.Device]] = (0, [])
        self._memory_mib: dict[int, float] = {}
        self._memory_s = -MEMORY_PERIOD_S
        self._followers = 0
        self._followed = trio.Event()
        self._current = trio.Event()  # set while the rows are compared again and again
        self._changed = trio.Event()

    # -- for followers ------------------------------------------------------------------------

    @contextmanager
    def follow(self) -> Iterator[None]:
        """Keep the rows up to date within the block."""
        self._followers += 1
        self._followed.set()
        try:
            yield
        finally:
            self._followers -= 1

    async def up_to_date(self) -> None:
        """Wait until the rows are compared; a follower's updates begin after that."""
        await self._current.wait()

    async def wait_after(self, version: int) -> None:
        """Wait until there is an update after *version*."""
        while self.version <= version:
            await self._changed.wait()

    def update_after(self, version: int) -> model_schemas.LiveUpdate:
        """Return all that changed after *version*."""
        devices_version, devices = self._devices
        return model_schemas.LiveUpdate(
            at=round(time.time(), 3),
            models=[row for _, changed, row in self._sent.values() if changed > version],
            removed=[str(model) for model, gone in self._gone.items() if gone > version],
            devices=devices if devices_version > version else None,
        )

    # -- the task -----------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Compare the rows until cancelled, while there are followers."""
        while True:
            if not self._followers:
                self._current = trio.Event()
                self._followed = trio.Event()
                await self._followed.wait()
            dispatcher = self._dispatcher
            seen = (
                dispatcher.changed,
                self._rows.facts_changed,
                dispatcher.activity.last,
                dispatcher.feed.last,
            )
            began_s = trio.current_time()
            changed = await self._compare()
            self._current.set()
            await trio.sleep_until(began_s + PERIOD_S)
            # Once more after a change: what a backend says of itself comes a moment later.
            if not changed and not dispatcher.activity.live:
                await self._wait_for_news(*seen)

    async def _wait_for_news(
        self, changed: trio.Event, facts: trio.Event, activity: int, feed: int
    ) -> None:
        """Wait for a change of a queue, a phase or a fact, a request, or an event of the feed."""
        dispatcher = self._dispatcher
        await first_of(
            changed.wait,
            facts.wait,
            partial(dispatcher.activity.wait_after, activity),
            partial(dispatcher.feed.wait_after, feed),
        )

    async def _compare(self) -> bool:
        """Make the rows anew that differ from what was sent; return whether any did."""
        rows, version, changed = self._rows, self.version + 1, False
        shown = rows.shown()
        await self._read_memory(shown)
        self._rows.refresh()
        for number, spec in enumerate(shown):
            if number % _SLICE == _SLICE - 1:
                await trio.lowlevel.checkpoint()
            mark = rows.mark(spec, self._memory_mib)
            known = self._sent.get(spec.id)
            if known is None or known[0] != mark:
                self._sent[spec.id] = mark, version, rows.row(spec, self._memory_mib)
                self._gone.pop(spec.id, None)
                changed = True
        for model in self._sent.keys() - {spec.id for spec in shown}:
            del self._sent[model]
            self._gone[model] = version
            changed = True
        while len(self._gone) > _MAX_GONE:
            del self._gone[next(iter(self._gone))]
        if differ(self._devices[1], devices := rows.devices()):
            self._devices = version, devices
            changed = True
        if changed:
            self.version = version
            self._changed.set()
            self._changed = trio.Event()
        return changed

    async def _read_memory(self, shown: list[ModelSpec]) -> None:
        """Read the memory of backends now and then, and when there are other ones."""
        now_s = trio.current_time()
        pids = {backend.pid for backend in self._dispatcher.ready_backends()}
        if pids == self._memory_mib.keys() and now_s < self._memory_s + MEMORY_PERIOD_S:
            return
        with suppress(ThreadRefusedError):  # the next time is another chance
            self._memory_mib = await self._rows.memory_mib(shown)
        self._memory_s = now_s


def differ(former: list[model_schemas.Device], now: list[model_schemas.Device]) -> bool:
    """Return whether devices differ by more than what other programs need from time to time."""
    if len(former) != len(now):
        return True
    return any(map(_device_differs, former, now))


def _device_differs(former: model_schemas.Device, now: model_schemas.Device) -> bool:
    for field in model_schemas.Device.__struct_fields__:
        before, after = getattr(former, field), getattr(now, field)
        if before == after:
            continue
        if field not in ("others_mib", "free_mib"):
            return True
        if abs(after - before) >= max(_NOISE_MIB, _NOISE_PART * now.capacity_mib):
            return True
    return False
