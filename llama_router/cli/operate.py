"""``ps``, ``status``, ``load``, ``unload``, ``reload``, ``set``: operating a running router."""

from __future__ import annotations

import tomllib
from typing import Any, Final
from urllib.parse import quote

from ..errors.base import RouterError
from .client import CommandError, Where, complain, connected, say, say_json

#: What became of models and settings, by the field of a report: for people.
_OUTCOMES: Final = {
    "added": "added",
    "removed": "removed",
    "restarted": "restarting, once their requests have ended",
    "retuned": "retuned",
    "needs_router_restart": "needs a restart of the router",
}

_COLUMNS = ("MODEL", "PHASE", "PID", "PORT", "IN FLIGHT", "QUEUED", "READY FOR")


def ps(where: Where, *, every: bool, as_json: bool) -> int:
    """Print a table of the models that run, or of all; return the exit status."""
    try:
        with connected(where) as client:
            models = client.get("/admin/status")["models"]
    except RouterError as exc:
        return complain(exc)
    shown = [m for m in models if every or m["phase"] != "stopped"]
    if as_json:
        say_json(shown)
        return 0
    rows = [_COLUMNS, *map(_row, shown)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for model in shown:
        if model["last_error"] is not None and model["phase"] in ("failed", "backoff"):
            say(f"{model['id']}: {model['last_error']['message']}")
    return 0


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    def cell(value: object) -> str:
        return "-" if value is None else str(value)

    ready_s = model["ready_for_s"]
    return (
        model["id"],
        model["phase"],
        cell(model["pid"]),
        cell(model["port"]),
        cell(model["in_flight"]),
        cell(model["queued"]),
        "-" if ready_s is None else duration(ready_s),
    )


def duration(seconds: float) -> str:
    """Return *seconds* as people write it: ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def status(where: Where, *, as_json: bool) -> int:
    """Print the state of the router; return the exit status."""
    try:
        with connected(where) as client:
            state = client.get("/admin/status")
    except RouterError as exc:
        return complain(exc)
    if as_json:
        say_json(state)
        return 0
    say(f"llama-router {state['version']}, pid {state['pid']}, up {duration(state['uptime_s'])}")
    say(f"listening on {', '.join(state['urls'])}")
    say(f"configuration {state['config_path']}: {state['reload']['status']}")
    _say_problems(state["reload"])
    phases: dict[str, int] = {}
    for model in state["models"]:
        phases[model["phase"]] = phases.get(model["phase"], 0) + 1
    counted = ", ".join(f"{count} {phase}" for phase, count in sorted(phases.items()))
    say(f"models: {counted or 'none'}")
    return 0


def load(where: Where, model: str) -> int:
    """Load *model* and wait until it is ready; return the exit status."""
    return _change(where, "/admin/models/load", {"model": model})


def unload(where: Where, model: str, *, force: bool) -> int:
    """Unload *model* and wait until it is gone; return the exit status."""
    return _change(where, "/admin/models/unload", {"model": model, "force": force})


def _change(where: Where, path: str, document: dict[str, object]) -> int:
    try:
        with connected(where) as client:
            state = client.post(path, document)
    except RouterError as exc:
        return complain(exc)
    say(f"{state['id']}: {state['phase']}")
    return 0


def reload(where: Where) -> int:
    """Let the router read its configuration; return 1 if it cannot be used."""
    try:
        with connected(where) as client:
            report = client.post("/admin/reload")
    except RouterError as exc:
        return complain(exc)
    return _say_report(report)


def _say_report(report: dict[str, Any]) -> int:
    say(f"configuration: {report['status']}")
    _say_problems(report)
    for what, words in _OUTCOMES.items():
        if report[what]:
            say(f"{words}: {', '.join(report[what])}")
    if report["status"] == "applied" and not any(report[what] for what in _OUTCOMES):
        say("no model has changed since it was read last")
    return 1 if report["problems"] else 0


def rescan(where: Where) -> int:
    """Let the router look for models; return the exit status."""
    try:
        with connected(where) as client:
            scanned = client.post("/admin/rescan")
    except RouterError as exc:
        return complain(exc)
    say(f"new models: {scanned['new_models']}, removed: {scanned['removed']}")
    return 0


def set_(where: Where, words: list[str], *, unset: list[str], router: bool) -> int:
    """Change settings in the router's configuration file, or print them; return the status."""
    model = None
    if not router:
        if not words:
            return complain(CommandError("say which model, or --router"))
        model, *words = words
    try:
        changes = dict(map(_assignment, words))
        with connected(where) as client:
            if not changes and not unset:
                query = "" if model is None else f"?model={quote(model, safe='')}"
                say_json(client.get(f"/admin/settings{query}")["effective"])
                return 0
            # Without a digest: nothing in it depends on what is in the file now.
            body = {"model": model, "set": changes, "unset": unset}
            report = client.post("/admin/settings", body)
    except RouterError as exc:
        return complain(exc)
    return _say_report(report)


def _assignment(word: str) -> tuple[str, object]:
    """Return key and value of ``KEY=VALUE``; a VALUE that is not TOML is a string.

    Raises:
        CommandError: if it is something else.
    """
    key, equals, text = word.partition("=")
    if not equals or not key.strip():
        raise CommandError(f"{word!r} is not KEY=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return key.strip(), text
    return key.strip(), value["value"] if value.keys() == {"value"} else text


def _say_problems(report: dict[str, Any]) -> None:
    for severity, problems in (("error", report["problems"]), ("warning", report["warnings"])):
        for problem in problems:
            line = "" if problem["line"] is None else f"line {problem['line']}: "
            where = f"{problem['where']}: " if problem["where"] else ""
            say(f"  {severity}: {line}{where}{problem['message']}")
