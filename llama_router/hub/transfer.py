"""The client of the hub: fetches files with resumption, verification and retries. Blocks.

It runs in a separate process (fetch.py), so it may block, and be killed at any time.
"""

from __future__ import annotations

import contextlib
import email.utils
import errno
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Final, Protocol, Self
from urllib.parse import quote

import attrs

from .. import __version__
from ..errors.downloads import (
    CacheUnusableError,
    DiskFullError,
    HubAnswerError,
    HubUnreachableError,
)
from ..http_library import httpx
from .cache import RepoCache
from .found import FoundRepository
from .large_reads import large_read_transport
from .partial_file import PartialFile
from .references import RepoFile
from .responses import (
    HubResponse,
    Repository,
    RetryPolicy,
    error_for,
    is_transient,
    parse_repository,
    parse_search,
)
from .units import format_size

#: Timeouts of a connection attempt and of the next byte, in seconds; a retry follows.
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0

#: Largest description of a repository that is read, in bytes.
MAX_DOCUMENT_BYTES: Final = 64 * 2**20

#: Most repositories of one search.
MAX_FOUND: Final = 50

#: Failures after which the request for the repository is given up: an offline user should get
#: a cached model soon.
QUICK_LIMIT: Final = 3

_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class _TransientError(Exception):
    """An attempt failed; a retry may succeed."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Observer(Protocol):
    """Callbacks for the progress of a transfer."""

    def arrived(self, size_bytes: int) -> None:
        """Handle that *size_bytes* of the current file have arrived."""

    def waiting(self, reason: str, pause_s: float | None) -> None:
        """Handle a pause of the transfer and its reason."""

    def checking(self, path: str) -> None:
        """Handle that all of a file has arrived and its hash is being verified."""


@attrs.define(eq=False)
class HubClient:
    """A client of one hub. As a context manager, it closes its connections at the end.

    Attributes:
        endpoint: Its base URL, without a slash at the end.
        token: Sent to the hub itself, never to a host that it redirects to.
        observer: Receives the progress.
        offline: The user has disabled requests to the hub.
        retries: Number and pauses of retries.
        sleep: Waits for a pause.
        read_timeout_s: Timeout of the next byte.
    """

    endpoint: str
    token: str | None
    observer: Observer
    offline: bool = False
    retries: RetryPolicy = attrs.field(factory=RetryPolicy)
    sleep: Callable[[float], None] = time.sleep
    read_timeout_s: float = READ_TIMEOUT_S
    _http: httpx.Client = attrs.field(init=False)

    @_http.default
    def _make_client(self) -> httpx.Client:
        fields = {"user-agent": f"llama-router/{__version__}", "accept-encoding": "identity"}
        if self.token:
            fields["authorization"] = f"Bearer {self.token}"
        return httpx.Client(
            headers=fields,
            follow_redirects=True,  # httpx drops the token if the host changes
            timeout=httpx.Timeout(self.read_timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=large_read_transport(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def page(self, repo: str) -> str:
        """Return the URL of a repository's page."""
        return f"{self.endpoint}/{repo}"

    def repository(self, repo: str, revision: str = "main") -> Repository:
        """Return the description of *repo*, requested from the hub.

        Raises:
            DownloadError: if the request fails.
        """
        path = f"{repo}/revision/{quote(revision, safe='')}?blobs=true"
        return parse_repository(self._document(path, repo), repo)

    def search(self, words: str, sort: str) -> list[FoundRepository]:
        """Return the repositories with GGUF files that fit *words*, the first ones of the hub.

        Args:
            words: What a person is looking for; empty for everything.
            sort: One of `found.SORTS`.

        Raises:
            DownloadError: if the request fails.
        """
        fields = ("downloads", "likes", "lastModified", "gated", "pipeline_tag")
        expand = "".join(f"&expand[]={field}" for field in fields)
        query = f"search={quote(words, safe='')}&filter=gguf&sort={sort}&direction=-1"
        return parse_search(self._document(f"?{query}&limit={MAX_FOUND}{expand}", "the search"))

    def beginning(self, repo: str, commit: str, file: RepoFile, size_bytes: int) -> bytes:
        """Return the first *size_bytes* of *file*, or all of it if it is shorter.

        Raises:
            DownloadError: if the request fails.
        """
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"
        wanted_bytes = min(size_bytes, file.size_bytes)
        body = bytearray()

        def attempt() -> None:
            body.clear()
            with self._response(url, {"range": f"bytes=0-{wanted_bytes - 1}"}, repo) as response:
                for piece in response.iter_raw():
                    body.extend(piece)
                    if len(body) >= wanted_bytes:
                        return  # a hub without ranges would send the whole file

        self._retrying(attempt, lambda: 0, self.retries)
        return bytes(body[:wanted_bytes])

    def _document(self, path: str, subject: str) -> bytes:
        """Return the answer of the hub's API to a GET.

        Args:
            path: The part of its URL behind ``/api/models``, with the query.
            subject: What it is about, for errors.
        """
        if self.offline:
            raise HubUnreachableError("HF_HUB_OFFLINE is set, so the hub was not asked")
        if not self.endpoint.startswith(("http://", "https://")):
            raise HubUnreachableError(
                f"HF_ENDPOINT is {self.endpoint!r}, which is no address of a hub: "
                "it must begin with http:// or https://"
            )
        url = f"{self.endpoint}/api/models{'' if path.startswith('?') else '/'}{path}"
        body = bytearray()

        def attempt() -> None:
            body.clear()
            with self._response(url, {}, subject) as response:
                for piece in response.iter_bytes():
                    body.extend(piece)
                    if len(body) > MAX_DOCUMENT_BYTES:
                        raise HubAnswerError(f"the hub's description of {subject} has no end")

        limit = min(self.retries.limit, QUICK_LIMIT)
        self._retrying(attempt, lambda: 0, attrs.evolve(self.retries, limit=limit))
        return bytes(body)

    def fetch(self, cache: RepoCache, commit: str, file: RepoFile) -> None:
        """Download the missing part of *file* into *cache* and verify its hash.

        Args:
            cache: The destination.
            commit: The commit of the repository.
            file: The file.

        Raises:
            DownloadError: if it cannot be fetched; the part that has arrived is kept.
        """
        blob, part = cache.blob(file), cache.partial_blob(file)
        with disk_errors(cache):
            blob.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                with PartialFile(part, file) as incoming:
                    self._fill(incoming, cache.repo, commit, file)
                    self.observer.checking(file.path)
                    if incoming.is_valid():
                        part.replace(blob)
                        return
                # Perhaps the part of an earlier process was damaged: retry once from the beginning.
                part.unlink()
        raise HubAnswerError(
            f"{file.path} of {cache.repo} arrived complete, but is not what the hub announced: "
            "its hash is wrong; the file was deleted, try again later"
        )

    def _fill(self, incoming: PartialFile, repo: str, commit: str, file: RepoFile) -> None:
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"

        def attempt() -> None:
            if incoming.size_bytes == file.size_bytes:
                return
            start = incoming.size_bytes
            fields = {"range": f"bytes={start}-"} if start else {}
            with self._response(url, fields, repo) as response:
                incoming.start_at(_offset(response, start, file))
                for piece in response.iter_raw():
                    incoming.write(piece)
                    self.observer.arrived(incoming.size_bytes)
            if incoming.size_bytes < file.size_bytes:
                raise _TransientError("the connection ended early")

        self._retrying(attempt, lambda: incoming.size_bytes, self.retries)

    @contextlib.contextmanager
    def _response(self, url: str, fields: dict[str, str], repo: str) -> Iterator[httpx.Response]:
        """Yield a successful response before its body is read.

        Raises:
            DownloadError: for a permanent error.
            _TransientError: for a transient one.
        """
        with self._http.stream("GET", url, headers=fields) as response:
            if response.is_success:
                yield response
                return
            head = HubResponse(
                response.status_code,
                dict(response.headers),
                from_hub=response.url.host == httpx.URL(self.endpoint).host,
            )
            error = error_for(head, repo=repo, page=self.page(repo), has_token=bool(self.token))
            if is_transient(head):
                retry_after_s = _retry_after_s(response.headers.get("retry-after"))
                raise _TransientError(str(error), retry_after_s=retry_after_s)
            raise error

    def _retrying(
        self, attempt: Callable[[], None], progress: Callable[[], int], retries: RetryPolicy
    ) -> None:
        """Repeat *attempt* until it succeeds, or fails too often without *progress*.

        Raises:
            HubUnreachableError: if it failed too often.
        """
        failures, reached = 0, progress()
        while True:
            try:
                return attempt()
            except _TransientError as exc:
                reason, retry_after_s = str(exc), exc.retry_after_s
            except (httpx.TransportError, httpx.TooManyRedirects) as exc:
                reason, retry_after_s = self._explain(exc), None
            except (httpx.DecodingError, httpx.InvalidURL) as exc:
                raise HubAnswerError(f"the hub's answer makes no sense: {exc}") from exc
            if progress() > reached:
                failures, reached = 0, progress()
            failures += 1
            pause_s = retries.pause_s(failures, retry_after_s)
            if pause_s is None:
                error = HubUnreachableError(reason)
                error.retry_after_s = retry_after_s
                raise error
            self.observer.waiting(reason, pause_s)
            self.sleep(pause_s)

    def _explain(self, exc: httpx.HTTPError) -> str:
        """Return a message about a failed connection."""
        host = httpx.URL(self.endpoint).netloc.decode()
        match exc:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError():
                return f"the hub {host} cannot be reached ({str(exc) or type(exc).__name__})"
            case httpx.TimeoutException():
                return f"the hub {host} was silent for {self.read_timeout_s:g} seconds"
            case _:
                return f"the connection to the hub {host} broke ({str(exc) or type(exc).__name__})"


def check_room(cache: RepoCache, commit: str, files: Iterable[RepoFile]) -> None:
    """Check that the missing bytes of *files* fit on the disk.

    Raises:
        DiskFullError: if they do not; the message has both sizes.
        CacheUnusableError: if the cache cannot be used at all.
    """
    missing_bytes = sum(cache.missing_bytes(commit, file) for file in files)
    with disk_errors(cache):
        cache.folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(cache.folder).free
    if missing_bytes > free_bytes:
        raise DiskFullError(
            f"{format_size(missing_bytes)} are still to be fetched, but the disk of {cache.root} "
            f"has only {format_size(free_bytes)} free; make room, or set HF_HUB_CACHE to "
            "another disk"
        )


@contextlib.contextmanager
def disk_errors(cache: RepoCache) -> Iterator[None]:
    """Convert errors of the file system to those of a download.

    Raises:
        DiskFullError: if the disk is full.
        CacheUnusableError: if anything else is wrong with the cache folder.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise DiskFullError(
                f"the disk of {cache.root} became full ({exc.strerror}); what is here is kept: "
                "make room and try again"
            ) from exc
        raise CacheUnusableError(
            f"the cache {cache.root} cannot be used: {exc.strerror}: {exc.filename}; "
            "set HF_HUB_CACHE to a folder that this user may write"
        ) from exc


def _offset(response: httpx.Response, start: int, file: RepoFile) -> int:
    """Return the offset in *file* at which the body of *response* begins.

    Raises:
        HubAnswerError: if the size of the file is not the announced one.
    """
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        found = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != start:
            raise HubAnswerError(f"the hub sends another part of {file.path} than was asked for")
        return _checked(start, int(found[2]), file)
    length = response.headers.get("content-length", "")
    return _checked(0, int(length) if _LENGTH.fullmatch(length) else file.size_bytes, file)


def _checked(offset: int, size_bytes: int, file: RepoFile) -> int:
    if size_bytes != file.size_bytes:
        raise HubAnswerError(
            f"the hub announced {file.size_bytes} bytes for {file.path}, but has {size_bytes}"
        )
    return offset


def _retry_after_s(value: str | None) -> float | None:
    """Return a ``Retry-After``, seconds or a date, in seconds. Source: RFC 9110, section 10.2.3."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
