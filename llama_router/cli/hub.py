"""``pull``, ``list`` and ``rm``: models in the hub cache."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from ..config.locations import default_config_path
from ..config.removal import Deletion, check_unused
from ..errors.base import RouterError
from ..errors.downloads import ModelNotCachedError
from ..files import reason_of
from ..hub.cache import CachedModel, RepoCache, cache_root, find_repository, repositories
from ..hub.downloads import Downloads, DownloadState, DownloadStatus
from ..hub.references import Reference, parse_reference
from ..hub.units import format_size
from ..logs.lines import escape_controls
from ..models import found_file
from .client import Where, find, state_dirs
from .progress import display

#: What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130


def pull(model: str, *, file: str | None) -> int:
    """Fetch a model, print where it is; return the exit status."""
    status = fetch(model, file=file)
    if isinstance(status, int):
        return status
    assert status.result is not None
    _print(status.result.path)
    return 0


def fetched(model: str | None, *, file: str | None) -> Path | int:
    """Fetch what ``serve`` was told to; return its file, or after a failure the exit status."""
    if model is None:
        return _fail("--hf-file needs --hf-repo")
    status = fetch(model, file=file)
    if isinstance(status, int):
        return status
    assert status.result is not None
    return Path(status.result.path)


def fetch(model: str, *, file: str | None) -> DownloadStatus | int:
    """Fetch a model, and show how; return its status, or after a failure the exit status."""
    try:
        reference = parse_reference(model, file)
    except RouterError as exc:
        return _fail(str(exc))
    status = trio.run(partial(_watch, reference))
    if status.state is DownloadState.CANCELLED:
        _fail("cancelled; what is here is kept, and the same command goes on from there")
        return INTERRUPTED
    if status.error is not None:
        return _fail(str(status.error))
    assert status.result is not None
    if status.result.stale_reason is not None:
        _say(f"{status.model} is here already; not compared: {status.result.stale_reason}")
    elif status.result.fetched_bytes == 0:
        _say(f"{status.model} is here already")
    else:
        _say(f"{status.model} is here now: fetched {format_size(status.result.fetched_bytes)}")
    return status


async def _watch(reference: Reference) -> DownloadStatus:
    """Run one download to its end, and show it."""
    downloads = Downloads(os.environ)
    async with trio.open_nursery() as nursery:
        await nursery.start(downloads.run)
        id_ = downloads.start(reference).id
        await nursery.start(_cancel_on_sigint, downloads, id_)
        with display() as shown:
            while not (status := downloads.status(id_)).state.is_over:
                shown.show(status)
                await downloads.changed()
            shown.show(status)
        nursery.cancel_scope.cancel()
    return status


async def _cancel_on_sigint(
    downloads: Downloads, id_: str, *, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            downloads.cancel(id_)


def list_models(*, as_json: bool) -> int:
    """Print the models in the cache; return the exit status."""
    root = cache_root(os.environ)
    models: list[CachedModel] = []
    try:
        found = repositories(root)
    except OSError as exc:
        return _fail(f"the cache {root} cannot be read: {reason_of(exc)}: {exc.filename}")
    for repo in found:  # whatever is wrong with one, the others can be listed

        def warn(exc: OSError, name: str = repo.repo) -> None:
            _say(f"warning: {name} cannot be read: {reason_of(exc)}: {exc.filename}")

        try:
            models += repo.models(warn)
        except OSError as exc:
            warn(exc)
    if as_json:
        _print(json.dumps([_entry(model) for model in models], indent=1))
        return 0
    if not models:
        _say(f"no models in {root}; 'llama-router pull user/repo' fetches one")
    width = max((len(model.id) for model in models), default=0)
    for model in models:
        also = "  +mmproj" if model.mmproj is not None else ""
        _print(f"{model.id:{width}}  {format_size(model.size_bytes):>9}{also}")
    return 0


def _entry(model: CachedModel) -> dict[str, object]:
    mmproj = None if model.mmproj is None else str(model.snapshot / model.mmproj.path)
    return {
        "id": model.id,
        "size_bytes": model.size_bytes,
        "path": str(model.path),
        "mmproj": mmproj,
    }


def remove(model: str, config: Path | None) -> int:
    """Delete a model from the cache, unless a configuration uses it; return the exit status.

    Args:
        model: ``user/repo[:quant]``.
        config: The configuration; None for the default one, and that of the running router.
    """
    try:
        wanted = parse_reference(model)
        cache = find_repository(cache_root(os.environ), wanted.repo)
        try:
            found = cache.model_by_tag(wanted.tag)
            _check_unused(cache, found, config)
            freed_bytes, name = cache.remove(found), found.id
        except ModelNotCachedError:
            if cache.models():
                raise
            _check_unused(cache, None, config)
            if not (freed_bytes := cache.remove_leftovers()):
                raise
            name = f"what was unfinished of {wanted.repo}"
    except RouterError as exc:
        return _fail(str(exc))
    except OSError as exc:
        return _fail(f"cannot delete {exc.filename}: {reason_of(exc)}")
    _say(f"removed {name}: {format_size(freed_bytes)} freed")
    return 0


def _check_unused(cache: RepoCache, model: CachedModel | None, config: Path | None) -> None:
    """Make sure that no configuration uses what is to be deleted.

    Raises:
        ModelInUseError: if one does.
        OSError: if the cache cannot be read.
    """
    where = Where(config=config)
    configs = [config] if config is not None else list(default_config_path(os.environ))
    with suppress(RouterError):
        configs.append(Path(find(where, os.environ).config))
    alone = model is not None and len(cache.models()) == 1
    deletion = Deletion.of(cache, model, [cache.repo] if alone else [])
    contents = [found_file.read(folder, []) for folder in state_dirs(where, os.environ)]
    for path in dict.fromkeys(configs):
        for content in contents:
            check_unused(deletion, path, content=content)


def _fail(message: str) -> int:
    _say(message)
    return 1


def _say(message: str) -> None:
    print(escape_controls(message), file=sys.stderr)  # noqa: T201 -- the command's output


def _print(message: str) -> None:
    print(escape_controls(message) if sys.stdout.isatty() else message)  # noqa: T201 -- same
