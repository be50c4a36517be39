"""What the router says about itself and its models, ready for JSON."""

from __future__ import annotations

import os
import time
from typing import Any

import trio

from .. import __version__
from ..core.config import ModelSpec
from ..core.reports import ReloadReport
from ..errors import BackendExitedError, Problem, RouterError
from .context import ControlContext


async def router_status(context: ControlContext) -> dict[str, object]:
    """Return the state of the whole router."""
    models = context.dispatcher.config.models
    return {
        "version": __version__,
        "pid": os.getpid(),
        "uptime_s": round(time.time() - context.started_s, 3),
        "urls": list(context.urls()),
        "state_dir": str(context.state_dir),
        "config": {"path": str(context.config_path), **report_status(context.report())},
        "models": [model_status(context, spec) for spec in models.values()],
    }


def report_status(report: ReloadReport) -> dict[str, object]:
    """Return what became of a look at the configuration file."""
    return {
        "status": report.verdict.value,
        "at": round(report.at_s, 3),
        "problems": [_problem(problem) for problem in report.problems],
        "warnings": [_problem(problem) for problem in report.warnings],
        "added": list(report.added),
        "removed": list(report.removed),
        "restarted": list(report.restarted),
        "retuned": list(report.retuned),
        "needs_router_restart": list(report.needs_router_restart),
    }


def _problem(problem: Problem) -> dict[str, object]:
    return {"line": problem.line, "where": problem.location, "message": problem.message}


def model_status(context: ControlContext, spec: ModelSpec) -> dict[str, Any]:
    """Return the state of one model."""
    dispatcher = context.dispatcher
    statistics = dispatcher.statistics_of(spec.id)
    backend = dispatcher.backend(spec.id)
    now_s = trio.current_time()
    return {
        "id": str(spec.id),
        "aliases": list(spec.aliases),
        "group": spec.group,
        "phase": "removed" if statistics is None else statistics.phase.value,
        "pid": None if backend is None else backend.pid,
        "port": None if backend is None else backend.port,
        "ready_for_s": None if backend is None else round(now_s - backend.ready_s, 3),
        "in_flight": 0 if statistics is None else statistics.in_flight,
        "queued": 0 if statistics is None else statistics.queued,
        "failures": 0 if statistics is None else statistics.failures,
        "last_error": None if statistics is None else _error(statistics.last_error),
    }


def _error(error: RouterError | None) -> dict[str, object] | None:
    if error is None:
        return None
    tail = error.log_tail if isinstance(error, BackendExitedError) else ()
    return {"code": error.code, "message": str(error), "log_tail": list(tail)}
