"""Scans for models while the router runs: one at a time, each applied by a reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NoReturn

import attrs
import trio

from ..config.catalog import Catalog, ScanReport
from ..config.scan_worker.parent import ScanError, scan_in_process
from ..core.config.reload import ReloadReport
from ..core.config.specs import RouterSpec
from ..logs.events import log


class Scans:
    """Scans for models on request.

    Args:
        catalog: Finds models; without it a scan does nothing.
        router: Returns the settings in force, which name the folders.
        reload: Applies the models that were found.
    """

    def __init__(
        self,
        catalog: Catalog | None,
        router: Callable[[], RouterSpec],
        reload: Callable[[], Awaitable[ReloadReport]],
    ) -> None:
        self._catalog = catalog
        self._router = router
        self._reload = reload
        self._turn = trio.Lock()

    async def scan(self) -> ScanReport:
        """Scan for models; those found are in force when this returns.

        The report has the models that are new to this router or gone from it, also those that an
        import had stored before.

        Raises:
            ScanError: if the scan fails, or if a mistake in the configuration prevents the
                reload that would apply its result.
        """
        async with self._turn:
            if self._catalog is None:
                return ScanReport()
            scanned = await scan_in_process(self._catalog, self._router())
            report = await self._reload()
        if report.problems:
            problems = "; ".join(map(str, report.problems))
            raise ScanError(
                "models were looked for, but the configuration stays as it was, "
                f"because its file has mistakes: {problems}"
            )
        # What an import by another process had stored is new to this router, too.
        new = tuple(sorted({*scanned.new, *report.added}))
        removed = tuple(sorted({*scanned.removed, *report.removed}))
        return attrs.evolve(scanned, new=new, removed=removed)

    async def run(self, next_request: Callable[[], Awaitable[None]]) -> NoReturn:
        """Scan whenever *next_request* returns, until cancelled."""
        while True:
            await next_request()
            await self.scan_or_log()

    async def scan_or_log(self) -> None:
        """Scan; log a failure."""
        try:
            await self.scan()
        except ScanError as exc:
            log.error("models.unscanned", reason=str(exc))
