"""Fetching one file of a repository: resumed at any byte, checked, and retried. Blocks.

Runs in a process of its own (fetch.py), so that it may block, and be killed at any time.
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
import httpx

from .. import __version__
from ..errors.downloads import (
    CacheUnusableError,
    DiskFullError,
    HubAnswerError,
    HubUnreachableError,
)
from .answers import Answer, Repository, Retries, failure, is_passing, parse_repository
from .cache import RepoCache
from .large_reads import large_read_transport
from .names import RepoFile
from .part_file import PartFile
from .units import size

#: Seconds to wait for a connection, and for the next byte. A hub that is silent for so long
#: is asked again.
CONNECT_TIMEOUT_S: Final = 10.0
READ_TIMEOUT_S: Final = 30.0

#: Largest description of a repository that is read, in bytes.
MAX_DOCUMENT_BYTES: Final = 64 * 2**20

#: Failures after which the first question is given up: nothing is lost yet, and a user who is
#: offline should not wait for a model that is here.
QUICK_LIMIT: Final = 3

_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")


class _PassingError(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class Observer(Protocol):
    """Whoever wants to know how a transfer goes on."""

    def arrived(self, size_bytes: int) -> None:
        """Hear that so much of the current file is here."""

    def waiting(self, reason: str, pause_s: float | None) -> None:
        """Hear that nothing moves, and why."""

    def checking(self, path: str) -> None:
        """Hear that all of a file is here and its hash is being computed."""


@attrs.define(eq=False)
class Hub:
    """One hub, and how to talk to it. A context manager: at its end the connections are closed.

    Attributes:
        endpoint: Its base URL, without a slash at the end.
        token: Sent to the hub itself, never to a host that it redirects to.
        observer: Told how it goes on.
        offline: Whether the user wants it not to be asked.
        retries: How patient to be.
        sleep: Waits for that pause.
        read_timeout_s: Longest silence of the hub.
    """

    endpoint: str
    token: str | None
    observer: Observer
    offline: bool = False
    retries: Retries = attrs.field(factory=Retries)
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
            follow_redirects=True,  # httpx takes the token off when the host changes
            timeout=httpx.Timeout(self.read_timeout_s, connect=CONNECT_TIMEOUT_S),
            transport=large_read_transport(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def page(self, repo: str) -> str:
        """Return the web page of a repository."""
        return f"{self.endpoint}/{repo}"

    def repository(self, repo: str, revision: str = "main") -> Repository:
        """Ask what *repo* holds.

        Raises:
            DownloadError: if the hub does not say.
        """
        if self.offline:
            raise HubUnreachableError("HF_HUB_OFFLINE is set, so the hub was not asked")
        if not self.endpoint.startswith(("http://", "https://")):
            raise HubUnreachableError(
                f"HF_ENDPOINT is {self.endpoint!r}, which is no address of a hub: "
                "it must begin with http:// or https://"
            )
        url = f"{self.endpoint}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
        body = bytearray()

        def ask() -> None:
            body.clear()
            with self._answer(url, {}, repo) as response:
                for piece in response.iter_bytes():
                    body.extend(piece)
                    if len(body) > MAX_DOCUMENT_BYTES:
                        raise HubAnswerError(f"the hub's description of {repo} has no end")

        self._patiently(ask, lambda: 0, attrs.evolve(self.retries, limit=QUICK_LIMIT))
        return parse_repository(bytes(body), repo)

    def fetch(self, cache: RepoCache, commit: str, file: RepoFile) -> None:
        """Make sure that the content of *file* is complete in *cache* and right.

        Args:
            cache: Where to.
            commit: Which version of the repository.
            file: What.

        Raises:
            DownloadError: if it cannot be fetched; what is here stays, for the next time.
        """
        blob, part = cache.blob(file), cache.part(file)
        with disk_errors(cache):
            blob.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(2):
                with PartFile(part, file) as incoming:
                    self._fill(incoming, cache.repo, commit, file)
                    self.observer.checking(file.path)
                    if incoming.is_right():
                        part.replace(blob)
                        return
                # Perhaps an earlier piece of it was broken: once more, from the beginning.
                part.unlink()
        raise HubAnswerError(
            f"{file.path} of {cache.repo} arrived complete, but is not what the hub announced: "
            "its hash is wrong; the file was deleted, try again later"
        )

    def _fill(self, incoming: PartFile, repo: str, commit: str, file: RepoFile) -> None:
        url = f"{self.endpoint}/{repo}/resolve/{commit}/{quote(file.path)}"

        def attempt() -> None:
            if incoming.size_bytes == file.size_bytes:
                return
            start = incoming.size_bytes
            fields = {"range": f"bytes={start}-"} if start else {}
            with self._answer(url, fields, repo) as response:
                incoming.start_at(_offset(response, start, file))
                for piece in response.iter_raw():
                    incoming.write(piece)
                    self.observer.arrived(incoming.size_bytes)
            if incoming.size_bytes < file.size_bytes:
                raise _PassingError("the connection ended early")

        self._patiently(attempt, lambda: incoming.size_bytes, self.retries)

    @contextlib.contextmanager
    def _answer(self, url: str, fields: dict[str, str], repo: str) -> Iterator[httpx.Response]:
        """Yield a successful answer with its body still to come.

        Raises:
            DownloadError: if it is an error that stays.
            _PassingError: if it is one that may pass.
        """
        with self._http.stream("GET", url, headers=fields) as response:
            if response.is_success:
                yield response
                return
            answer = Answer(
                response.status_code,
                dict(response.headers),
                from_hub=response.url.host == httpx.URL(self.endpoint).host,
            )
            error = failure(answer, repo=repo, page=self.page(repo), has_token=bool(self.token))
            if is_passing(answer):
                retry_after_s = _retry_after_s(response.headers.get("retry-after"))
                raise _PassingError(str(error), retry_after_s=retry_after_s)
            raise error

    def _patiently(
        self, attempt: Callable[[], None], progress: Callable[[], int], retries: Retries
    ) -> None:
        """Repeat *attempt* until it succeeds, or fails too often without *progress*.

        Raises:
            HubUnreachableError: if it failed too often.
        """
        failures, reached = 0, progress()
        while True:
            try:
                return attempt()
            except _PassingError as exc:
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
        """Return what went wrong on the way, as a sentence."""
        host = httpx.URL(self.endpoint).netloc.decode()
        match exc:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError():
                return f"the hub {host} cannot be reached ({str(exc) or type(exc).__name__})"
            case httpx.TimeoutException():
                return f"the hub {host} was silent for {self.read_timeout_s:g} seconds"
            case _:
                return f"the connection to the hub {host} broke ({str(exc) or type(exc).__name__})"


def check_room(cache: RepoCache, commit: str, files: Iterable[RepoFile]) -> None:
    """Make sure that what is missing of *files* fits on the disk, before anything is fetched.

    Raises:
        DiskFullError: if it does not; the message has both figures.
        CacheUnusableError: if the cache cannot be used at all.
    """
    missing_bytes = sum(cache.missing_bytes(commit, file) for file in files)
    with disk_errors(cache):
        cache.folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(cache.folder).free
    if missing_bytes > free_bytes:
        raise DiskFullError(
            f"{size(missing_bytes)} are still to be fetched, but the disk of {cache.root} has "
            f"only {size(free_bytes)} free; make room, or set HF_HUB_CACHE to another disk"
        )


@contextlib.contextmanager
def disk_errors(cache: RepoCache) -> Iterator[None]:
    """Turn errors of the file system into sentences.

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
    """Return where in *file* the body of *response* begins.

    Raises:
        HubAnswerError: if the file has not the size that the hub announced.
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
    """Read a ``Retry-After``: seconds or a date. Source: RFC 9110, section 10.2.3."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
