"""Which models there are: ``router.toml``, over what scans and imports found."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs
import structlog

from ..core.config.config import Config
from ..core.config.diff import share
from ..core.config.merge import Found
from ..core.config.specs import ModelState, RouterSpec
from ..files import is_missing, reason_of
from ..models import found_file
from ..models.caches import find_caches
from ..models.discovery.found import Doubt
from ..models.discovery.models import discover
from ..models.found_file import FoundFileContent
from ..models.scan import Scan, scan
from ..stalls import despite_stalls, is_below
from .file import ConfigFile, read_file
from .load import LoadedConfig, load_file
from .paths import identity_of

log = structlog.get_logger()

#: Doubts of one scan that are logged; a broken disk has thousands of files.
MAX_DOUBTS: Final = 50

#: Names that one line of the log has at most.
MAX_NAMES: Final = 20


@attrs.frozen(kw_only=True)
class Scanned:
    """What a scan, or an import, changed.

    Attributes:
        models: The models found, whether or not they were known.
        new: Those among them that were not.
        removed: Those that were known, and whose files are gone.
        doubts: What is to be said about files.
        kept: Whether it is on disk, too.
        took_s: Seconds.
    """

    models: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    took_s: float = 0.0
    kept: bool = True

    def log(self) -> None:
        """Log it."""
        for doubted in self.doubts[:MAX_DOUBTS]:
            log.warning("models.doubted", path=doubted.path, reason=doubted.reason)
        log.info(
            "models.scanned",
            found=len(self.models),
            new_models=len(self.new),
            new=self.new[:MAX_NAMES],
            removed_models=len(self.removed),
            removed=self.removed[:MAX_NAMES],
            doubts=len(self.doubts),
            took_s=round(self.took_s, 4),
        )


@attrs.frozen(kw_only=True)
class Request:
    """What another process needs to know in order to scan for a catalog."""

    state_dir: str
    models_dirs: tuple[str, ...]
    scan_caches: bool


@attrs.frozen(kw_only=True)
class Answer:
    """What that process found.

    Attributes:
        scanned: What changed.
        content: What is known now, if it could not be kept.
    """

    scanned: Scanned
    content: FoundFileContent | None = None


class Catalog:
    """Finds models, remembers them in the state directory, and merges them with the user's.

    Every method blocks on files, and may be called on any thread. Another process may import
    into the same state directory at any time. What cannot be looked at, or hangs, costs the
    models that are there, and those only.

    Args:
        state_dir: Where models are remembered.
        environ: Says where the caches are.
        optional: There need be no configuration file.

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
        self._content_stamp: object = None

    def load(self, path: Path, *, running: bool = False) -> LoadedConfig:
        """Read the configuration file *path* over the models that are known.

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
        """Check *file* for a router that runs with *current*; what stays the same is shared.

        Raises:
            ConfigError: if *file* cannot be used.
        """
        loaded = despite_stalls(lambda: self._load(file, running=True))
        return attrs.evolve(loaded, config=share(current, loaded.config))

    def _load(self, file: ConfigFile, *, running: bool) -> LoadedConfig:
        content = self._known([])
        files = {model: _identity_or_path(table) for model, table in content.models.items()}
        present = {model: identity for model, identity in files.items() if identity is not None}
        found = Found(
            models={m: found_file.without_info(content.models[m]) for m in present},
            files=present,
            startup_model=content.startup_model,
        )
        return load_file(file, found=found, running=running, optional=self._optional)

    def scan(self, router: RouterSpec, *, keep: bool = True) -> Scanned:
        """Look for models where *router* says; those found replace the ``auto`` ones.

        Args:
            router: Its ``models_dirs`` and ``scan_caches`` count.
            keep: Write them into the state directory.
        """
        begun_s = time.perf_counter()

        def update() -> Scanned:
            caches = find_caches(self.environ) if router.scan_caches else None
            found = scan(caches, map(Path, router.models_dirs))
            return self._update(found, ModelState.AUTO, begun_s, keep=keep)

        return despite_stalls(update)

    def import_folder(self, folder: Path) -> Scanned:
        """Make every model in *folder*, at any depth, a ``manual`` one."""
        begun_s = time.perf_counter()
        return despite_stalls(
            lambda: self._update(scan(None, [folder]), ModelState.MANUAL, begun_s, keep=True)
        )

    def request(self, router: RouterSpec) -> Request:
        """Return what another process needs for a `scan`."""
        return Request(
            state_dir=str(self._state_dir),
            models_dirs=router.models_dirs,
            scan_caches=router.scan_caches,
        )

    @staticmethod
    def answer(request: Request, environ: Mapping[str, str]) -> Answer:
        """Scan as *request* says; to be called in that process."""
        catalog = Catalog(Path(request.state_dir), environ)
        router = RouterSpec(models_dirs=request.models_dirs, scan_caches=request.scan_caches)
        scanned = catalog.scan(router)
        return Answer(scanned=scanned, content=None if scanned.kept else catalog._content)

    def take(self, answer: Answer) -> Scanned:
        """Take over what the other process found; return what changed."""
        if answer.content is not None:
            self._content = answer.content
        answer.scanned.log()
        return answer.scanned

    def start_with(self, file: Path) -> str | None:
        """Let the model of *file* be loaded at start, unless another one is for good already.

        Where ``router.toml`` names one, that one is.

        Returns:
            Its id; None if no scan has found it.

        Raises:
            OSError: if that cannot be kept.
        """
        with found_file.locked(self._state_dir):
            content = self._known([])
            identity = identity_of(str(file))
            tables = content.models.items()
            model = next((m for m, t in tables if identity_of(t["path"]) == identity), None)
            if model is not None and content.startup_model not in content.models:
                self._content = attrs.evolve(content, startup_model=model)
                found_file.write(self._state_dir, self._content)
                self._content_stamp = found_file.stamp(self._state_dir)
        return model

    def _update(self, found: Scan, state: ModelState, begun_s: float, *, keep: bool) -> Scanned:
        doubts = list(found.doubts)
        before = self._content
        try:
            if not keep:
                scanned = self._merge(found, state, doubts, begun_s)
            else:
                with found_file.locked(self._state_dir):
                    scanned = self._merge(found, state, doubts, begun_s)
                    found_file.write(self._state_dir, self._content)
                    self._content = attrs.evolve(self._content, damaged=False)
                    self._content_stamp = found_file.stamp(self._state_dir)
        except OSError as exc:  # then they are known for as long as this process runs
            reason = f"what was found cannot be kept: {reason_of(exc)}"
            doubts.append(Doubt(str(self._state_dir), reason))
            self._content = before
            scanned = attrs.evolve(self._merge(found, state, doubts, begun_s), kept=False)
        return scanned

    def _merge(
        self, found: Scan, state: ModelState, doubts: list[Doubt], begun_s: float
    ) -> Scanned:
        """Let what was *found* take the place of the models of *state*, in memory."""
        before = self._known(doubts)
        mine = {m: t for m, t in before.models.items() if t["state"] == state}
        if state is ModelState.MANUAL:  # what is not in this folder stays as it is
            paths = {file.path for files in found.collections for file in files.files}
            mine = {m: t for m, t in mine.items() if t["path"] in paths}
        others = {m: t for m, t in before.models.items() if m not in mine}
        manual = {m: t for m, t in others.items() if t["state"] == ModelState.MANUAL}
        discovery = discover(
            found.collections,
            taken=manual,
            known={table["path"]: model for model, table in mine.items()},
            skip=_identities(manual.values()),
        )
        tables = {m.id: found_file.table_of(m, str(state)) for m in discovery.models}
        if state is ModelState.MANUAL:  # an import takes over what a scan has found
            identities = _identities(tables.values())
            kept = {m: t for m, t in others.items() if identity_of(t["path"]) not in identities}
            found_paths = {table["path"] for table in tables.values()}
            mine = {m: t for m, t in mine.items() if m in tables or t["path"] not in found_paths}
            models = mine | kept | tables
        else:  # those where it could not look may be there still
            kept = {m: t for m, t in mine.items() if _may_be_in(t["path"], found.unseen)}
            models = kept | manual | tables
        self._content = attrs.evolve(before, models=dict(sorted(models.items())))
        return Scanned(
            models=tuple(sorted(tables)),
            new=tuple(sorted(tables.keys() - mine.keys())),
            removed=tuple(sorted(mine.keys() - models.keys())),
            doubts=(*doubts, *discovery.doubts),
            took_s=time.perf_counter() - begun_s,
        )

    def _known(self, doubts: list[Doubt]) -> FoundFileContent:
        """Return what is known, read again if another process may have changed it."""
        stamp = found_file.stamp(self._state_dir)
        if stamp is not None and stamp != self._content_stamp:
            self._content = found_file.read(self._state_dir, doubts)
            self._content_stamp = stamp
        return self._content


def sources(router: RouterSpec) -> object:
    """Return what says where scans look: if it differs, a new one is due."""
    return (router.models_dirs, router.scan_caches)


def _identity_or_path(table: found_file.Table) -> object:
    """Return what tells the model's file from others; None if it is surely not there."""
    path = table["path"]
    identity = identity_of(path)
    return path if identity is None and not is_missing(path) else identity


def _may_be_in(path: str, unseen: Iterable[str]) -> bool:
    return any(is_below(path, folder) for folder in unseen) and not is_missing(path)


def _identities(tables: Iterable[found_file.Table]) -> set[object]:
    return {identity_of(table["path"]) for table in tables} - {None}
