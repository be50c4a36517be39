"""What ``systemctl status`` shows of a router, in one line. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.scheduling.lifecycle import Phase
from ..logs.lines import escape_controls

#: Longest line, in characters: it must fit into one message and onto a screen.
MAX_CHARACTERS: Final = 400

#: What is worth saying about a model, in this order.
_SAID: Final = (
    (Phase.READY, "running"),
    (Phase.STARTING, "loading"),
    (Phase.DRAINING, "draining"),
    (Phase.STOPPING, "stopping"),
    (Phase.BACKOFF, "waiting to restart"),
    (Phase.FAILED, "failed"),
)


def status_line(phases: Mapping[str, Phase]) -> str:
    """Return which of the models are running, and what the others do that do something.

    Args:
        phases: The phase of each configured model.
    """
    parts: list[str] = []
    for phase, word in _SAID:
        if names := [name for name, found in phases.items() if found is phase]:
            parts.append(f"{word}: {', '.join(names)}")
    if not any(phase is Phase.READY for phase in phases.values()):
        parts.insert(0, "no model is running")
    models = f"{len(phases)} model{'' if len(phases) == 1 else 's'}"
    line = escape_controls(f"{models}; {'; '.join(parts)}".replace("\t", " "))
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
