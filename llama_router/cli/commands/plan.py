"""``plan``: which models fit with which, on which devices, and which would leave."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlencode

import msgspec
import trio

from ...config.locations import state_dir_for
from ...control.admin.memory import describe_plan
from ...dispatch.memory_watch import read_once
from ..client import connected, reporting_failures
from ..config_loading import PreparedConfig, prepare_or_explain
from ..failures import NoRouterError
from ..model_rows import format_memory
from ..options import DEFAULT_CONNECTION, Connection, Flag, Json
from ..printing import fail, print_json, print_line, print_message, print_table


@reporting_failures
def plan(
    *models: str,
    offline: Flag = False,
    json: Json = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """Print which models fit with which, on which devices, and which would leave for others.

    The models are loaded one after the other, in thought, and all others are idle. Without any,
    each model is looked at alone.

    Args:
        models: Names or aliases of models.
        offline: Do not ask a running router; begin with nothing loaded.
        json: Print JSON.
        connection: How to find the router.
    """
    found: dict[str, Any] | None = None
    if not offline:
        query = urlencode([("model", name) for name in models])
        try:
            with connected(connection) as client:
                found = client.get(f"/admin/plan?{query}")
        except NoRouterError:
            print_message("no router runs: this is the plan for an empty machine")
    if found is None or not found["devices"]:
        prepared = prepare_or_explain(connection.config, keep=False, strict=True)
        if prepared is None:
            return 1
        unknown = [name for name in models if prepared.loaded.config.resolve(name) is None]
        if unknown:
            return fail(f"no model or alias is named {unknown[0]!r}")
        found = _on_empty_machine(prepared, models)
    if json:
        print_json(found)
    else:
        _print(found)
    return 0


def _on_empty_machine(prepared: PreparedConfig, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the plan with nothing loaded; all names are known."""
    config = prepared.loaded.config
    chosen = [model for name in names if (model := config.resolve(name)) is not None]
    state_dir = state_dir_for(config.router.state_dir, os.environ)
    view, faults = trio.run(read_once, config, os.environ, state_dir)
    result: dict[str, Any] = msgspec.to_builtins(describe_plan(config, view, faults, {}, chosen))
    return result


def _print(found: dict[str, Any]) -> None:
    if found["policy"] != "memory":
        print_message(
            "the policy is 'groups': memory is not looked at; with [scheduler] policy = \"memory\" "
            "it would be so:"
        )
    for fault in found["device_faults"]:
        print_message(f"warning: {fault}")
    kinds = {device["name"]: device["kind"] for device in found["devices"]}

    def amount(name: str, mib: int) -> str:
        return str(mib) if kinds.get(name) == "pool" else format_memory(mib)

    rows = [("DEVICE", "FOR MODELS", "RESERVED", "OTHERS", "LOADED", "FREE", "")]
    rows += [
        (
            device["name"],
            amount(device["name"], device["budget_mib"]),
            amount(device["name"], device["reserve_mib"]),
            amount(device["name"], device["others_mib"] + device["freeing_mib"]),
            amount(device["name"], device["claimed_mib"]),
            amount(device["name"], device["free_mib"]),
            _described(device),
        )
        for device in found["devices"]
    ]
    print_table(rows)
    print_line("")
    models = [("MODEL", "TAKES", "KNOWN FROM", "EVICTS", "")]
    for model in found["models"]:
        claims = model["claims"].items()
        takes = " + ".join(f"{amount(name, mib)} {name}" for name, mib in claims)
        source = (model["footprint"] or {"source": "-"})["source"]
        evicts = ", ".join(model["evicted"])
        models.append((model["id"], takes or "-", source, evicts or "-", model["reason"]))
    print_table(models)


def _described(device: dict[str, Any]) -> str:
    """Return what a device is, and which other programs use it."""
    programs = ", ".join(
        f"{name} ({format_memory(mib)})" for name, mib in device["programs"].items()
    )
    return f"{device['description']}, used by {programs}" if programs else device["description"]
