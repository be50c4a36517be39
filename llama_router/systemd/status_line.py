"""The status line of a router in ``systemctl status``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..core.config.reload import ReloadOutcome, ReloadReport
from ..core.scheduling.lifecycle import Phase
from ..logs.lines import escape_controls

#: Longest line, in characters: it must fit into one message and onto a screen.
MAX_CHARACTERS: Final = 400

#: Most lines of the configuration file that are named.
_MAX_LINES: Final = 5

#: The phases that are shown, in this order, and their words.
_PHASE_WORDS: Final = (
    (Phase.READY, "running"),
    (Phase.STARTING, "loading"),
    (Phase.DRAINING, "draining"),
    (Phase.STOPPING, "stopping"),
    (Phase.BACKOFF, "waiting to restart"),
    (Phase.FAILED, "failed"),
)


def status_line(phases: Mapping[str, Phase], report: ReloadReport | None = None) -> str:
    """Return the names of the running models, and of those in other phases than stopped.

    A configuration that was rejected, or that needs a restart of the router, stands before them:
    a long list of models must not cut it off.

    Args:
        phases: The phase of each configured model.
        report: The latest reload of the configuration; None before the first one.
    """
    parts: list[str] = []
    for phase, word in _PHASE_WORDS:
        if names := [name for name, found in phases.items() if found is phase]:
            parts.append(f"{word}: {', '.join(names)}")
    if not any(phase is Phase.READY for phase in phases.values()):
        parts.insert(0, "no model is running")
    models = f"{len(phases)} model{'' if len(phases) == 1 else 's'}"
    words = [*_configuration_words(report), models, *parts]
    line = escape_controls("; ".join(words).replace("\t", " "))
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"


def _configuration_words(report: ReloadReport | None) -> list[str]:
    """Return the words about a configuration file that is not, or not wholly, in force."""
    if report is None:
        return []
    words: list[str] = []
    if report.outcome is ReloadOutcome.REJECTED:
        words.append(f"configuration rejected{_lines_of(report)}")
    if report.needs_router_restart:
        words.append(f"needs a restart of the router: {', '.join(report.needs_router_restart)}")
    return words


def _lines_of(report: ReloadReport) -> str:
    """Return the first lines with problems, in parentheses; nothing if no problem has a line."""
    lines = sorted({problem.line for problem in report.problems if problem.line is not None})
    if not lines:
        return ""
    shown = ", ".join(map(str, lines[:_MAX_LINES]))
    more = ", …" if len(lines) > _MAX_LINES else ""
    return f" (line{'s' if len(lines) > 1 else ''} {shown}{more})"
