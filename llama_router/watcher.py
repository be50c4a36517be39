"""Applies a changed ``router.toml`` to the running router."""

from __future__ import annotations

from pathlib import Path

import attrs
import structlog
import trio

from .config_file import load_config
from .core.config import RouterSpec
from .core.diff import plan_reload, router_fields_to_restart_for
from .dispatcher import Dispatcher
from .errors import ConfigError

log = structlog.get_logger()


async def reload(path: Path, dispatcher: Dispatcher, *, started: RouterSpec) -> bool:
    """Read *path* again and apply what changed; return whether it was usable.

    A bad file changes nothing: everything that is wrong with it is logged, and the
    configuration in force stays.

    Args:
        path: The file.
        dispatcher: Whose configuration is replaced.
        started: ``[router]`` as the file had it when this router started.
    """
    try:
        # Abandoned at shutdown: a file system that hangs must not keep the router alive.
        loaded = await trio.to_thread.run_sync(load_config, path, abandon_on_cancel=True)
    except ConfigError as exc:
        log.error("config.rejected", path=str(path), problems=[str(p) for p in exc.problems])
        return False
    for warning in loaded.warnings:
        log.warning("config.doubted", path=str(path), problem=str(warning))
    plan = plan_reload(dispatcher.config, loaded.config)
    needs_restart = router_fields_to_restart_for(
        attrs.evolve(loaded.config, router=started), loaded.config
    )
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
