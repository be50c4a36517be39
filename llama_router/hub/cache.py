"""The hub cache on disk, in the layout that huggingface_hub and llama.cpp share.

    models--USER--REPO/
        blobs/HASH                  contents
        snapshots/COMMIT/PATH       links to them, under their names
        refs/main                   the commit of "main" at the last download
    .locks/models--USER--REPO/HASH.lock

Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs

from ..errors.downloads import DownloadError, HubFileMissingError, ModelNotCachedError
from ..files import (
    Unseen,
    look,
    may_be_folder,
    read_up_to,
    replace_atomically,
    replacing,
)
from ..models.caches import find_caches
from .references import (
    Reference,
    RepoFile,
    RepoModel,
    Selection,
    best_projector,
    by_tag,
    choose,
    is_repo,
    models_in,
)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PREFIX: Final = "models--"

_MAX_REF_BYTES: Final = 1024

#: Suffix of a partial blob; ``hf cache`` cleans up files with this ending.
PARTIAL_SUFFIX: Final = ".llama-router.incomplete"


def cache_root(environ: Mapping[str, str]) -> Path:
    """Return the folder of the hub cache, the one that llama.cpp would use.

    Raises:
        DownloadError: if it would be below a home folder, and there is none.
    """
    hubs = find_caches(environ).hubs
    if not hubs:
        raise DownloadError("the folder of the cache is unknown: set HOME, or HF_HOME")
    return hubs[0]


@attrs.frozen
class CachedModel:
    """A complete model in the cache.

    Attributes:
        id: ``user/repo:LABEL``.
        repo: ``user/repo``.
        model: Its parts; their paths are relative to *snapshot*.
        mmproj: Its projector, likewise.
        snapshot: The folder of its commit.
        size_bytes: Of model and projector.
    """

    id: str
    repo: str
    model: RepoModel
    mmproj: RepoFile | None
    snapshot: Path
    size_bytes: int

    @property
    def path(self) -> Path:
        """Return the file for a backend."""
        return self.snapshot / self.model.parts[0].path


@attrs.frozen
class RepoCache:
    """The part of the cache that belongs to one repository.

    Attributes:
        root: The folder of the whole cache.
        repo: ``user/repo``, already checked.
    """

    root: Path
    repo: str

    @property
    def folder(self) -> Path:
        """Return the repository's folder."""
        return self.root / (_PREFIX + self.repo.replace("/", "--"))

    def blob(self, file: RepoFile) -> Path:
        """Return the path of the content of *file*."""
        return self.folder / "blobs" / file.blob

    def partial_blob(self, file: RepoFile) -> Path:
        """Return the path of the content of *file* while it is incomplete."""
        return self.folder / "blobs" / (file.blob + PARTIAL_SUFFIX)

    def missing_bytes(self, commit: str, file: RepoFile) -> int:
        """Return the number of missing bytes of *file* at *commit*."""
        name = self.folder / "snapshots" / commit / file.path  # on disks without links
        if file.size_bytes in (size_of(self.blob(file)), size_of(name)):
            return 0
        return max(file.size_bytes - size_of(self.partial_blob(file)), 0)

    @contextlib.contextmanager
    def lock(self, file: RepoFile, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold the lock of a blob; huggingface_hub uses the same one.

        Blocks while another process holds it; *on_wait* is called once before that.
        """
        path = self.root / ".locks" / self.folder.name / f"{file.blob}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    on_wait()
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                if _is_at(descriptor, path):  # its last holder may have removed it
                    yield
                    return
            finally:
                os.close(descriptor)

    def publish(self, commit: str, files: Iterable[RepoFile]) -> Path:
        """Link complete blobs into the snapshot of *commit*, then point "main" to it.

        Returns:
            The folder of the snapshot.

        Raises:
            OSError: if a blob has vanished, or a link cannot be made.
        """
        snapshot = self.folder / "snapshots" / commit
        for file in files:
            name, blob = snapshot / file.path, self.blob(file)
            name.parent.mkdir(parents=True, exist_ok=True)
            if blob.exists():
                _link(blob, name)
            elif not name.exists():
                missing = errno.ENOENT
                raise FileNotFoundError(missing, os.strerror(missing), str(blob))
        ref = self.folder / "refs" / "main"
        ref.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(ref, commit.encode(), mode=0o666)
        return snapshot

    def find(self, wanted: Reference) -> tuple[Selection, Path]:
        """Return the *wanted* model from the newest snapshot with it, and that snapshot.

        Raises:
            ModelNotCachedError: if there is no snapshot at all.
            HubFileMissingError: if no snapshot has it.
        """
        missing: HubFileMissingError | None = None
        for snapshot in self.snapshots():
            try:
                return choose(files_in(snapshot), wanted), snapshot
            except HubFileMissingError as exc:
                missing = missing or exc
        raise missing or ModelNotCachedError(f"no model of {self.repo} is in {self.root}")

    def snapshots(self) -> list[Path]:
        """Return the folders of its commits: that of "main", then newer ones first.

        Raises:
            OSError: if they cannot be listed.
        """
        try:
            folders = [
                folder
                for folder in (self.folder / "snapshots").iterdir()
                if _COMMIT.fullmatch(folder.name) and may_be_folder(folder)
            ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        main = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            main = read_up_to(self.folder / "refs" / "main", _MAX_REF_BYTES).decode().strip()
        return sorted(folders, key=lambda f: (f.name != main, -_modified_s(f), f.name))

    def models(self, on_fault: Callable[[OSError], object] = lambda _: None) -> list[CachedModel]:
        """Return its complete models, each from the first snapshot with it.

        Args:
            on_fault: Called for each folder of a snapshot that cannot be read.

        Raises:
            OSError: if the snapshots cannot be listed.
        """
        found: dict[str, CachedModel] = {}
        for snapshot in self.snapshots():
            files = files_in(snapshot, on_fault)
            for model in models_in(files):
                name = f"{self.repo}:{model.label}"
                mmproj = best_projector(files, model.parts[0].path)
                sizes = (f.size_bytes for f in (*model.parts, *([mmproj] if mmproj else [])))
                found.setdefault(
                    name, CachedModel(name, self.repo, model, mmproj, snapshot, sum(sizes))
                )
        return list(found.values())

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Prevent that `cache_deletion` deletes blobs that are not linked yet."""
        with self.users_path().open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            yield

    def users_path(self) -> Path:
        """Return the file that is locked by every download; its folder is made."""
        path = self.root / ".locks" / self.folder.name / "llama-router.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def model_by_tag(self, tag: str | None) -> CachedModel:
        """Return the model with the quantization *tag*; without a tag, the only model.

        Raises:
            ModelNotCachedError: if there is none, or several.
        """
        models = self.models()
        if not models:
            raise ModelNotCachedError(f"no model of {self.repo} is in the cache {self.root}")
        names = ", ".join(model.id for model in models)
        if tag is None:
            if len(models) == 1:
                return models[0]
            raise ModelNotCachedError(f"{self.repo} has several models here, name one: {names}")
        chosen = by_tag([model.model for model in models], tag)
        if chosen is None:
            raise ModelNotCachedError(f"{self.repo} has no {tag!r} here; there are: {names}")
        return next(model for model in models if model.model is chosen)


def repositories(root: Path) -> list[RepoCache]:
    """Return the repositories of models in the cache at *root*, by name.

    Raises:
        OSError: if *root* exists but cannot be listed.
    """
    try:
        found = [f for f in root.iterdir() if f.name.startswith(_PREFIX)]
        folders = [f.name for f in found if may_be_folder(f)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = (name.removeprefix(_PREFIX).replace("--", "/") for name in sorted(folders))
    return [RepoCache(root, name) for name in names if is_repo(name)]


def find_repository(root: Path, repo: str) -> RepoCache:
    """Return *repo* in the cache at *root*, in the spelling of its folder if there is one."""
    spelled = [cache for cache in repositories(root) if cache.repo.lower() == repo.lower()]
    exact = RepoCache(root, repo)
    return exact if exact in spelled or not spelled else spelled[0]


def files_in(
    snapshot: Path, on_fault: Callable[[OSError], object] = lambda _: None
) -> list[RepoFile]:
    """Return the existing files of a snapshot, by path."""
    found = []
    for folder, _, names in os.walk(snapshot, onerror=on_fault):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                found.append(RepoFile(path.relative_to(snapshot).as_posix(), path.stat().st_size))
    return sorted(found, key=lambda file: file.path)


def size_of(path: Path) -> int:
    """Return the size of the file *path* in bytes; 0 if there is none."""
    found = look(path)
    return 0 if isinstance(found, Unseen) else found.st_size


def _modified_s(path: Path) -> float:
    found = look(path)
    return 0.0 if isinstance(found, Unseen) else found.st_mtime


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _link(blob: Path, name: Path) -> None:
    """Make *name* a relative link to *blob*; without support for links, move the blob there."""
    try:
        with replacing(name) as link:
            link.symlink_to(os.path.relpath(blob, name.parent))
    except (OSError, NotImplementedError):
        blob.replace(name)
