"""Locations of model caches on this machine, and the files in them that belong together.

Sources: llama.cpp, common/common.cpp (fs_get_cache_directory), common/download.cpp and
common/hf-cache.cpp; https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import msgspec

from ..files import Unseen, absolute, home_folder, list_folder, look, read_up_to, reason_of
from ..files.stalls import look_at
from .discovery.found import ScanWarning
from .stores import Store, find_stores

#: A repository on the hub. It becomes part of a path, so no dots alone and no separators.
_REPO: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?(?:/[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)?"
)
_MANIFEST: Final = re.compile(r"manifest=(.+)=(.+)=(.+)\.json", re.DOTALL)
_MAX_MANIFEST_BYTES: Final = 1024 * 1024
_MAX_REF_BYTES: Final = 1024


@attrs.frozen
class Caches:
    """The folders in which llama.cpp and huggingface_hub store downloaded models.

    Attributes:
        flat: Cache of older versions of llama.cpp, with all files in one folder; None if it
            would be below a home folder that does not exist.
        hubs: Caches in the layout of huggingface_hub; llama.cpp's first.
        stores: Folders of other programs.
    """

    flat: Path | None
    hubs: tuple[Path, ...]
    stores: tuple[Store, ...] = ()


def find_caches(environ: Mapping[str, str], *, platform: str = sys.platform) -> Caches:
    """Return the caches that llama.cpp and huggingface_hub would use with that environment.

    Both use the same variables, except that huggingface_hub ignores ``LLAMA_CACHE``. Caches below
    the home folder are left out if there is none.
    """
    home = home_folder(environ)
    base = Path(environ.get("XDG_CACHE_HOME") or "~/.cache")
    old = Path("~/Library/Caches") if platform == "darwin" else base
    own = environ.get("LLAMA_CACHE")
    hub = next(
        (
            Path(environ[name], *below)
            for name, below in (
                ("HF_HUB_CACHE", ()),
                ("HUGGINGFACE_HUB_CACHE", ()),
                ("HF_HOME", ("hub",)),
            )
            if environ.get(name)
        ),
        base / "huggingface" / "hub",
    )
    flat = Path(own) if own else old / "llama.cpp"
    hubs = (Path(own), hub) if own else (hub,)
    known = dict.fromkeys(_expanded(each, home) for each in hubs)
    return Caches(_expanded(flat, home), tuple(each for each in known if each is not None))


def find_sources(environ: Mapping[str, str]) -> Caches:
    """Return the caches, and the stores of other programs. Blocks on files."""
    return attrs.evolve(find_caches(environ), stores=find_stores(environ))


def _expanded(path: Path, home: Path | None) -> Path | None:
    if path.parts[:1] == ("~",):
        if home is None:
            return None
        path = home.joinpath(*path.parts[1:])
    return absolute(path)


@attrs.frozen(kw_only=True)
class Manifest:
    """The record of an older llama.cpp about one model that it downloaded.

    Attributes:
        repo: ``owner/repo``.
        tag: The requested quantization; None if the hub chose one.
        gguf: Name of the file in the cache, of the first part for a split model.
        mmproj: Name of its projector in the cache.
        gguf_repo_path: Path of *gguf* in the repository.
        mmproj_repo_path: Path of *mmproj* there.
    """

    repo: str
    tag: str | None
    gguf: str
    gguf_repo_path: str
    mmproj: str | None = None
    mmproj_repo_path: str | None = None


class ScanWarnings(list[ScanWarning]):
    """The warnings of one scan.

    Attributes:
        unreadable: Folders and files that could not be read: they may contain more models.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unreadable: list[str] = []

    def add(self, path: Path | str, reason: str) -> None:
        """Append a warning about *path*."""
        self.append(ScanWarning.about(path, reason))

    def add_unreadable(self, path: Path | str, found: Unseen) -> None:
        """Append the reason why *path* cannot be read, unless it is missing."""
        if not found.is_missing:
            self.add(path, f"it cannot be read: {found.reason}")
            self.unreadable.append(str(path))


def read_manifests(flat: Path, names: Iterable[str], warnings: ScanWarnings) -> list[Manifest]:
    """Return the usable manifests among *names* in the flat cache; warn about the others."""
    manifests: list[Manifest] = []
    for name in names:
        if not (name.startswith("manifest=") and name.endswith(".json")):
            continue
        try:
            manifests.append(_read_manifest(flat / name))
        except OSError as exc:
            warnings.add(flat / name, f"it cannot be read: {reason_of(exc)}")
        except (ManifestError, msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
            warnings.add(flat / name, f"it is not a manifest of llama.cpp: {exc}")
    return manifests


class ManifestError(Exception):
    """The content of a manifest cannot be used."""


class _File(msgspec.Struct):
    rfilename: str


class _Document(msgspec.Struct, rename="camel"):
    gguf_file: _File
    mmproj_file: _File | None = None


def _read_manifest(path: Path) -> Manifest:
    found = _MANIFEST.fullmatch(path.name)
    if found is None or not is_repo(repo := f"{found[1]}/{found[2]}"):
        raise ManifestError("its name is not manifest=OWNER=REPO=TAG.json")
    document = msgspec.json.decode(read_up_to(path, _MAX_MANIFEST_BYTES), type=_Document)
    gguf = document.gguf_file.rfilename
    mmproj = document.mmproj_file.rfilename if document.mmproj_file else None
    return Manifest(
        repo=repo,
        tag=None if found[3] == "latest" else found[3],
        gguf=_flat_name(repo, gguf),
        gguf_repo_path=gguf,
        mmproj=None if mmproj is None else _flat_name(repo, mmproj),
        mmproj_repo_path=mmproj,
    )


def is_repo(name: str) -> bool:
    """Return whether *name* can be that of a repository, and is safe in a path."""
    return ".." not in name and len(name) <= 256 and _REPO.fullmatch(name) is not None


def _flat_name(repo: str, repo_path: str) -> str:
    """Return the name in the flat cache of the file at *repo_path* in a repository.

    Raises:
        ManifestError: if the path leads out of the repository.
    """
    parts = repo_path.split("/")
    if any(part in {"", ".", ".."} for part in parts) or not repo_path.isprintable():
        raise ManifestError(f"{repo_path!r} is not the path of a file in a repository")
    return f"{repo}/{repo_path}".replace("/", "_")


@attrs.frozen
class CachedRepository:
    """A repository in a cache of huggingface_hub.

    Attributes:
        repo: ``owner/repo``; very old ones have no owner.
        snapshots: Its folders of files; those of a branch or tag first, then newer ones first.
    """

    repo: str
    snapshots: tuple[Path, ...]


def find_repositories(hub: Path, warnings: ScanWarnings) -> Iterator[CachedRepository]:
    """Yield the repositories of models in *hub*; a missing cache has none."""
    for name in names_in(hub, warnings):
        if not name.startswith("models--"):
            continue
        repo = name.removeprefix("models--").replace("--", "/")
        if not is_repo(repo):
            warnings.add(hub / name, "its name is not that of a repository")
            continue
        folder = hub / name / "snapshots"
        snapshots = [folder / revision for revision in names_in(folder, warnings)]
        if len(snapshots) > 1:  # files that a newer commit removed are only in an old snapshot
            named = _revisions(hub / name / "refs")
            snapshots.sort(key=lambda path: (named.get(path.name, len(named)), -_modified_ns(path)))
        yield CachedRepository(repo, tuple(snapshots))


def _revisions(refs: Path) -> dict[str, int]:
    """Return the revisions in *refs* with their rank: main first."""
    found: list[tuple[bool, str, str]] = []
    paths: list[Path] = []
    with suppress(OSError), look_at(refs):
        paths = [Path(folder, name) for folder, _, names in os.walk(refs) for name in names]
    for path in paths:
        try:
            revision = read_up_to(path, _MAX_REF_BYTES).decode().strip()
            found.append((path.name != "main", str(path), revision))
        except (OSError, UnicodeError):
            continue  # its snapshot is found nevertheless, by age
    return {revision: rank for rank, (_, _, revision) in reversed([*enumerate(sorted(found))])}


def _modified_ns(path: Path) -> int:
    found = look(path)
    return 0 if isinstance(found, Unseen) else found.st_mtime_ns


def names_in(folder: Path, warnings: ScanWarnings) -> list[str]:
    """Return the names in *folder*, in order; none if it is missing or cannot be read."""
    found = list_folder(folder)
    if isinstance(found, Unseen):
        warnings.add_unreadable(folder, found)
        return []
    return found
