"""What became of the latest look at the configuration file. Values only."""

from __future__ import annotations

from enum import StrEnum

import attrs

from ..errors.config import Problem


class Verdict(StrEnum):
    """What a look at the file led to."""

    STARTED = "started"  # the file is the one that the router started with
    APPLIED = "applied"
    REJECTED = "rejected"


@attrs.frozen(kw_only=True)
class ReloadReport:
    """The latest reload, or the start.

    Attributes:
        verdict: What it led to.
        at_s: When, in seconds since the epoch.
        problems: Everything that is wrong with the file, if it was rejected.
        warnings: What looks wrong, but does not prevent the use of the file.
        added: Models that are new.
        removed: Models that are gone.
        restarted: Models whose process is replaced: by a new one, once the old one has
            answered its requests, unless another model takes its place meanwhile.
        retuned: Models that have new settings and go on with their process, if they have one.
        needs_router_restart: Changed settings that only a new start of the router applies.
    """

    verdict: Verdict
    at_s: float
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    retuned: tuple[str, ...] = ()
    needs_router_restart: tuple[str, ...] = ()
