"""Keeps the lists of models of services up to date, where ``models`` has a pattern."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NoReturn

import trio

from ..backends.service import list_models
from ..config.catalog import Catalog
from ..core.config.config import Config
from ..core.config.service import Service
from ..errors.backends import UpstreamError
from ..logs.events import log
from ..threads import in_thread

#: Seconds between two looks at a configuration without such services.
IDLE_S: Final = 5.0


class ServiceImports:
    """Asks services for their lists of models, and lets new ones come into force.

    Args:
        catalog: Stores the lists, and merges them with the configuration.
        config: Returns the configuration in force.
        environ: The environment, which may hold keys of services.
        reload: Applies a list that has changed.
    """

    def __init__(
        self,
        catalog: Catalog,
        config: Callable[[], Config],
        environ: Mapping[str, str],
        reload: Callable[[], Awaitable[object]],
    ) -> None:
        self._catalog = catalog
        self._config = config
        self._environ = environ
        self._reload = reload
        self._silent = set[Service]()  # of these it was said that they give no list

    async def run(self) -> NoReturn:
        """Ask each service once per ``health_period_s`` until cancelled."""
        asked_s: dict[Service, float] = {}
        while True:
            now_s = trio.current_time()
            services = set(self._config().imports.values())
            asked_s = {service: at_s for service, at_s in asked_s.items() if service in services}
            due = [s for s in services if asked_s.get(s, -1e9) + s.health_period_s <= now_s]
            changed = False
            for service in due:
                asked_s[service] = trio.current_time()
                changed |= await self._ask(service)
            if changed:
                await self._reload()
            await trio.sleep(min((s.health_period_s for s in services), default=IDLE_S))

    async def _ask(self, service: Service) -> bool:
        """Ask *service*; return whether its list has changed and was stored."""
        timeout_s = self._config().router.connection_timeout_s
        try:
            names = await list_models(service, environ=self._environ, timeout_s=timeout_s)
        except UpstreamError as exc:
            if service not in self._silent:
                log.warning("service.unlisted", url=service.url, reason=str(exc))
            self._silent.add(service)
            return False
        self._silent.discard(service)
        try:
            changed = await in_thread(
                self._catalog.store_service_list, service.url, names, abandon_on_cancel=True
            )
        except OSError as exc:
            reason = f"its list of models cannot be stored: {exc.strerror or exc}"
            log.warning("service.unlisted", url=service.url, reason=reason)
            return False
        if changed:
            log.info("service.listed", url=service.url, models=len(names))
        return changed
