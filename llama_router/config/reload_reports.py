"""Reports of reloads: made of their results, logged, and handed on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs
import trio

from ..core.config.names import ModelId
from ..core.config.reload import (
    ReloadOutcome,
    ReloadPlan,
    ReloadReport,
    router_fields_to_restart_for,
)
from ..errors.config import ConfigError
from ..logs.events import log
from .load import LoadedConfig

#: Time for which a request for a reload is told the changes of a file that was applied before the
#: request, in seconds: saving a file and asking for a reload is one act.
RECENT_S: Final = 10.0


@attrs.frozen
class _Change:
    """A reload that changed models.

    Attributes:
        digest: The digest of the file.
        at_s: Its clock time, in seconds.
        report: Its report.
    """

    digest: bytes
    at_s: float
    report: ReloadReport


class ReloadReports:
    """Reports what became of each reload of a file.

    Args:
        loaded: The configuration at the start.
        on_report: Called with each report.

    Attributes:
        latest: The report of the latest reload.
    """

    def __init__(self, loaded: LoadedConfig, on_report: Callable[[ReloadReport], None]) -> None:
        self._path: Path = loaded.path
        self._router_at_start = loaded.as_written
        self._doubted = {str(warning) for warning in loaded.warnings}  # logged, at the start too
        self._latest_change: _Change | None = None
        self._rejected_s = -math.inf
        self._on_report = on_report
        self.latest = ReloadReport(
            outcome=ReloadOutcome.STARTED, at_s=time.time(), warnings=loaded.warnings
        )

    def applied(self, loaded: LoadedConfig, plan: ReloadPlan, replaced: frozenset[ModelId]) -> None:
        """Report that *loaded* is in force.

        Args:
            loaded: The new configuration.
            plan: Its differences from the one before.
            replaced: The models that get a new process.
        """
        doubted = list(dict.fromkeys(map(str, loaded.warnings)))
        for problem in doubted:
            if problem not in self._doubted:  # once, not at every reload
                log.warning("config.doubted", path=str(self._path), problem=problem)
        self._doubted = set(doubted)
        report = self.of(loaded, plan, replaced)
        self._publish(report)
        if report.changes_models:
            self._latest_change = _Change(loaded.digest, trio.current_time(), report)
        log.info(
            "config.applied",
            path=str(self._path),
            added=list(report.added),
            removed=list(report.removed),
            restarted=list(report.restarted),
            retuned=list(report.retuned),
            needs_router_restart=report.needs_router_restart,
        )

    def of(
        self, loaded: LoadedConfig, plan: ReloadPlan, replaced: frozenset[ModelId]
    ) -> ReloadReport:
        """Return the report of *loaded*; the arguments are those of `applied`."""
        changed = plan.restart | plan.retune
        return ReloadReport(
            outcome=ReloadOutcome.APPLIED,
            at_s=time.time(),
            warnings=loaded.warnings,
            added=tuple(sorted(plan.add)),
            removed=tuple(sorted(plan.remove)),
            restarted=tuple(sorted(changed & replaced)),
            retuned=tuple(sorted(changed - replaced)),
            needs_router_restart=router_fields_to_restart_for(
                self._router_at_start, loaded.config.router
            ),
        )

    @staticmethod
    def refused(error: ConfigError) -> ReloadReport:
        """Return the report of an edit that would make the file unusable; it was not made."""
        return ReloadReport(
            outcome=ReloadOutcome.REJECTED,
            at_s=time.time(),
            problems=error.problems,
            warnings=error.warnings,
        )

    def rejected(self, error: ConfigError) -> None:
        """Report that the file cannot be used, and all stays as it is.

        It is logged once, also if a request asks for a reload of what the poll has just rejected.
        """
        latest, now_s = self.latest, trio.current_time()
        problems = [str(problem) for problem in error.problems]
        is_logged = (
            latest.outcome is ReloadOutcome.REJECTED
            and [str(problem) for problem in latest.problems] == problems
            and now_s - self._rejected_s <= RECENT_S
        )
        self._rejected_s = now_s
        self._publish(
            ReloadReport(
                outcome=ReloadOutcome.REJECTED,
                at_s=time.time(),
                problems=error.problems,
                warnings=error.warnings,
                needs_router_restart=latest.needs_router_restart,  # it still does
            )
        )
        if not is_logged:
            log.error("config.rejected", path=str(self._path), problems=problems)

    def with_recent_changes(self, report: ReloadReport, digest: bytes) -> ReloadReport:
        """Return *report*; if it has no changes, with those that its file brought a moment ago.

        Args:
            report: The report of a reload by request.
            digest: The digest of the file in force.
        """
        latest = self._latest_change
        if report.outcome is not ReloadOutcome.APPLIED or latest is None or report.changes_models:
            return report
        if latest.digest != digest or trio.current_time() - latest.at_s > RECENT_S:
            return report
        return attrs.evolve(
            report,
            added=latest.report.added,
            removed=latest.report.removed,
            restarted=latest.report.restarted,
            retuned=latest.report.retuned,
        )

    def _publish(self, report: ReloadReport) -> None:
        self.latest = report
        self._on_report(report)
