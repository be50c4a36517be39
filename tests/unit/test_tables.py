"""Tables that fit into a terminal, and what ``ps --watch`` shows."""

from __future__ import annotations

from typing import Any

import pytest

from llama_router.cli.tables import Cell, Column, cut, plain, table, text_width
from llama_router.cli.watch import Watched, describe_event
from tests.unit.test_cli_ps import model

COLUMNS = [
    Column(heading="NAME", is_flexible=True),
    Column(heading="COUNT", right=True),
    Column(heading="RARE", is_optional=True, rank=1),
    Column(heading="EXTRA", rank=2),
]


def lines(*rows: tuple[str, ...], width: int | None = None) -> list[str]:
    return [plain(line) for line in table(COLUMNS, [list(map(Cell, r)) for r in rows], width=width)]


def test_columns_are_aligned() -> None:
    """Numbers end at the same place; a column without values is left out."""
    assert lines(("a", "10", "-", "x"), ("long", "5", "", "y")) == [
        "NAME  COUNT  EXTRA",
        "a        10  x",
        "long      5  y",
    ]


def test_a_narrow_terminal_shows_what_matters() -> None:
    """Long names are shortened a little, then columns go, then names are shortened to the least."""
    row = ("n" * 40, "1", "r", "e")
    assert lines(row, width=57)[1] == "n" * 34 + "...      1  r     e"
    assert lines(row, width=40)[1] == "n" * 21 + "...      1  r"
    assert lines(row, width=16) == ["NAME       COUNT", "nnnnnn...      1"]
    assert all(len(line) <= 20 for line in lines(row, width=20))


def test_wide_characters_take_two_columns() -> None:
    """Names in other scripts do not move the rest of the line."""
    assert text_width("模型") == 4
    assert cut("模型模型", 5, "…") == "模型…"


def state(*models: dict[str, Any], **fields: object) -> dict[str, Any]:
    device = {
        "name": "nvidia0", "kind": "nvidia", "capacity_mib": 100, "reserve_mib": 10,
        "others_mib": 15, "freeing_mib": 0, "claimed_mib": 50, "free_mib": 25,
    }  # fmt: skip
    head = {"version": "1", "uptime_s": 61.0, "urls": ["http://x"]}
    return {**head, "devices": [device], "models": list(models), **fields}


def shown(watched: Watched, width: int = 60, height: int = 12) -> list[str]:
    return [plain(line) for line in watched.screen(width, height, unicode=False)]


def test_the_watch_shows_devices_models_and_events() -> None:
    """What is loaded only, unless all is wanted."""
    watched = Watched(state=state(model("a", "ready"), model("b", "stopped")))
    watched.take_event("model", {"id": "a", "phase": "ready"}, "10:00:00")
    watched.take_event("progress", {"id": "a", "progress": 0.5}, "10:00:01")
    said = shown(watched)
    assert said[0] == "llama-router 1  up 1m01s  http://x   (q leaves)"
    assert said[1] == "nvidia0  ##########+++++.....  25 MiB free for models"
    assert [line.split()[0] for line in said[3:5]] == ["MODEL", "a"]
    assert said[-1] == "10:00:00  a: ready"
    watched.show_all = True
    assert any(line.startswith("b ") for line in shown(watched))


@pytest.mark.parametrize(("width", "height"), [(40, 10), (20, 4), (200, 60)])
def test_the_watch_fits_into_every_window(width, height) -> None:
    """No line is longer, and there are no more lines than rows."""
    watched = Watched(state=state(*(model(f"model-{n}" * 9, "ready") for n in range(30))))
    for number in range(200):
        watched.take_event("model", {"id": f"m{number}" * 30, "phase": "ready"}, "10:00:00")
    said = shown(watched, width, height)
    assert len(said) <= height
    assert max(map(len, said)) <= width


def test_a_router_that_is_gone_is_said() -> None:
    """What was known last stays on the screen."""
    watched = Watched(state=state(model("a", "ready")), gone="the router is gone")
    assert shown(watched)[0].startswith("the router is gone")
    assert any(line.startswith("a ") for line in shown(watched))


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        ("sleep", {"id": "a", "sleeping": True}, "a: asleep"),
        ("config", {"status": "rejected", "problems": 1}, "configuration: rejected"),
        ("download", {"reference": "u/r", "state": "running"}, None),
        ("download", {"reference": "u/r", "state": "done"}, "download of u/r: done"),
        ("router", {"state": "draining"}, "the router stops"),
        ("other", {}, None),
    ],
)
def test_events_in_words(kind, data, words) -> None:
    """Those that say something that lasts."""
    assert describe_event(kind, data) == words
