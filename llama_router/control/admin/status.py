"""The state of the router and its models, as ``GET /admin/status`` answers it."""

from __future__ import annotations

import os
import time
from typing import Any

from ... import __version__
from ...core.config.config import Config
from ...core.config.redaction import redacted_config
from ...core.config.reload import ReloadReport
from ...errors.config import Problem
from ...threads import in_thread
from ..web.context import ControlContext
from . import config_schemas, model_schemas


class StatusPage:
    """Describes the router of *context* and its models."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._redacted: tuple[Config, dict[str, Any]] | None = None

    async def router(self, *, with_configuration: bool) -> model_schemas.Status:
        """Return the state of the whole router."""
        context = self._context
        config = context.dispatcher.config
        models = await context.rows.all()
        configuration: dict[str, Any] | None = None
        if with_configuration:
            if self._redacted is None or self._redacted[0] is not config:
                # On a thread: hundreds of models take a few milliseconds.
                self._redacted = (config, await in_thread(redacted_config, config))
            configuration = self._redacted[1]
        return model_schemas.Status(
            version=__version__,
            pid=os.getpid(),
            at=round(time.time(), 3),
            uptime_s=round(time.time() - context.started_s, 3),
            urls=list(context.urls()),
            state_dir=str(context.state_dir),
            config_path=str(context.config_path),
            programs=[
                model_schemas.Program(
                    program=each.program,
                    version=each.version,
                    devices=None if each.devices is None else list(each.devices),
                    warning=each.fault or each.warning,
                    summary=each.describe(),
                )
                for each in context.programs.programs
            ],
            devices=context.rows.devices(),
            device_faults=list(context.memory.faults),
            reload=describe_reload(context.report()),
            models=models,
            configuration=configuration,
        )


def describe_reload(report: ReloadReport) -> config_schemas.Reload:
    """Return *report* as the admin API answers it."""
    return config_schemas.Reload(
        status=report.outcome.value,
        at=round(report.at_s, 3),
        problems=[describe_problem(problem) for problem in report.problems],
        warnings=[describe_problem(problem) for problem in report.warnings],
        added=list(report.added),
        removed=list(report.removed),
        restarted=list(report.restarted),
        retuned=list(report.retuned),
        needs_router_restart=list(report.needs_router_restart),
    )


def describe_problem(problem: Problem) -> config_schemas.Problem:
    """Return a problem as the admin API answers it."""
    return config_schemas.Problem(
        line=problem.line, where=problem.location, message=problem.message
    )
