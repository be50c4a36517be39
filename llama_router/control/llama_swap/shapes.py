"""The forms of llama-swap's answers.

Source: https://github.com/mostlygeek/llama-swap, its handlers of /running and /api/events.
"""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from ...core.config.redaction import redacted_command
from ...core.config.specs import ModelSpec
from ...core.scheduling.lifecycle import Phase
from ...dispatch.activity_log import ActivityRow

Json: TypeAlias = dict[str, Any]

#: llama-swap's state for each phase.
STATES: Final = {
    Phase.STOPPED: "stopped",
    Phase.STARTING: "starting",
    Phase.READY: "ready",
    Phase.DRAINING: "ready",
    Phase.STOPPING: "stopping",
    Phase.BACKOFF: "stopped",
    Phase.FAILED: "stopped",
}

#: Its number for figures that are not known.
_UNKNOWN: Final = -1


def running_model(spec: ModelSpec, phase: Phase, port: int | None) -> Json:
    """Return the entry of a model with a process in the list of ``/running``.

    Args:
        spec: The model.
        phase: Phase of its backend.
        port: The port of its backend; None before it is ready.
    """
    return {
        "model": str(spec.id),
        "state": STATES[phase],
        "cmd": shlex.join(redacted_command((*spec.spawn.command, *spec.spawn.args))),
        "proxy": "" if port is None else f"http://127.0.0.1:{port}",
        "ttl": int(spec.ttl_s),
        "name": spec.name or "",
        "description": spec.description or "",
    }


def model_status(spec: ModelSpec, phase: Phase) -> Json:
    """Return the entry of a model in an event ``modelStatus``."""
    return {
        "id": str(spec.id),
        "name": spec.name or "",
        "description": spec.description or "",
        "state": STATES[phase],
        "unlisted": spec.unlisted,
        "peerID": "",
        "aliases": list(spec.aliases),
    }


def activity_entry(row: ActivityRow) -> Json:
    """Return an ended request as an entry of the events ``metrics``."""
    prompt, completion, rate = row.prompt_tokens, row.completion_tokens, row.tokens_per_s
    ended = datetime.fromtimestamp(row.began_at + row.duration_s, UTC)
    tokens = {
        "cache_tokens": _UNKNOWN,
        "input_tokens": 0 if prompt is None else prompt,
        "output_tokens": 0 if completion is None else completion,
        "prompt_per_second": float(_UNKNOWN),
        "tokens_per_second": float(_UNKNOWN) if rate is None else rate,
    }
    return {
        "id": row.id,
        "timestamp": ended.isoformat().replace("+00:00", "Z"),
        "model": row.model or "",
        "req_path": row.path,
        "resp_status_code": row.status,
        "duration_ms": round(row.duration_s * 1000),
        "has_capture": False,
        # Older versions have the figures beside the model, newer ones in an object.
        **tokens,
        "tokens": tokens,
    }


def message(kind: str, data: object) -> bytes:
    """Return a message of ``/api/events``; its data are JSON in a text."""
    envelope = {"type": kind, "data": msgspec.json.encode(data).decode()}
    return b"event:message\ndata:%b\n\n" % msgspec.json.encode(envelope)
