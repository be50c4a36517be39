"""The status line of a router in ``systemctl status``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.scheduling.lifecycle import Phase
from ..logs.lines import escape_controls

#: Longest line, in characters: it must fit into one message and onto a screen.
MAX_CHARACTERS: Final = 400

#: The phases that are shown, in this order, and their words.
_PHASE_WORDS: Final = (
    (Phase.READY, "running"),
    (Phase.STARTING, "loading"),
    (Phase.DRAINING, "draining"),
    (Phase.STOPPING, "stopping"),
    (Phase.BACKOFF, "waiting to restart"),
    (Phase.FAILED, "failed"),
)


def status_line(phases: Mapping[str, Phase]) -> str:
    """Return the names of the running models, and of those in other phases than stopped.

    Args:
        phases: The phase of each configured model.
    """
    parts: list[str] = []
    for phase, word in _PHASE_WORDS:
        if names := [name for name, found in phases.items() if found is phase]:
            parts.append(f"{word}: {', '.join(names)}")
    if not any(phase is Phase.READY for phase in phases.values()):
        parts.insert(0, "no model is running")
    models = f"{len(phases)} model{'' if len(phases) == 1 else 's'}"
    line = escape_controls(f"{models}; {'; '.join(parts)}".replace("\t", " "))
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
