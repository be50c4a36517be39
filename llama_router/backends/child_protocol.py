"""The lines with which a llama-server reports its state to its parent. Pure.

With ``LLAMA_SERVER_ROUTER_PORT`` in its environment llama-server prints
``cmd_child_to_router:state:{"state": ..., "payload": ...}`` and ends on
``cmd_router_to_child:exit`` or the end of its standard input.
Source: llama.cpp, tools/server (router mode), at 0c1e570.
"""

from __future__ import annotations

from typing import Any, Final

import attrs
import msgspec

#: Set in the environment of a child, this enables the protocol.
ENV_VARIABLE: Final = "LLAMA_SERVER_ROUTER_PORT"

#: Written to its standard input, this ends the child.
EXIT_COMMAND: Final = b"cmd_router_to_child:exit\n"

#: States of a child that has loaded its model; a sleeping one has freed it again.
READY: Final = "ready"
SLEEPING: Final = "sleeping"

_STATE_PREFIX: Final = "cmd_child_to_router:state:"


@attrs.frozen
class ChildState:
    """A state that a child reported.

    Attributes:
        state: ``loading``, ``ready`` or ``sleeping``.
        progress: The loaded part, 0 to 1; None if it was not reported.
        n_ctx: The context of one request, in tokens; None if it was not reported.
    """

    state: str
    progress: float | None = None
    n_ctx: int | None = None


def parse_state(line: str) -> ChildState | None:
    """Return the state in *line*, or None if it is not a state line of this protocol."""
    if not line.startswith(_STATE_PREFIX):
        return None
    try:
        document: Any = msgspec.json.decode(line[len(_STATE_PREFIX) :])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if not isinstance(document, dict) or not isinstance(document.get("state"), str):
        return None
    payload = document.get("payload")
    return ChildState(document["state"], _progress(payload), _n_ctx(payload))


def _progress(payload: object) -> float | None:
    """Return the progress over all stages, which count equally."""
    if not isinstance(payload, dict):
        return None
    value = payload.get("value")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    stages, current = payload.get("stages"), payload.get("current")
    if isinstance(stages, list) and current in stages:
        value = (stages.index(current) + value) / len(stages)
    return min(1.0, max(0.0, float(value)))


def _n_ctx(payload: object) -> int | None:
    meta = payload.get("meta") if isinstance(payload, dict) else None
    value = meta.get("n_ctx") if isinstance(meta, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
