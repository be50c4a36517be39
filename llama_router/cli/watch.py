"""``ps --watch``: devices, models and the last events, live on the whole terminal."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from typing import Any, Final

import attrs
import trio
from rich.console import Group
from rich.live import Live

from ..errors.base import RouterError
from ..http_library import httpx
from ..logs.lines import escape_controls
from .client import STATUS, AdminClient, connected, events_of
from .failures import NoRouterError
from .model_rows import COLUMNS, format_duration, format_memory, is_listed, remarks, row_of
from .options import Connection
from .tables import Cell, Line, cut, table
from .terminal import columns, has_unicode, make_console, text_of

#: Time between two looks at the router, in seconds; events bring one at once.
_POLL_S: Final = 1.0

#: Events that are kept.
_EVENTS: Final = 100

#: Width of the bar of a device, in columns.
_BAR: Final = 20

#: The states of a download that is over.
_OVER: Final = frozenset(("done", "failed", "cancelled"))

#: Keys that leave: q, Escape, Ctrl-D.
_LEAVE: Final = frozenset(b"qQ\x1b\x04")


@attrs.define(eq=False)
class Watched:
    """What is known of the router. Sans-IO.

    Attributes:
        show_all: Whether to show the models that are not loaded.
        state: Its last status; None before the first.
        gone: Why it cannot be asked at the moment; empty if it can.
        events: Its last events, oldest first: time and text.
    """

    show_all: bool = False
    state: dict[str, Any] | None = None
    gone: str = ""
    events: deque[tuple[str, str]] = attrs.field(factory=lambda: deque(maxlen=_EVENTS))

    def take_event(self, kind: str, data: dict[str, Any], clock: str) -> None:
        """Take in an event of ``/admin/events``."""
        if (text := describe_event(kind, data)) is not None:
            self.events.append((clock, text))

    def screen(self, width: int, height: int, *, unicode: bool) -> list[Line]:
        """Return the lines to show on a terminal of that size."""
        mark = "…" if unicode else "..."
        lines = self._head()
        if self.state is not None:
            lines += _device_lines(self.state["devices"], unicode=unicode)
            models = [m for m in self.state["models"] if self.show_all or is_listed(m)]
            lines.append([])
            if models:
                lines += table(COLUMNS, [row_of(m) for m in models], width=width, mark=mark)
            else:
                lines.append([Cell("no model is loaded", ("dim",))])
            lines += [[Cell(each.text, each.styles)] for each in remarks(models)]
        free = height - len(lines) - 2
        if self.events and free > 0:
            lines.append([])
            lines += [
                [Cell(clock, ("dim",)), Cell(f"  {escape_controls(text)}")]
                for clock, text in list(self.events)[-free:]
            ]
        return [_fitted(line, width, mark) for line in lines[:height]]

    def _head(self) -> list[Line]:
        leave = Cell("   (q leaves)", ("dim",))
        if self.gone:
            return [[Cell(escape_controls(self.gone), ("red",)), leave]]
        if self.state is None:
            return [[Cell("asking the router", ("dim",)), leave]]
        uptime = format_duration(self.state["uptime_s"])
        words = f"llama-router {self.state['version']}  up {uptime}  {self.state['urls'][0]}"
        return [[Cell(escape_controls(words), ("bold",)), leave]]


def describe_event(kind: str, data: dict[str, Any]) -> str | None:
    """Return an event in words; None if it says nothing that lasts."""
    if kind == "download":
        name = data.get("model") or data.get("reference")
        return f"download of {name}: {data['state']}" if data["state"] in _OVER else None
    words: dict[str, Callable[[], str]] = {
        "model": lambda: f"{data['id']}: {data['phase']}",
        "sleep": lambda: f"{data['id']}: {'asleep' if data['sleeping'] else 'awake'}",
        "removed": lambda: f"{data['id']}: deleted",
        "config": lambda: f"configuration: {data['status']}",
        "router": lambda: "the router stops",
    }
    return words[kind]() if kind in words else None


def _device_lines(devices: list[dict[str, Any]], *, unicode: bool) -> list[Line]:
    full, used, empty = ("█", "▒", "░") if unicode else ("#", "+", ".")
    lines: list[Line] = []
    names = max((len(device["name"]) for device in devices), default=0)
    for device in devices:
        whole = max(1, device["capacity_mib"])
        models = round(_BAR * device["claimed_mib"] / whole)
        others = round(
            _BAR * (device["others_mib"] + device["freeing_mib"] + device["reserve_mib"]) / whole
        )
        models, others = min(models, _BAR), min(others, _BAR - min(models, _BAR))
        free = device["free_mib"]
        amount = str(free) if device["kind"] == "pool" else format_memory(free)
        lines.append(
            [
                Cell(f"{device['name']:{names}}  "),
                Cell(full * models, ("green",)),
                Cell(used * others, ("yellow",)),
                Cell(empty * (_BAR - models - others), ("dim",)),
                Cell(f"  {amount} free for models"),
            ]
        )
    return lines


def _fitted(line: Line, width: int, mark: str) -> Line:
    """Return the beginning of *line* that fits into *width* columns."""
    room, fitted = width, []
    for cell in line:
        text = cut(cell.text, room, mark)
        fitted.append(Cell(text, cell.styles))
        room -= len(text)
        if text != cell.text or room <= 0:
            break
    return fitted


def watch(connection: Connection, *, show_all: bool) -> None:
    """Show the router until the person leaves; the terminal is left as it was.

    Raises:
        NoRouterError: if no router is running.
        RouterError: if its token cannot be read, or is refused.
    """
    with connected(connection) as client:  # an error now is an error of the command
        state = client.get(STATUS)
    watched = Watched(show_all=show_all, state=state)
    with suppress(KeyboardInterrupt):
        try:
            trio.run(_watch, connection, watched)
        except* KeyboardInterrupt:
            pass


async def _watch(connection: Connection, watched: Watched) -> None:
    console = make_console(sys.stdout)
    changed = trio.Event()

    def notify() -> None:
        nonlocal changed
        changed.set()
        changed = trio.Event()

    def drawn() -> Group:
        width, height = columns(), console.size.height
        lines = watched.screen(width, height - 1, unicode=has_unicode())
        return Group(*(text_of(line) for line in lines))

    with _single_keys(), Live(drawn(), console=console, screen=True, auto_refresh=False) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_follow, connection, watched, notify)
            nursery.start_soon(_leave_on_key, nursery.cancel_scope)
            while True:
                live.update(drawn(), refresh=True)
                with trio.move_on_after(_POLL_S / 2):  # a new size of the window shows then
                    await changed.wait()


async def _follow(connection: Connection, watched: Watched, notify: Callable[[], None]) -> None:
    """Ask the router again and again; where it went away, look for the next one."""
    while True:
        try:
            with connected(connection) as client:
                await _follow_one(client, watched, notify)
        except NoRouterError as exc:
            watched.gone = f"{exc}; waiting for it"
        except RouterError as exc:
            watched.gone = str(exc)
        notify()
        await trio.sleep(_POLL_S)


async def _follow_one(client: AdminClient, watched: Watched, notify: Callable[[], None]) -> None:
    """Follow one router until it is gone."""
    async with client.asynchronous() as http, trio.open_nursery() as nursery:
        news = trio.Event()

        async def follow_events() -> None:
            nonlocal news
            with suppress(httpx.HTTPError, ValueError, KeyError):
                async with aclosing(events_of(http)) as events:
                    async for kind, data in events:
                        now = datetime.now().astimezone()
                        watched.take_event(kind, data, now.strftime("%H:%M:%S"))
                        news.set()
                        news = trio.Event()

        nursery.start_soon(follow_events)
        while True:
            try:
                response = await http.get(STATUS)
                response.raise_for_status()
                watched.state, watched.gone = response.json(), ""
            except (httpx.HTTPError, ValueError):
                watched.gone = "the router is gone; waiting for it"
                nursery.cancel_scope.cancel()
                return
            notify()
            with trio.move_on_after(_POLL_S):
                await news.wait()


async def _leave_on_key(scope: trio.CancelScope) -> None:
    while True:
        await trio.lowlevel.wait_readable(sys.stdin)
        typed = os.read(sys.stdin.fileno(), 64)
        if not typed or _LEAVE & set(typed[:1]):
            scope.cancel()
            return


@contextmanager
def _single_keys() -> Iterator[None]:
    """Read keys without Enter, and show none, in the block."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
