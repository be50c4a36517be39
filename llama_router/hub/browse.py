"""The program of a look at the hub: ``python -m llama_router.hub.browse search|repo WORD [SORT]``.

It writes one line of JSON to its standard output: the result, or `BrowseFailed`. It is a process of
its own for the same reasons as a download: it may block, and be killed at any time.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from ..core.memory.estimate import estimate_parts
from ..core.memory.flags import read_flags
from ..errors.base import RouterError
from ..errors.downloads import DownloadError, HubFileMissingError
from ..models.discovery import naming
from ..models.gguf_reader import GgufError
from ..models.tensors import read_weights
from ..workers.child import end_with_router
from .cache import RepoCache, cache_root, repositories
from .found import (
    CONTEXT,
    BrowseFailed,
    FoundRepositories,
    OfferedModel,
    OfferedRepository,
)
from .references import Reference, RepoFile, RepoModel, best_projector, by_tag, choose, models_in
from .responses import Repository, RetryPolicy
from .transfer import HubClient

#: Timeout of the next byte, in seconds: a person waits.
READ_TIMEOUT_S: Final = 8.0

#: The part of a file that has its header: 150,000 tokens with their merges take 10 MiB.
HEADER_BYTES: Final = 24 * 2**20

#: What files of the weights have that memory does not: nothing worth counting. The other way round,
#: what a model takes beside its weights, in MiB, at least.
_MIN_OVERHEAD_MIB: Final = 64


def main() -> int:
    """Answer the question of the arguments; return the exit status."""
    end_with_router()
    kind, word, *more = sys.argv[1:]
    try:
        root = cache_root(os.environ)
        with _client() as hub:
            found: msgspec.Struct
            if kind == "search":
                found = _search(hub, root, word, *more)
            else:
                found = _repository(hub, root, word)
    except RouterError as exc:
        found = BrowseFailed(exc.code, str(exc))
    except OSError as exc:
        found = BrowseFailed(DownloadError.code, f"the hub cache cannot be read: {exc}")
    sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
    sys.stdout.buffer.flush()
    return int(isinstance(found, BrowseFailed))


class _Silent:
    """Ignores the progress of a transfer."""

    def arrived(self, size_bytes: int) -> None:
        pass

    def waiting(self, reason: str, pause_s: float | None) -> None:
        pass

    def checking(self, path: str) -> None:
        pass


def _client() -> HubClient:
    # Imported late: it takes a quarter of a second. It finds the token of the user.
    from huggingface_hub import constants, get_token  # noqa: PLC0415 -- see above

    token = None
    with suppress(OSError, ValueError):  # most of the hub needs no token
        token = get_token()
    return HubClient(
        constants.ENDPOINT,
        token,
        _Silent(),
        offline=constants.HF_HUB_OFFLINE,
        retries=RetryPolicy(limit=1),
        read_timeout_s=READ_TIMEOUT_S,
    )


def _search(hub: HubClient, root: Path, words: str, sort: str) -> FoundRepositories:
    here = {cache.repo.lower() for cache in repositories(root)}
    return FoundRepositories(
        [
            msgspec.structs.replace(each, is_here=each.id.lower() in here)
            for each in hub.search(words, sort)
        ]
    )


def _repository(hub: HubClient, root: Path, name: str) -> OfferedRepository:
    found = hub.repository(name)
    cache = RepoCache(root, found.name)
    models = models_in(found.files)
    default = by_tag(models, None)
    note = ""
    if not models:
        try:
            choose(found.files, Reference(found.name))
        except HubFileMissingError as exc:
            note = str(exc)
    return OfferedRepository(
        id=found.name,
        gated=found.gated,
        models=[_offered(model, found, cache, is_default=model is default) for model in models],
        note=note,
        overhead_mib=None if default is None else _overhead_mib(hub, found, default),
        free_bytes=shutil.disk_usage(_existing(root)).free,
        cache=str(root),
    )


def _offered(
    model: RepoModel, found: Repository, cache: RepoCache, *, is_default: bool
) -> OfferedModel:
    mmproj = best_projector(found.files, model.parts[0].path)
    files = [*model.parts, *(() if mmproj is None else (mmproj,))]
    total_bytes = sum(file.size_bytes for file in files)
    missing_bytes = sum(cache.missing_bytes(found.commit, file) for file in files)
    return OfferedModel(
        label=model.label,
        files=[part.path for part in model.parts],
        size_bytes=sum(part.size_bytes for part in model.parts),
        mmproj=None if mmproj is None else mmproj.path,
        mmproj_bytes=0 if mmproj is None else mmproj.size_bytes,
        here_bytes=total_bytes - missing_bytes,
        is_default=is_default,
    )


def _overhead_mib(hub: HubClient, found: Repository, model: RepoModel) -> int | None:
    """Return what *model* takes beside its weights, from the header of its file.

    None for a split model, and if it cannot be read: there is an estimate without it.
    """
    file = model.parts[0]
    if naming.part_of(file.path) is not None:
        return None
    try:
        return _estimated_mib(file, hub.beginning(found.name, found.commit, file, HEADER_BYTES))
    except (DownloadError, GgufError, OSError):
        return None


def _estimated_mib(file: RepoFile, beginning: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        with path.open("wb") as copy:
            copy.write(beginning)
            copy.truncate(file.size_bytes)  # sparse: the weights are not read
        weights = read_weights(str(path))
    flags = read_flags(["llama-server", "--ctx-size", str(CONTEXT)], {})
    parts = estimate_parts(weights, flags, has_gpu=False)
    of_weights_mib = file.size_bytes / 2**20
    return max(_MIN_OVERHEAD_MIB, round(parts.footprint.host_mib - of_weights_mib))


def _existing(path: Path) -> Path:
    """Return the innermost folder around *path* that exists."""
    while not path.exists() and path.parent != path:
        path = path.parent
    return path


if __name__ == "__main__":
    sys.exit(main())
