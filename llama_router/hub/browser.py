"""Looks at the hub: each is a child process, which is killed after a time limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
import trio

from ..errors.downloads import (
    DownloadError,
    HubReferenceError,
    HubUnreachableError,
    download_error,
)
from ..files import reason_of
from ..workers.parent import end_worker, start_worker
from .found import BrowseFailed, FoundRepositories, OfferedRepository
from .references import is_repo

#: Time limit of a look, with the start of its process, in seconds.
LIMIT_S: Final = 25.0

#: Looks at a time; a page has one.
AT_ONCE: Final = 2

#: Longest answer of a child, in bytes: a repository of some thousand files.
_MAX_BYTES: Final = 16 * 2**20

T = TypeVar("T")


class HubBrowser:
    """Asks the hub on behalf of a page.

    Args:
        environ: The environment of the children, with the cache, token and endpoint.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._turns = trio.CapacityLimiter(AT_ONCE)

    async def search(self, words: str, sort: str) -> FoundRepositories:
        """Return the repositories with GGUF files that fit *words*; see `HubClient.search`.

        Raises:
            DownloadError: if the hub cannot be asked, or not in time.
        """
        return await self._ask(FoundRepositories, "search", words, sort)

    async def repository(self, name: str) -> OfferedRepository:
        """Return the repository ``user/repo`` with its models.

        Raises:
            DownloadError: if the hub cannot be asked, or not in time.
        """
        if not is_repo(name):
            error = HubReferenceError(f"{name!r} is not the name of a repository: user/repo")
            error.param = "id"
            raise error
        return await self._ask(OfferedRepository, "repo", name)

    async def _ask(self, kind: type[T], *arguments: str) -> T:
        with trio.move_on_after(LIMIT_S):
            async with self._turns:
                return _decoded(kind, await self._run(*arguments))
        raise HubUnreachableError(
            f"the hub did not answer within {LIMIT_S:g} seconds; try again later"
        )

    async def _run(self, *arguments: str) -> bytes:
        try:
            process = await start_worker("llama_router.hub.browse", *arguments, env=self._environ)
        except OSError as exc:
            message = f"the process that asks the hub cannot be started: {reason_of(exc)}"
            raise DownloadError(message) from exc
        try:
            assert process.stdout is not None
            output = bytearray()
            async for data in process.stdout:
                output += data
                if len(output) > _MAX_BYTES:
                    raise DownloadError("the hub's answer is too long")
            return bytes(output)
        finally:
            await end_worker(process)


def _decoded(kind: type[T], output: bytes) -> T:
    """Return the result in the last line of a child's output.

    Raises:
        DownloadError: that of the child.
    """
    lines = output.splitlines() or [b""]
    try:
        return msgspec.json.decode(lines[-1], type=kind)
    except msgspec.DecodeError:
        pass
    try:
        failed = msgspec.json.decode(lines[-1], type=BrowseFailed)
    except msgspec.DecodeError as exc:
        tail = lines[-1].decode("utf-8", "replace")[:200]
        raise DownloadError(f"the process that asks the hub failed: {tail}") from exc
    raise download_error(failed.code, failed.message)
