"""The table of log events says neither more nor less than the code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "log-events.md"
EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
# Methods that log, and the position of the event among their arguments.
METHODS = dict.fromkeys(["debug", "info", "warning", "error", "exception"], 0)
METHODS |= {"_render": 1, "put": 1}


def events_in(source: str) -> dict[str, list[int]]:
    """Return the events that *source* logs, with their line numbers."""
    events: dict[str, list[int]] = defaultdict(list)
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr=name), args=arguments) if name in METHODS:
                match arguments[METHODS[name] :]:
                    case [ast.Constant(value=str(event)), *_] if EVENT.fullmatch(event):
                        events[event].append(node.lineno)
    return events


def test_events_are_found_in_every_form_of_call() -> None:
    """The collector sees each level's method, and only events."""
    source = """
log.info("a.happened", b=1)
self.log.exception("b.failed")
self._render(level, "c.happened", fields)
log.info("Not an event.")
parser.error(message)
open("file.name")
"""
    assert events_in(source) == {
        "a.happened": [2],
        "b.failed": [3],
        "c.happened": [4],
    }


def test_table_and_code_agree() -> None:
    """Every event in the code has a row, every row is in the code, and none has two."""
    logged: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "llama_router").rglob("*.py")):
        for event, lines in events_in(path.read_text(encoding="utf-8")).items():
            logged[event] += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    rows = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    problems = [
        *(
            f"{event} ({', '.join(logged[event])}) has no row in {PAGE.relative_to(ROOT)}"
            for event in sorted(logged.keys() - set(rows))
        ),
        *(f"{event} has a row, but nothing logs it" for event in sorted(set(rows) - logged.keys())),
    ]
    assert not problems, "\n".join(problems)
    assert rows == sorted(set(rows)), "the rows are not in order, or one is there twice"
