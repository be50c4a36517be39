"""The program of a download: ``python -m llama_router.hub.fetch REFERENCE [FILE]``.

It writes messages to its standard output (messages.py), and ends at the end of its standard
input: when its parent has ended. It may be killed at any time.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import attrs

from ..errors.base import RouterError
from ..errors.downloads import HubFileMissingError, HubUnreachableError, ModelNotCachedError
from ..http_library import httpx
from ..workers.child import end_with_router
from .cache import RepoCache, cache_root, find_repository
from .messages import Checking, Done, Failed, Message, Paused, Progressed, Resolved, encode
from .references import Reference, Selection, choose, parse_reference
from .responses import Repository
from .transfer import HubClient, check_room, disk_errors

#: Pause between two messages about progress, in seconds.
PROGRESS_EVERY_S: Final = 0.1


def main() -> int:
    """Fetch the model of the arguments; return the exit status."""
    end_with_router()
    try:
        wanted = parse_reference(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
        root = cache_root(os.environ)
        with disk_errors(RepoCache(root, wanted.repo)):
            _send(fetch(wanted, find_repository(root, wanted.repo)))
    except RouterError as exc:
        _send(Failed(exc.code, str(exc)))
        return 1
    return 0


def fetch(wanted: Reference, cache: RepoCache) -> Done:
    """Fetch *wanted* into *cache*. If the hub cannot be reached, a cached model is returned.

    Raises:
        DownloadError: if neither is possible.
    """
    reporter = _Reporter()
    with ExitStack() as stack:
        try:
            hub = stack.enter_context(_hub_client(reporter))
            repository = hub.repository(wanted.repo)
        except HubUnreachableError as exc:
            return _from_cache(wanted, cache, exc)
        return _fetch_all(wanted, cache, hub, repository, reporter)


def _hub_client(reporter: _Reporter) -> HubClient:
    """Return a client of the hub that the environment names.

    Raises:
        HubUnreachableError: if a variable of the environment cannot be used.
    """
    try:
        # Imported late: it takes a quarter of a second. It finds the token of the user.
        from huggingface_hub import constants, get_token  # noqa: PLC0415 -- see above

        token = None
        with suppress(OSError, ValueError):  # most of the hub needs no token
            token = get_token()
        return HubClient(constants.ENDPOINT, token, reporter, offline=constants.HF_HUB_OFFLINE)
    except (OSError, ValueError, httpx.InvalidURL) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise HubUnreachableError(
            f"the hub cannot be asked with the environment as it is ({reason}): one of the "
            "variables HF_*, *_PROXY and SSL_CERT_* has a value that cannot be used"
        ) from exc


def _fetch_all(
    wanted: Reference, cache: RepoCache, hub: HubClient, repository: Repository, reporter: _Reporter
) -> Done:
    # The hub ignores the case of a name; folders and ids do not.
    cache = attrs.evolve(cache, repo=repository.name)
    commit = repository.commit
    selection = choose(repository.files, wanted)
    files = selection.files
    model = f"{cache.repo}:{selection.model.label}"
    total_bytes = sum(file.size_bytes for file in files)
    missing_bytes = sum(cache.missing_bytes(commit, file) for file in files)
    names = [file.path for file in files]
    _send(Resolved(model, names, total_bytes, total_bytes - missing_bytes))
    check_room(cache, commit, files)
    with disk_errors(cache), cache.in_use():
        for file in files:
            with cache.lock(file, reporter.locked):
                if cache.missing_bytes(commit, file):
                    hub.fetch(cache, commit, file)
            reporter.finished(file.size_bytes)
        snapshot = cache.publish(commit, files)
    return _done(model, selection, snapshot, fetched_bytes=missing_bytes)


def _from_cache(wanted: Reference, cache: RepoCache, error: HubUnreachableError) -> Done:
    """Return the *wanted* model if it is complete in the cache.

    Raises:
        HubUnreachableError: if it is not: *error*.
    """
    try:
        selection, snapshot = cache.find(wanted)
    except (ModelNotCachedError, HubFileMissingError):
        raise error from None
    model = f"{cache.repo}:{selection.model.label}"
    return _done(model, selection, snapshot, stale_reason=str(error))


def _done(
    model: str,
    selection: Selection,
    snapshot: Path,
    *,
    fetched_bytes: int = 0,
    stale_reason: str | None = None,
) -> Done:
    path = snapshot / selection.model.parts[0].path
    mmproj = None if selection.mmproj is None else str(snapshot / selection.mmproj.path)
    return Done(model, str(path), mmproj, fetched_bytes, stale_reason)


class _Reporter:
    """Writes messages about the progress, at a limited rate."""

    def __init__(self) -> None:
        self._before_bytes = 0
        self._done_bytes = 0
        self._next_s = 0.0

    def arrived(self, size_bytes: int) -> None:
        self._done_bytes = self._before_bytes + size_bytes
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + PROGRESS_EVERY_S
            _send(Progressed(self._done_bytes))

    def finished(self, size_bytes: int) -> None:
        """Count a complete file."""
        self._before_bytes += size_bytes
        _send(Progressed(self._before_bytes))

    def waiting(self, reason: str, pause_s: float | None) -> None:
        _send(Paused(reason, pause_s))

    def locked(self) -> None:
        """Report that another process fetches the same file."""
        _send(Paused("another process is fetching the same file"))

    def checking(self, path: str) -> None:
        _send(Progressed(self._done_bytes))
        _send(Checking(path))


def _send(message: Message) -> None:
    sys.stdout.buffer.write(encode(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
