"""``pull`` and ``rm``: models in the cache of the Hugging Face hub."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from ...config.locations import default_config_path
from ...config.removal import Deletion, check_unused
from ...errors.base import RouterError
from ...errors.downloads import ModelNotCachedError
from ...files import reason_of
from ...hub import cache_deletion
from ...hub.cache import CachedModel, RepoCache, cache_root, find_repository
from ...hub.downloads import Downloads, DownloadState, DownloadStatus
from ...hub.references import Reference, parse_reference
from ...hub.units import format_size
from ...models import found_file
from ..options import DEFAULT_CONNECTION, Config, Connection, HubFile
from ..printing import fail, print_line, print_message
from ..progress import display
from ..rescanning import tell_router
from ..router_search import find_router, state_dirs

#: Exit status after Ctrl-C, as a shell reports it.
INTERRUPTED = 130


def pull(model: str, /, *, hf_file: HubFile = None) -> int:
    """Download a model from the hub into its cache, and print its path.

    An interrupted download is resumed.

    Args:
        model: user/repo or user/repo:QUANT. Default quantization: Q4_K_M, else Q8_0, else
            the first one in the repository.
        hf_file: The path of one file in the repository, instead of a quantization.
    """
    status = _fetch(model, file=hf_file)
    if isinstance(status, int):
        return status
    assert status.result is not None
    _print_for_scripts(status.result.path)
    tell_router(DEFAULT_CONNECTION)
    return 0


def fetch_for_serve(model: str | None, *, file: str | None) -> Path | int:
    """Download the model of ``serve --hf-repo``; return its file, or the exit status of a failure.

    Args:
        model: The value of ``--hf-repo``.
        file: The value of ``--hf-file``.
    """
    if model is None:
        return fail("--hf-file needs --hf-repo")
    status = _fetch(model, file=file)
    if isinstance(status, int):
        return status
    assert status.result is not None
    return Path(status.result.path)


def _fetch(model: str, *, file: str | None) -> DownloadStatus | int:
    """Download a model and show the progress; return its status, or an exit status other than 0."""
    try:
        reference = parse_reference(model, file)
    except RouterError as exc:
        return fail(str(exc))
    status = trio.run(partial(_download, reference))
    if status.state is DownloadState.CANCELLED:
        print_message("cancelled; the same command resumes the download")
        return INTERRUPTED
    if status.error is not None:
        return fail(str(status.error))
    assert status.result is not None
    if status.result.stale_reason is not None:
        print_message(f"{status.model} is here already; not compared: {status.result.stale_reason}")
    elif status.result.fetched_bytes == 0:
        print_message(f"{status.model} is here already")
    else:
        print_message(
            f"{status.model} is here now: downloaded {format_size(status.result.fetched_bytes)}"
        )
    return status


async def _download(reference: Reference) -> DownloadStatus:
    """Run one download to its end, show its progress, and return its last status."""
    downloads = Downloads(os.environ)
    async with trio.open_nursery() as nursery:
        await nursery.start(downloads.run)
        id_ = downloads.start(reference).id
        await nursery.start(_cancel_on_sigint, downloads, id_)
        with display() as progress:
            while not (status := downloads.status(id_)).state.is_over:
                progress.show(status)
                await downloads.changed()
            progress.show(status)
        nursery.cancel_scope.cancel()
    return status


async def _cancel_on_sigint(
    downloads: Downloads, id_: str, *, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            downloads.cancel(id_)


def remove(model: str, /, *, config: Config = None) -> int:
    """Delete a model, and its interrupted downloads, from the hub cache.

    A model that the configuration uses is not deleted.

    Args:
        model: user/repo:QUANT; user/repo is enough if the cache has one model of it.
        config: Configuration file. Default: the one that ``serve`` would use, and that of the
            running router.
    """
    try:
        reference = parse_reference(model)
        cache = find_repository(cache_root(os.environ), reference.repo)
        try:
            found = cache.model_by_tag(reference.tag)
            _check_unused(cache, found, config)
            freed_bytes, name = cache_deletion.remove(cache, found), found.id
        except ModelNotCachedError:
            if cache.models():
                raise
            _check_unused(cache, None, config)
            if not (freed_bytes := cache_deletion.remove_leftovers(cache)):
                raise
            name = f"interrupted downloads of {reference.repo}"
    except RouterError as exc:
        return fail(str(exc))
    except OSError as exc:
        return fail(f"cannot delete {exc.filename}: {reason_of(exc)}")
    print_message(f"removed {name}: {format_size(freed_bytes)} freed")
    tell_router(Connection(config=config))
    return 0


def _check_unused(cache: RepoCache, model: CachedModel | None, config: Path | None) -> None:
    """Check that no configuration uses the files that are to be deleted.

    Raises:
        ModelInUseError: if one uses them.
        OSError: if the cache cannot be read.
    """
    connection = Connection(config=config)
    configs = [config] if config is not None else list(default_config_path(os.environ))
    with suppress(RouterError):
        configs.append(Path(find_router(connection, os.environ).config))
    alone = model is not None and len(cache.models()) == 1
    deletion = Deletion.of(cache, model, [cache.repo] if alone else [])
    contents = [found_file.read(folder, []) for folder in state_dirs(connection, os.environ)]
    for path in dict.fromkeys(configs):
        for content in contents:
            check_unused(deletion, path, content=content)


def _print_for_scripts(line: str) -> None:
    """Print *line*; unchanged if a program reads it, so that a path stays the path of a file."""
    if sys.stdout.isatty():
        print_line(line)
    else:
        print(line)  # noqa: T201 -- the command's output
