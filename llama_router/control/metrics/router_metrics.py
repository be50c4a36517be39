"""The page of metrics: counts what ends meanwhile, and writes the page when it is asked for.

The page of 300 models has 20,000 lines, so it is written in steps between which everything else
goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

import trio

from ... import __version__
from ...backends.backend import Backend
from ...backends.client import fetch
from ...core.memory.view import MemoryView
from ...core.requests.routes import allowed
from ...dispatch.dispatcher import Dispatcher
from ...errors.base import RouterError
from ...logs.events import log
from ...model_logs.store import LogStore
from ...threads import ThreadRefusedError, in_thread
from ...workers.interpreter_settings import loop_goes_first
from . import backend_text, state_figures
from .exposition import Family, labels, samples
from .load_figures import LoadFigures
from .loop_lag import LoopLag
from .process_figures import process_text
from .request_figures import FAMILIES, RequestFigures

INFO: Final = Family("llama_router_build_info", "gauge", "1; its label is the router's version.")
EVENTS: Final = Family(
    "llama_router_log_events_total",
    "counter",
    "Warnings and errors of the router's log, by event; the log itself has the details.",
)
LOST_LINES: Final = Family(
    "llama_router_log_lines_dropped_total",
    "counter",
    "Lines that were dropped: of the router's own log, and of the output of backends.",
)
SCRAPED: Final = Family(
    "llama_router_backend_scrape_success",
    "gauge",
    "1 if the ready backend of the model gave its own metrics, 0 if it did not.",
)

#: Models whose lines are written in one step.
_STEP: Final = 25

#: Time for all backends to give their metrics, in seconds: Prometheus gives up after 10.
BACKENDS_TIMEOUT_S: Final = 3.0

#: Longest page of a backend, in bytes.
_MAX_PAGE_BYTES: Final = 2 * 2**20

_PATH: Final = "/metrics"


class RouterMetrics:
    """The metrics of one router.

    Args:
        dispatcher: The models and their requests.
        memory: Returns what the devices are used for.
        logs: The output of backends.
        started_at: The router's start, in seconds since 1970.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        memory: Callable[[], MemoryView],
        logs: LogStore,
        started_at: float,
    ) -> None:
        self._dispatcher = dispatcher
        self._memory = memory
        self._logs = logs
        self._started_at = started_at
        self._requests = RequestFigures(lambda name: name in dispatcher.config.models)
        self._loads = LoadFigures()
        self._lag = LoopLag()
        self._counted = 0
        dispatcher.loads.listen(self._loads.note)
        dispatcher.activity.listen(self._count_requests)

    async def run(self) -> None:
        """Measure the lag of the event loop until cancelled."""
        await self._lag.run()

    def _count_requests(self) -> None:
        """Count the requests that ended since the last time."""
        activity = self._dispatcher.activity
        self._requests.add(activity.ended_after(self._counted))
        self._counted = activity.ended_count

    async def page(self, *, backends: bool) -> str:
        """Return the page.

        Args:
            backends: Ask the ready backends for their own metrics, too. None is loaded for it.
        """
        self._count_requests()
        parts = [samples(INFO, [(labels(version=__version__), 1)])]
        for step in self._steps():
            parts.append(step())
            await trio.lowlevel.checkpoint()
        await self._add_requests(parts)
        with suppress(ThreadRefusedError):
            parts.append(await in_thread(process_text, self._started_at))
        if backends:
            parts.append(await self._backends())
        return "".join(parts)

    def _steps(self) -> Iterable[Callable[[], str]]:
        found = self._dispatcher.statistics()
        now_s = trio.current_time()
        return (
            *state_figures.parts_of_models(found, now_s),
            lambda: state_figures.devices_text(self._memory(), found),
            *self._loads.parts(),
            self._lag.text,
            self._log_text,
        )

    def _log_text(self) -> str:
        events = [(labels(level=lv, event=ev), n) for (lv, ev), n in log.faults.items()]
        lost = [
            (labels(log="router"), log.lost_lines),
            (labels(log="backends"), self._logs.dropped_lines),
        ]
        return samples(EVENTS, events) + samples(LOST_LINES, lost)

    async def _add_requests(self, parts: list[str]) -> None:
        """Append the families of requests. The lines of one model are of one moment."""
        by_family: list[list[str]] = [[] for _ in FAMILIES]
        for number, figures in enumerate(self._requests.models()):
            for lines, text in zip(by_family, figures.texts(), strict=True):
                lines.append(text)
            if number % _STEP == _STEP - 1:
                await trio.lowlevel.checkpoint()
        for family, lines in zip(FAMILIES, by_family, strict=True):
            parts += (family.head, *lines)

    async def _backends(self) -> str:
        """Return what the ready backends say, and which of them said it."""
        asked = [
            backend
            for backend in self._dispatcher.ready_backends()
            if allowed(_PATH.encode(), backend.spec.spawn.proxy_endpoints)
            and not backend.sleeping  # it would wake up, and take its memory again
        ]
        pages: dict[str, bytes] = {}
        async with trio.open_nursery() as nursery:
            for backend in asked:
                nursery.start_soon(_scrape, backend, pages)
        told = [(str(backend.model), int(str(backend.model) in pages)) for backend in asked]
        success = samples(SCRAPED, [(labels(model=model), value) for model, value in told])

        def merge() -> str:
            with loop_goes_first():
                decoded = ((m, page.decode("utf-8", "replace")) for m, page in pages.items())
                return "".join(backend_text.merge(decoded))

        try:
            return success + await in_thread(merge, abandon_on_cancel=True)
        except ThreadRefusedError:
            return success


async def _scrape(backend: Backend, pages: dict[str, bytes]) -> None:
    """Add the page of *backend* to *pages*, if it gives one."""
    with suppress(RouterError):
        answer = await fetch(
            backend, _PATH, max_bytes=_MAX_PAGE_BYTES, timeout_s=BACKENDS_TIMEOUT_S
        )
        if answer.status == 200:
            pages[str(backend.model)] = answer.body
