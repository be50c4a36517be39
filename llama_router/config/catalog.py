"""The catalog of models: found by scans, imported by the user, or written in ``router.toml``."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

from ..core.config.config import Config
from ..core.config.reload import reuse_unchanged
from ..core.config.specs import ModelState, RouterSpec
from ..files import is_missing, reason_of
from ..files.stalls import despite_stalls, is_below
from ..logs.events import log
from ..models import found_file
from ..models.caches import Caches, find_sources
from ..models.compatibility import Compatibility
from ..models.discovery.discover import discover
from ..models.discovery.found import ScanWarning
from ..models.found_file import FoundFileContent
from ..models.scan import Scan, scan
from . import service_lists
from .file import ConfigFile, read_file
from .load import LoadedConfig, load_file
from .merge import FoundModels
from .paths import identity_of

#: Most warnings of one scan that are logged; a broken disk has thousands of files.
MAX_LOGGED_WARNINGS: Final = 50

#: Most names in one line of the log.
MAX_LOGGED_NAMES: Final = 20


@attrs.frozen(kw_only=True)
class ScanReport:
    """The result of a scan or an import.

    Attributes:
        models: All models found.
        new: Those of them that were not known before.
        removed: Known models that were not found again.
        warnings: Problems with single files.
        is_stored: Whether the result was written to the state directory.
        took_s: Its duration in seconds.
    """

    models: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    warnings: tuple[ScanWarning, ...] = ()
    took_s: float = 0.0
    is_stored: bool = True

    def log(self, *, except_for: Collection[ScanWarning] = ()) -> None:
        """Log the result and its first warnings, but those that were logged before."""
        warnings = [warning for warning in self.warnings if warning not in except_for]
        for warning in warnings[:MAX_LOGGED_WARNINGS]:
            log.warning("models.doubted", path=warning.path, reason=warning.reason)
        log.info(
            "models.scanned",
            found=len(self.models),
            new_models=len(self.new),
            new=self.new[:MAX_LOGGED_NAMES],
            removed_models=len(self.removed),
            removed=self.removed[:MAX_LOGGED_NAMES],
            doubts=len(self.warnings),
            took_s=round(self.took_s, 4),
        )


@attrs.frozen(kw_only=True)
class ScanRequest:
    """The arguments of a scan by another process.

    Attributes:
        state_dir: State directory of the catalog.
        models_dirs: As in ``[router]``.
        scan_caches: As in ``[router]``.
        safetensors_template: As in ``[router]``.
    """

    state_dir: str
    models_dirs: tuple[str, ...]
    scan_caches: bool
    safetensors_template: str | None = None


@attrs.frozen(kw_only=True)
class ScanReply:
    """The result of a scan by another process.

    Attributes:
        report: Its report.
        content: All known models, if they could not be stored; else None.
    """

    report: ScanReport
    content: FoundFileContent | None = None


class Catalog:
    """Finds models, stores them in the state directory, and merges them with ``router.toml``.

    Every method blocks on files, and may be called on any thread. Another process may import
    into the same state directory at any time. A folder that cannot be read, or does not answer,
    only affects the models in it.

    Args:
        state_dir: The folder of ``models.toml``.
        environ: Environment variables that determine the folders of the caches.
        optional: Whether the configuration file may be missing.

    Attributes:
        environ: As given.
    """

    def __init__(
        self, state_dir: Path, environ: Mapping[str, str], *, optional: bool = False
    ) -> None:
        self._state_dir = state_dir
        self.environ = environ
        self._optional = optional
        self._content = FoundFileContent()
        self._content_version: object = None

    def load(self, path: Path, *, running: bool = False) -> LoadedConfig:
        """Return the configuration file *path*, merged with the known models.

        Args:
            path: The file.
            running: See `load_file`.

        Raises:
            ConfigError: if *path* cannot be used.
        """
        return despite_stalls(
            lambda: self._load(read_file(path, optional=self._optional), running=running)
        )

    def reload(self, file: ConfigFile, current: Config) -> LoadedConfig:
        """Return *file* as the next configuration of a router that runs with *current*.

        The objects of unchanged models are those of *current*.

        Raises:
            ConfigError: if *file* cannot be used.
        """
        loaded = despite_stalls(lambda: self._load(file, running=True))
        return attrs.evolve(loaded, config=reuse_unchanged(current, loaded.config))

    def _load(self, file: ConfigFile, *, running: bool) -> LoadedConfig:
        content = self._stored([])
        files = {model: _identity_or_path(table) for model, table in content.models.items()}
        present = {model: identity for model, identity in files.items() if identity is not None}
        found = FoundModels(
            models={m: found_file.without_info(content.models[m]) for m in present},
            files=present,
            safetensors=frozenset(
                m for m in present if found_file.is_safetensors(content.models[m])
            ),
            startup_model=content.startup_model,
            services=service_lists.read(self._state_dir),
        )
        return load_file(file, found=found, running=running, optional=self._optional)

    def scan(self, router: RouterSpec, *, keep: bool = True) -> ScanReport:
        """Scan the caches and folders of *router*; the models found replace the ``auto`` ones.

        Args:
            router: Its ``models_dirs`` and ``scan_caches`` count.
            keep: Store the result in the state directory.
        """
        begun_s = time.perf_counter()

        def update() -> ScanReport:
            caches = find_sources(self.environ) if router.scan_caches else None
            found = self._scan(
                caches,
                [Path(folder) for folder in router.models_dirs],
                safetensors=router.safetensors_template is not None,
            )
            return self._update(found, ModelState.AUTO, begun_s, keep=keep)

        return despite_stalls(update)

    def import_folder(self, folder: Path) -> ScanReport:
        """Import every model in *folder*, at any depth, as a ``manual`` one."""
        begun_s = time.perf_counter()
        return despite_stalls(
            lambda: self._update(self._scan(None, [folder]), ModelState.MANUAL, begun_s, keep=True)
        )

    def _scan(
        self, caches: Caches | None, folders: list[Path], *, safetensors: bool = False
    ) -> Scan:
        """Return the files; those that were complete at the last scan are not read whole again."""
        warnings: list[ScanWarning] = []
        tables = self._stored(warnings).models.values()
        complete = frozenset(v for table in tables for v in found_file.versions_of(table))
        found = scan(caches, folders, complete=complete, safetensors=safetensors)
        return attrs.evolve(found, warnings=(*warnings, *found.warnings))

    def scan_request(self, router: RouterSpec) -> ScanRequest:
        """Return the request by which another process can `scan` for this catalog."""
        return ScanRequest(
            state_dir=str(self._state_dir),
            models_dirs=router.models_dirs,
            scan_caches=router.scan_caches,
            safetensors_template=router.safetensors_template,
        )

    @staticmethod
    def serve(request: ScanRequest, environ: Mapping[str, str]) -> ScanReply:
        """Return the result of the scan that *request* asks for; called in the other process."""
        catalog = Catalog(Path(request.state_dir), environ)
        router = RouterSpec(
            models_dirs=request.models_dirs,
            scan_caches=request.scan_caches,
            safetensors_template=request.safetensors_template,
        )
        report = catalog.scan(router)
        return ScanReply(report=report, content=None if report.is_stored else catalog._content)

    def accept(self, reply: ScanReply) -> ScanReport:
        """Use and log the result of another process's scan; return its report."""
        if reply.content is not None:
            self._content = reply.content
        reply.report.log()
        return reply.report

    def store_service_list(self, url: str, names: tuple[str, ...]) -> bool:
        """Store the models that the service at *url* lists; return whether that is news.

        Raises:
            OSError: if it cannot be stored.
        """
        return despite_stalls(lambda: service_lists.store(self._state_dir, url, names))

    def set_startup_model(self, file: Path) -> str | None:
        """Store the model of *file* as the startup model, unless a known model is it already.

        A startup model in ``router.toml`` takes precedence.

        Returns:
            The id of the model; None if no scan has found it.

        Raises:
            OSError: if it cannot be stored.
        """
        with found_file.locked(self._state_dir):
            content = self._stored([])
            identity = identity_of(str(file))
            tables = content.models.items()
            model = next((m for m, t in tables if identity_of(t["path"]) == identity), None)
            if model is not None and content.startup_model not in content.models:
                self._content = attrs.evolve(content, startup_model=model)
                found_file.write(self._state_dir, self._content)
                self._content_version = found_file.version(self._state_dir)
        return model

    def _update(self, found: Scan, state: ModelState, begun_s: float, *, keep: bool) -> ScanReport:
        warnings = list(found.warnings)
        before = self._content
        try:
            if not keep:
                scanned = self._merge(found, state, warnings, begun_s)
            else:
                with found_file.locked(self._state_dir):
                    scanned = self._merge(found, state, warnings, begun_s)
                    found_file.write(self._state_dir, self._content)
                    self._content = attrs.evolve(self._content, damaged=False)
                    self._content_version = found_file.version(self._state_dir)
        except OSError as exc:  # the result is only known until this process ends
            reason = f"what was found cannot be kept: {reason_of(exc)}"
            warnings.append(ScanWarning(str(self._state_dir), reason))
            self._content = before
            scanned = attrs.evolve(self._merge(found, state, warnings, begun_s), is_stored=False)
        return scanned

    def _merge(
        self, found: Scan, state: ModelState, warnings: list[ScanWarning], begun_s: float
    ) -> ScanReport:
        """Replace the models of *state* by those that were *found*, in memory."""
        before = self._stored(warnings)
        same_state = {m: t for m, t in before.models.items() if t["state"] == state}
        if state is ModelState.MANUAL:  # imported models of other folders stay
            paths = {file.path for files in found.collections for file in files.files}
            same_state = {m: t for m, t in same_state.items() if t["path"] in paths}
        others = {m: t for m, t in before.models.items() if m not in same_state}
        manual = {m: t for m, t in others.items() if t["state"] == ModelState.MANUAL}
        discovery = discover(
            found.collections,
            taken=manual,
            known={table["path"]: model for model, table in same_state.items()},
            skip=_identities(manual.values()),
            check=Compatibility().fault,
        )
        tables = {m.id: found_file.table_of(m, str(state)) for m in discovery.models}
        if state is ModelState.MANUAL:  # an import replaces the entry of a scan for the same file
            identities = _identities(tables.values())
            kept = {m: t for m, t in others.items() if identity_of(t["path"]) not in identities}
            found_paths = {table["path"] for table in tables.values()}
            same_state = {
                m: t for m, t in same_state.items() if m in tables or t["path"] not in found_paths
            }
            models = same_state | kept | tables
        else:  # models in folders that could not be read may still exist
            kept = {m: t for m, t in same_state.items() if _may_be_in(t["path"], found.unreadable)}
            models = kept | manual | tables
        self._content = attrs.evolve(before, models=dict(sorted(models.items())))
        return ScanReport(
            models=tuple(sorted(tables)),
            new=tuple(sorted(tables.keys() - same_state.keys())),
            removed=tuple(sorted(same_state.keys() - models.keys())),
            warnings=(*warnings, *discovery.warnings),
            took_s=time.perf_counter() - begun_s,
        )

    def _stored(self, warnings: list[ScanWarning]) -> FoundFileContent:
        """Return the known models; the file is read again if it was changed."""
        version = found_file.version(self._state_dir)
        if version is not None and version != self._content_version:
            self._content = found_file.read(self._state_dir, warnings)
            self._content_version = version
        return self._content


def scan_sources(router: RouterSpec) -> object:
    """Return the settings that determine what is scanned: if they change, a scan is due."""
    return (router.models_dirs, router.scan_caches, router.safetensors_template is None)


def _identity_or_path(table: found_file.Table) -> object:
    """Return the identity of a model's file, or its path if unreadable; None if it is missing."""
    path = table["path"]
    identity = identity_of(path)
    return path if identity is None and not is_missing(path) else identity


def _may_be_in(path: str, unreadable: Iterable[str]) -> bool:
    return any(is_below(path, folder) for folder in unreadable) and not is_missing(path)


def _identities(tables: Iterable[found_file.Table]) -> set[object]:
    return {identity_of(table["path"]) for table in tables} - {None}
