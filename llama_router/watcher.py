"""Applies a changed ``router.toml`` to the running router."""

from __future__ import annotations

from pathlib import Path

import structlog
import trio

from .config_file import load_config
from .core.diff import plan_reload, router_fields_to_restart_for
from .dispatcher import Dispatcher
from .errors import ConfigError

log = structlog.get_logger()


async def reload(path: Path, dispatcher: Dispatcher) -> bool:
    """Read *path* again and apply what changed; return whether it was usable.

    A bad file changes nothing: everything that is wrong with it is logged, and the
    configuration in force stays.
    """
    try:
        loaded = await trio.to_thread.run_sync(load_config, path)
    except ConfigError as exc:
        log.error("config.rejected", path=str(path), problems=[str(p) for p in exc.problems])
        return False
    for warning in loaded.warnings:
        log.warning("config.doubted", path=str(path), problem=str(warning))
    plan = plan_reload(dispatcher.config, loaded.config)
    needs_restart = router_fields_to_restart_for(dispatcher.config, loaded.config)
    dispatcher.reconfigure(loaded.config)
    log.info(
        "config.applied",
        path=str(path),
        added=sorted(plan.add),
        removed=sorted(plan.remove),
        restarted=sorted(plan.restart),
        retuned=sorted(plan.retune),
        needs_router_restart=needs_restart,
    )
    return True
