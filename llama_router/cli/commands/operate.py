"""Commands that operate a running router: ``status load unload reload rescan set``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final
from urllib.parse import quote

from cyclopts import Parameter

from ...core.config.redaction import MASK
from ..client import STATUS, AdminClient, connected, reporting_failures
from ..failures import CommandError, RefusedByRouterError
from ..loading import load_and_show
from ..model_rows import format_duration, format_memory
from ..options import DEFAULT_CONNECTION, Connection, Flag, Json
from ..printing import print_error, print_json, print_line, print_styled
from ..settings_words import is_option, parse_assignment, with_option
from ..tables import Cell

#: The heading of a list of models or settings, by its field in the report of a reload.
_HEADINGS: Final = {
    "added": "added",
    "removed": "removed",
    "restarted": "restarting, once their requests have ended",
    "retuned": "applied without restart",
    "needs_router_restart": "needs a restart of the router",
}

#: The styles of the lines of a diff, by their first characters.
_DIFF_STYLES: Final = {"-": ("red",), "+": ("green",), "@": ("cyan",)}


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
def load(*models: str, connection: Connection = DEFAULT_CONNECTION) -> int:
    """Load models, and wait until they are ready.

    On a terminal it shows how far that is.

    Args:
        models: Names or aliases, which are loaded one after the other.
        connection: How to find the router.
    """
    if not models:
        raise CommandError("give the name of a model", cure="'llama-router list' shows them")
    with connected(connection) as client:
        return _for_each(client, models, lambda name: load_and_show(client, name))


@reporting_failures
def unload(
    *models: str,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,  # noqa: A002 -- the option's name
    force: Flag = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Unload models after their requests have ended, and wait until their backends have exited.

    Args:
        models: Names or aliases.
        all: Unload every model that is loaded, or is being loaded.
        force: Abort requests instead of waiting for them.
        connection: How to find the router.
    """
    if bool(models) == all:
        raise CommandError("give the name of a model, or --all")
    with connected(connection) as client:
        if all:
            listed = client.get(STATUS)["models"]
            models = tuple(model["id"] for model in listed if model["phase"] != "stopped")
            if not models:
                print_line("no model is loaded")
        return _for_each(
            client,
            models,
            lambda name: client.post("/admin/models/unload", {"model": name, "force": force}),
        )


def _for_each(
    client: AdminClient, models: Iterable[str], change: Callable[[str], dict[str, Any]]
) -> int:
    """Change each of *models*, and print what it is now; a failure does not hinder the next."""
    status = 0
    for name in models:
        try:
            state = change(name)
        except RefusedByRouterError as exc:
            client.suggest(exc, name)
            print_error(exc)
            status = 1
        else:
            print_line(f"{state['id']}: {state['phase']}")
    return status


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


def _print_report(report: dict[str, Any], *, is_check: bool = False) -> int:
    """Print the report of a reload, or of what one would do; return the exit status."""
    if not is_check:
        print_line(f"configuration: {report['status']}")
    _print_problems(report)
    for field, heading in _HEADINGS.items():
        if report[field]:
            print_line(f"{heading}: {', '.join(report[field])}")
    if (
        not is_check
        and report["status"] == "applied"
        and not any(report[field] for field in _HEADINGS)
    ):
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
    dry_run: Flag = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Change settings of a model in the router's configuration file, and apply them.

    Comments and order of the file are kept, and the change is printed as a diff of it. Without
    KEY=VALUE, the settings in force are printed.

    Args:
        words: MODEL KEY=VALUE ...; a VALUE is TOML, or else a plain word. Dots separate the keys
            of nested tables: spawn.ready_timeout_s=300. ttl=5m, ctx=8192, gpu_layers=20,
            parallel=2 and threads=8 are understood, too.
        unset: A setting to remove; may be given several times.
        router: Change settings of the router itself; then there is no MODEL.
        dry_run: Only print the change and what it would do; nothing is written.
        connection: How to find the router.
    """
    model, assignments = None, list(words)
    if not router:
        if not assignments:
            raise CommandError("give a model, or --router")
        model, *assignments = assignments
    changes = dict(map(parse_assignment, assignments))
    with connected(connection) as client:
        query = "" if model is None else f"?model={quote(model, safe='')}"
        try:
            before = client.get(f"/admin/settings{query}")
        except RefusedByRouterError as exc:
            client.suggest(exc, model or "")
            raise
        if not changes and not unset:
            print_json(before["effective"])
            return 0
        if options := [key for key in changes if model is not None and is_option(key)]:
            changes["args"] = _with_options(changes, options, before["written"])
        # Without a digest: the change does not depend on the file's present content.
        body = {"model": model, "set": changes, "unset": list(unset), "dry_run": dry_run}
        report = client.post("/admin/settings", body)
    for line in report["diff"]:
        print_styled([Cell(line, _DIFF_STYLES.get(line[:1], ()))])
    if dry_run:
        print_line("nothing was written (--dry-run)")
    return _print_report(report, is_check=dry_run)


def _with_options(
    changes: dict[str, object], options: list[str], written: dict[str, Any]
) -> list[str]:
    """Move *options* of llama-server from *changes* into the model's ``args``; return those.

    Raises:
        CommandError: if they cannot be known completely.
    """
    args = changes.get("args", written.get("args", []))
    if not isinstance(args, list) or any(MASK in str(word) for word in args):
        raise CommandError(
            f"{options[0]} cannot be set here: the model's args hold a secret, or are no array",
            cure="edit the configuration file",
        )
    words = list(map(str, args))
    for key in options:
        words = with_option(words, key, changes.pop(key))
    return words


def _print_problems(report: dict[str, Any]) -> None:
    for severity, problems in (("error", report["problems"]), ("warning", report["warnings"])):
        for problem in problems:
            line = "" if problem["line"] is None else f"line {problem['line']}: "
            where = f"{problem['where']}: " if problem["where"] else ""
            print_line(f"  {severity}: {line}{where}{problem['message']}")
