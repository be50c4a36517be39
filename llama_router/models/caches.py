"""Where models are kept on this machine, and which files of a cache belong together.

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

from ..files import Unseen, list_folder, look, read_up_to, reason_of
from ..stalls import look_at
from .discovery.found import Doubt

#: As on the hub; also where a path is made of it, so no dots alone and no separators.
_REPO: Final = re.compile(
    r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?(?:/[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)?"
)
_MANIFEST: Final = re.compile(r"manifest=(.+)=(.+)=(.+)\.json", re.DOTALL)
_MAX_MANIFEST_BYTES: Final = 1024 * 1024
_MAX_REF_BYTES: Final = 1024


@attrs.frozen
class Caches:
    """The folders where programs keep the models that they fetched.

    Attributes:
        flat: Of older versions of llama.cpp, all files in one folder.
        hubs: In the layout of huggingface_hub, the first is llama.cpp's.
    """

    flat: Path
    hubs: tuple[Path, ...]


def find_caches(environ: Mapping[str, str], *, platform: str = sys.platform) -> Caches:
    """Return the caches that llama.cpp and huggingface_hub would use with that environment.

    They agree, except that huggingface_hub does not know ``LLAMA_CACHE``.
    """
    home = Path(environ.get("HOME") or Path("~").expanduser())
    base = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    old = home / "Library" / "Caches" if platform == "darwin" else base
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
    return Caches(_expanded(flat, home), tuple(dict.fromkeys(_expanded(h, home) for h in hubs)))


def _expanded(path: Path, home: Path) -> Path:
    if path.parts[:1] == ("~",):
        path = home.joinpath(*path.parts[1:])
    return path.absolute()


@attrs.frozen(kw_only=True)
class Manifest:
    """What an older llama.cpp noted about one model that it fetched.

    Attributes:
        repo: ``owner/repo``.
        tag: The quantization that was asked for; None where the hub chose one.
        gguf: Name of the file in the cache, of the first part for a split model.
        mmproj: Name of its projector in the cache.
        gguf_inside: Path of *gguf* in the repository.
        mmproj_inside: Path of *mmproj* there.
    """

    repo: str
    tag: str | None
    gguf: str
    gguf_inside: str
    mmproj: str | None = None
    mmproj_inside: str | None = None


class Doubts(list[Doubt]):
    """What a scan has to say.

    Attributes:
        unseen: The folders, and files, that could not be looked at: more may be there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unseen: list[str] = []

    def note(self, path: Path | str, reason: str) -> None:
        """Say something about *path*."""
        self.append(doubt(path, reason))

    def note_unseen(self, path: Path | str, found: Unseen) -> None:
        """Say why *path* cannot be looked at, unless nothing is there."""
        if not found.is_missing:
            self.note(path, f"it cannot be read: {found.reason}")
            self.unseen.append(str(path))


def read_manifests(flat: Path, names: Iterable[str], doubts: Doubts) -> list[Manifest]:
    """Return the usable manifests among *names* in the flat cache; say of others why not."""
    manifests: list[Manifest] = []
    for name in names:
        if not (name.startswith("manifest=") and name.endswith(".json")):
            continue
        try:
            manifests.append(_read_manifest(flat / name))
        except OSError as exc:
            doubts.note(flat / name, f"it cannot be read: {reason_of(exc)}")
        except (ManifestError, msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
            doubts.note(flat / name, f"it is not a manifest of llama.cpp: {exc}")
    return manifests


class ManifestError(Exception):
    """A manifest says something that cannot be followed."""


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
        gguf_inside=gguf,
        mmproj=None if mmproj is None else _flat_name(repo, mmproj),
        mmproj_inside=mmproj,
    )


def is_repo(name: str) -> bool:
    """Return whether *name* can be that of a repository, and is safe in a path."""
    return ".." not in name and len(name) <= 256 and _REPO.fullmatch(name) is not None


def _flat_name(repo: str, inside: str) -> str:
    """Return the name in the flat cache of the file *inside* a repository.

    Raises:
        ManifestError: if it is not a path inside.
    """
    parts = inside.split("/")
    if any(part in {"", ".", ".."} for part in parts) or not inside.isprintable():
        raise ManifestError(f"{inside!r} is not the path of a file in a repository")
    return f"{repo}/{inside}".replace("/", "_")


@attrs.frozen
class Repository:
    """A repository in a cache of huggingface_hub.

    Attributes:
        repo: ``owner/repo``; very old ones have no owner.
        snapshots: Its folders of files; those that a branch or tag names first, then by age.
    """

    repo: str
    snapshots: tuple[Path, ...]


def find_repositories(hub: Path, doubts: Doubts) -> Iterator[Repository]:
    """Yield the repositories of models in *hub*; a cache that is not there has none."""
    for name in names_in(hub, doubts):
        if not name.startswith("models--"):
            continue
        repo = name.removeprefix("models--").replace("--", "/")
        if not is_repo(repo):
            doubts.note(hub / name, "its name is not that of a repository")
            continue
        folder = hub / name / "snapshots"
        snapshots = [folder / revision for revision in names_in(folder, doubts)]
        if len(snapshots) > 1:  # when a branch moved on, files of before are only in the old one
            named = _revisions(hub / name / "refs")
            snapshots.sort(key=lambda path: (named.get(path.name, len(named)), -_modified_ns(path)))
        yield Repository(repo, tuple(snapshots))


def _revisions(refs: Path) -> dict[str, int]:
    """Return the revisions that refs name, with their rank: main first."""
    found: list[tuple[bool, str, str]] = []
    paths: list[Path] = []
    with suppress(OSError), look_at(refs):
        paths = [Path(folder, name) for folder, _, names in os.walk(refs) for name in names]
    for path in paths:
        try:
            revision = read_up_to(path, _MAX_REF_BYTES).decode().strip()
            found.append((path.name != "main", str(path), revision))
        except (OSError, UnicodeError):
            continue  # the snapshot it names is found nevertheless
    return {revision: rank for rank, (_, _, revision) in reversed([*enumerate(sorted(found))])}


def _modified_ns(path: Path) -> int:
    found = look(path)
    return 0 if isinstance(found, Unseen) else found.st_mtime_ns


def names_in(folder: Path, doubts: Doubts) -> list[str]:
    """Return the names in *folder*, in order; none if it is not there or cannot be read."""
    found = list_folder(folder)
    if isinstance(found, Unseen):
        doubts.note_unseen(folder, found)
        return []
    return found


def doubt(path: Path | str, reason: str) -> Doubt:
    """Return a doubt about *path*, whose name need not be text."""
    return Doubt(str(path).encode("utf-8", "backslashreplace").decode(), reason)
