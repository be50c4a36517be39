"""The lag of the event loop: how late a task runs that asked to be woken at a time."""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from .exposition import Family, Histogram

LAG: Final = Family(
    "llama_router_event_loop_lag_seconds",
    "histogram",
    "How late a timer of the event loop fires; all else that the router does is as late.",
)

#: Time between two looks, in seconds.
PERIOD_S: Final = 0.5

_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class LoopLag:
    """Measures it while `run` runs."""

    def __init__(self) -> None:
        self._seen = Histogram(_BOUNDS)

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        while True:
            due_s = trio.current_time() + PERIOD_S
            await trio.sleep_until(due_s)
            self._seen.observe(max(0.0, trio.current_time() - due_s))

    def text(self) -> str:
        """Return the family."""
        return LAG.head + self._seen.lines(LAG.name, "")
