"""Shows on a terminal how far the load of a model is, while it is loaded."""

from __future__ import annotations

import sys
from contextlib import aclosing, suppress
from typing import Any, Final

import trio

from ..errors.base import RouterError
from ..http_library import httpx
from ..logs.lines import escape_controls
from .client import AdminClient, events_of
from .loading import LoadState
from .terminal import columns, make_console, shortened

#: Time between two questions for the state of the router, in seconds.
_POLL_S: Final = 0.5

#: Time after which the display begins: a load that is faster needs none. In seconds.
_PATIENCE_S: Final = 0.3


def load_on_screen(client: AdminClient, model: str) -> dict[str, Any]:
    """Load *model*, show the progress on standard error; return the model's state.

    Raises:
        RouterError: if it cannot be loaded.
    """
    return trio.run(_load, client, model)


async def _load(client: AdminClient, model: str) -> dict[str, Any]:
    state = LoadState(model, trio.current_time())
    answer: dict[str, Any] = {}
    failure: BaseException | None = None
    try:
        async with client.asynchronous() as http, trio.open_nursery() as nursery:
            nursery.start_soon(_follow_events, http, state)
            nursery.start_soon(_follow_status, http, state)
            nursery.start_soon(_show, state)
            try:
                answer = await client.post_from(http, "/admin/models/load", {"model": model})
            except RouterError as exc:
                failure = exc
            nursery.cancel_scope.cancel()
    except* KeyboardInterrupt:
        failure = KeyboardInterrupt()
    if failure is not None:
        raise failure
    return answer


async def _follow_events(http: httpx.AsyncClient, state: LoadState) -> None:
    """Take in what the router reports; a failure shows in the request for the load."""
    with suppress(httpx.HTTPError, ValueError, KeyError):
        async with aclosing(events_of(http)) as events:
            async for kind, data in events:
                state.take_event(kind, data)


async def _follow_status(http: httpx.AsyncClient, state: LoadState) -> None:
    while True:
        with suppress(httpx.HTTPError, ValueError, KeyError):
            response = await http.get("/admin/status?configuration=0")
            state.take_status(response.json()["models"])
        await trio.sleep(_POLL_S)


async def _show(state: LoadState) -> None:
    """Draw a bar, until cancelled; the terminal is left as it was."""
    from rich.live import Live  # noqa: PLC0415 -- a tenth of a second, on a terminal only
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 -- same
    from rich.table import Table  # noqa: PLC0415 -- same
    from rich.text import Text  # noqa: PLC0415 -- same

    await trio.sleep(_PATIENCE_S)

    def row() -> Table:
        now_s = trio.current_time()
        part = state.part(now_s)
        width = columns()
        name = shortened(escape_controls(state.model), max(8, width // 3))
        cells: list[object] = [Text(f"loading {name}")]
        if state.waits_for is None and width >= 60:
            cells.append(
                ProgressBar(
                    total=None if part is None else 1.0,
                    completed=part or 0.0,
                    width=24,
                    pulse=part is None,
                )
            )
        cells.append(Text(escape_controls(state.words(now_s)), overflow="ellipsis", no_wrap=True))
        table = Table.grid(padding=(0, 2))
        table.add_row(*cells)  # type: ignore[arg-type]  # rich's own renderables
        return table

    console = make_console(sys.stderr)
    with Live(row(), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(row(), refresh=True)
            await trio.sleep(0.1)
