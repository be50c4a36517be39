"""Commands that operate a running router: ``ps status load unload reload rescan set``."""

from __future__ import annotations

import tomllib
from collections import Counter
from textwrap import shorten
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter

from ..client import CommandError, connected, reporting_failures
from ..options import DEFAULT_CONNECTION, Connection, Flag, Json
from ..printing import print_json, print_line, print_message, print_table

#: The heading of a list of models or settings, by its field in the report of a reload.
_HEADINGS: Final = {
    "added": "added",
    "removed": "removed",
    "restarted": "restarting, once their requests have ended",
    "retuned": "applied without restart",
    "needs_router_restart": "needs a restart of the router",
}

#: Longest beginning of a failure's message in a list, in characters.
_MESSAGE_CHARACTERS: Final = 120

_COLUMNS: Final = ("MODEL", "PHASE", "PID", "PORT", "MEMORY", "IN FLIGHT", "QUEUED", "READY FOR")


@reporting_failures
def ps(
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,  # noqa: A002 -- the option's name
    json: Json = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """List the models that a running router has loaded.

    Models that crashed and were not started since are among them.

    Args:
        all: Include the models that are not loaded.
        json: Print JSON.
        connection: How to find the router.
    """
    with connected(connection) as client:
        state = client.get("/admin/status?configuration=0")
    models = state["models"]
    listed = [model for model in models if all or model["phase"] != "stopped" or model["crashed"]]
    if json:
        print_json(listed)
        return 0
    _print_table(listed)
    for program in state["programs"]:
        if program["warning"]:
            print_message(f"warning: {program['warning']}")
    return 0


def _print_table(models: list[dict[str, Any]]) -> None:
    notes = any(map(_notes, models))
    rows: list[tuple[str, ...]] = [(*_COLUMNS, "NOTES") if notes else _COLUMNS]
    rows += [(*_row(model), _notes(model)) if notes else _row(model) for model in models]
    print_table(rows)
    for model in models:
        if model["waits_for"] is not None:
            print_line(f"{model['id']}: {model['queued']} waiting: {model['waits_for']}")
        if (fit := model["fit"]) is not None and _is_reduced(fit):
            print_line(_fit_line(model["id"], fit))
        if (failure := model["last_error"]) is not None and _concerns_now(model):
            print_line(_failure_line(model, failure))


def _is_reduced(fit: dict[str, Any]) -> bool:
    return fit["n_ctx"] < fit["n_ctx_full"] or fit["n_gpu_layers"] is not None


def _fit_line(name: str, fit: dict[str, Any]) -> str:
    """Return what a model got less than with enough memory, in one line."""
    why = "squeezed, because something else holds memory" if fit["squeezed"] else "fitted to memory"
    return f"{name}: {why}: {fit['summary']}"


def _concerns_now(model: dict[str, Any]) -> bool:
    """Return whether the last failure of a model says why it does not run."""
    return model["crashed"] or model["phase"] in ("failed", "backoff")


def _failure_line(model: dict[str, Any], failure: dict[str, Any]) -> str:
    """Return a failure in one line; the model's log has all of it."""
    name = model["id"]
    ago = "" if failure["ago_s"] is None else f" {format_duration(failure['ago_s'])} ago"
    cause = "" if failure["cause"] is None else f" ({failure['cause']})"
    retry_s = model["retry_in_s"]
    pause = f", not tried again for {format_duration(retry_s)}" if retry_s else ""
    message = shorten(failure["message"], _MESSAGE_CHARACTERS, placeholder=" …")
    return f"{name}: failed{ago}{cause}{pause}: {message} (see: llama-router logs {name})"


def _notes(model: dict[str, Any]) -> str:
    """Return what is special about a model; empty if nothing is."""
    notes = {
        "asleep": model["sleeping"],
        "loaded by request only": not model["autoload"],
        "unlisted": model["unlisted"],
    }
    return ", ".join(note for note, applies in notes.items() if applies)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    def cell(value: object) -> str:
        return "-" if value is None else str(value)

    ready_s, left_s = model["ready_for_s"], model["load_left_s"]
    ready = "-" if left_s is None else f"in ~{format_duration(left_s)}"
    return (
        model["id"],
        model["phase"],
        cell(model["pid"]),
        cell(model["port"]),
        _memory_of(model),
        cell(model["in_flight"]),
        cell(model["queued"]),
        ready if ready_s is None else format_duration(ready_s),
    )


def _memory_of(model: dict[str, Any]) -> str:
    """Return what a loaded model takes, by device; ``~`` if that is only estimated."""
    claims: dict[str, int] = model["claims"]
    if not claims:
        return format_memory(model["memory_mib"])
    source = (model["footprint"] or {}).get("source")
    sign = "" if source in ("configured", "measured") else "~"
    return " + ".join(f"{sign}{format_memory(mib)} {name}" for name, mib in claims.items())


def format_memory(memory_mib: float | None) -> str:
    """Return an amount of memory in short form: ``312 MiB``, ``5.2 GiB``; ``-`` if unknown."""
    if memory_mib is None:
        return "-"
    return f"{memory_mib:.0f} MiB" if memory_mib < 1000 else f"{memory_mib / 1024:.1f} GiB"


def format_duration(seconds: float) -> str:
    """Return *seconds* in short form: ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


@reporting_failures
def status(*, json: Json = False, connection: Connection = DEFAULT_CONNECTION) -> int:
    """Print the state of a running router and of its configuration.

    Args:
        json: Print the complete state as JSON.
        connection: How to find the router.
    """
    with connected(connection) as client:
        state = client.get("/admin/status")
    if json:
        print_json(state)
        return 0
    uptime = format_duration(state["uptime_s"])
    print_line(f"llama-router {state['version']}, pid {state['pid']}, up {uptime}")
    print_line(f"listening on {', '.join(state['urls'])}")
    for device in state["devices"]:
        print_line(_device_line(device))
    for fault in state["device_faults"]:
        print_line(f"  warning: {fault}")
    for program in state["programs"]:
        print_line(f"served by {program['summary']}")
        if program["warning"]:
            print_line(f"  warning: {program['warning']}")
    print_line(f"configuration {state['config_path']}: {state['reload']['status']}")
    _print_problems(state["reload"])
    if waiting := state["reload"]["needs_router_restart"]:
        print_line(f"{_HEADINGS['needs_router_restart']}: {', '.join(waiting)}")
    counts = Counter(model["phase"] for model in state["models"])
    listed = ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items()))
    print_line(f"models: {listed or 'none'}")
    return 0


def _device_line(device: dict[str, Any]) -> str:
    """Return what a device is used for, in words."""
    name = device["name"]
    if device["kind"] == "pool":
        return f"{name}: {device['free_mib']} of {device['budget_mib']} free"
    line = f"{name} ({device['description']}): {format_memory(device['free_mib'])} of "
    line += f"{format_memory(device['budget_mib'])} for models are free"
    others_mib = device["others_mib"] + device["freeing_mib"]
    if not others_mib:
        return line
    programs = ", ".join(f"{name} {format_memory(mib)}" for name, mib in device["programs"].items())
    return f"{line}, others hold {format_memory(others_mib)}" + (f" ({programs})" * bool(programs))


@reporting_failures
def load(model: str, /, *, connection: Connection = DEFAULT_CONNECTION) -> int:
    """Load a model, and wait until it is ready.

    Args:
        model: Its name or an alias.
        connection: How to find the router.
    """
    return _change_model(connection, "/admin/models/load", {"model": model})


@reporting_failures
def unload(
    model: str, /, *, force: Flag = False, connection: Connection = DEFAULT_CONNECTION
) -> int:
    """Unload a model after its requests have ended, and wait until its backend has exited.

    Args:
        model: Its name or an alias.
        force: Abort its requests instead of waiting for them.
        connection: How to find the router.
    """
    return _change_model(connection, "/admin/models/unload", {"model": model, "force": force})


def _change_model(connection: Connection, path: str, document: dict[str, object]) -> int:
    with connected(connection) as client:
        state = client.post(path, document)
    print_line(f"{state['id']}: {state['phase']}")
    return 0


@reporting_failures
def reload(*, connection: Connection = DEFAULT_CONNECTION) -> int:
    """Make a running router read its configuration now, and print the result.

    The exit status is 1 if the configuration has errors.

    Args:
        connection: How to find the router.
    """
    with connected(connection) as client:
        report = client.post("/admin/reload")
    return _print_report(report)


def _print_report(report: dict[str, Any]) -> int:
    """Print the report of a reload; return the exit status."""
    print_line(f"configuration: {report['status']}")
    _print_problems(report)
    for field, heading in _HEADINGS.items():
        if report[field]:
            print_line(f"{heading}: {', '.join(report[field])}")
    if report["status"] == "applied" and not any(report[field] for field in _HEADINGS):
        print_line("no model has changed since it was read last")
    return 1 if report["problems"] else 0


@reporting_failures
def rescan(*, connection: Connection = DEFAULT_CONNECTION) -> int:
    """Make a running router scan its folders and caches for models now.

    Args:
        connection: How to find the router.
    """
    with connected(connection) as client:
        scanned = client.post("/admin/rescan")
    print_line(f"new models: {scanned['new_models']}, removed: {scanned['removed']}")
    return 0


@reporting_failures
def set_(
    *words: str,
    unset: Annotated[tuple[str, ...], Parameter(name="--unset", negative="")] = (),
    router: Annotated[bool, Parameter(name="--router", negative="")] = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Change settings of a model in the router's configuration file, and apply them.

    Comments and order of the file are kept. Without KEY=VALUE, the settings in force are printed.

    Args:
        words: MODEL KEY=VALUE ...; a VALUE is TOML, or else a string. Dots separate the keys of
            nested tables: spawn.ready_timeout_s=300.
        unset: A setting to remove; may be given several times.
        router: Change settings of the router itself; then there is no MODEL.
        connection: How to find the router.
    """
    model, assignments = None, list(words)
    if not router:
        if not assignments:
            raise CommandError("give a model, or --router")
        model, *assignments = assignments
    changes = dict(map(_assignment, assignments))
    with connected(connection) as client:
        if not changes and not unset:
            query = "" if model is None else f"?model={quote(model, safe='')}"
            print_json(client.get(f"/admin/settings{query}")["effective"])
            return 0
        # Without a digest: the change does not depend on the file's present content.
        body = {"model": model, "set": changes, "unset": list(unset)}
        report = client.post("/admin/settings", body)
    return _print_report(report)


def _assignment(word: str) -> tuple[str, object]:
    """Return key and value of ``KEY=VALUE``; a VALUE that is not TOML is a string.

    Raises:
        CommandError: if *word* has another form.
    """
    key, equals, text = word.partition("=")
    if not equals or not key.strip():
        raise CommandError(f"{word!r} is not KEY=VALUE")
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return key.strip(), text
    return key.strip(), value["value"] if value.keys() == {"value"} else text


def _print_problems(report: dict[str, Any]) -> None:
    for severity, problems in (("error", report["problems"]), ("warning", report["warnings"])):
        for problem in problems:
            line = "" if problem["line"] is None else f"line {problem['line']}: "
            where = f"{problem['where']}: " if problem["where"] else ""
            print_line(f"  {severity}: {line}{where}{problem['message']}")
