"""Responses of the hub: descriptions of repositories, errors, transient failures. Pure.

Source: https://huggingface.co/docs/hub/api for the repository's document; the meaning of
``X-Error-Code`` is as in huggingface_hub's hf_raise_for_status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from ..errors.downloads import (
    DownloadError,
    HubAccessError,
    HubAnswerError,
    HubFileMissingError,
    HubTokenError,
    HubUnreachableError,
    RepositoryMissingError,
)
from .found import FoundRepository
from .references import RepoFile, is_repo, is_safe_path

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

#: Statuses of transient failures.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Longest quotation of a message of the hub, in characters.
_QUOTE: Final = 200


@attrs.frozen
class Repository:
    """A repository at one commit; *commit* and every *blob* are safe as file names.

    Attributes:
        commit: The hash of the commit.
        files: Its files.
        name: ``user/repo`` in the hub's spelling.
        gated: Its files are for users that accepted its conditions.
    """

    commit: str
    files: tuple[RepoFile, ...]
    name: str
    gated: bool = False


@attrs.frozen
class RetryPolicy:
    """Number and pauses of retries.

    Attributes:
        limit: Failures in a row, without a byte in between, after which to give up.
        first_pause_s: Pause after the first failure; it doubles with each further one.
        max_pause_s: Longest such pause.
        max_retry_after_s: Longest ``Retry-After`` to wait for; give up beyond.
    """

    limit: int = 10
    first_pause_s: float = 0.5
    max_pause_s: float = 15.0
    max_retry_after_s: float = 300.0

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float | None:
        """Return the pause after that many failures in a row; None to give up."""
        if failures >= self.limit or (retry_after_s or 0) > self.max_retry_after_s:
            return None
        pause_s = min(self.first_pause_s * 2.0 ** (failures - 1), self.max_pause_s)
        return max(pause_s, retry_after_s or 0.0)


@attrs.frozen
class HubResponse:
    """The head of an error response.

    Attributes:
        status: Its status.
        fields: Its header fields, names in lower case.
        from_hub: True if the hub sent it, False for a host that it redirected to.
    """

    status: int
    fields: Mapping[str, str]
    from_hub: bool = True


def is_transient(response: HubResponse) -> bool:
    """Return whether the same request may succeed soon.

    A host behind a redirect refuses URLs with an expired signature: the hub returns a new one.
    """
    return response.status in _TRANSIENT or (
        not response.from_hub and response.status in {401, 403}
    )


def error_for(response: HubResponse, *, repo: str, page: str, has_token: bool) -> DownloadError:
    """Return the exception for an error *response*.

    Args:
        response: A response with an error status.
        repo: The requested repository, ``user/repo``.
        page: The repository's web page.
        has_token: The request had a token.
    """
    code = response.fields.get("x-error-code", "")
    quote = _quoted(response.fields.get("x-error-message", ""))
    status = response.status
    if is_transient(response):
        reason = "too many requests" if status == 429 else f"status {status}"
        return HubUnreachableError(f"the hub answers with {reason}; try again later{quote}")
    if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
        return HubAccessError(_gated(repo, page, has_token=has_token))
    if status == 401 and has_token:
        return HubTokenError(
            "the hub does not accept the token of this machine (HF_TOKEN, or that of "
            "'hf auth login'): it may be mistyped, expired or revoked; make a new one at "
            f"{page.removesuffix('/' + repo)}/settings/tokens"
        )
    if status in {401, 404}:
        return _missing(repo, code, has_token=has_token)
    if status == 416:
        quote = ": a file is shorter than it announced"
    return HubAnswerError(f"the hub answers with status {status} for {repo}{quote}")


def parse_repository(body: bytes, repo: str) -> Repository:
    """Return the repository *repo* from the hub's JSON; files with unsafe names are left out.

    Raises:
        HubAnswerError: if it is malformed.
    """
    malformed = HubAnswerError(f"the hub's description of {repo} makes no sense; try again later")
    try:
        document: Any = msgspec.json.decode(body)
        commit = document["sha"]
        siblings = document["siblings"]
        files = tuple(file for entry in siblings if (file := _file(entry)))
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        RecursionError,
        LookupError,
        TypeError,
    ) as exc:
        raise malformed from exc
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise malformed
    name = document.get("id")
    if not isinstance(name, str) or name.lower() != repo.lower() or not is_repo(name):
        name = repo  # perhaps a former name, which the hub redirects
    return Repository(commit, files, name, gated=document.get("gated") not in (None, False))


def parse_search(body: bytes) -> list[FoundRepository]:
    """Return the repositories that a search found; entries that make no sense are left out.

    Raises:
        HubAnswerError: if it is no list.
    """
    try:
        entries = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise HubAnswerError("the hub's answer to the search makes no sense") from exc
    if not isinstance(entries, list):
        raise HubAnswerError("the hub's answer to the search makes no sense")
    found = (_found(entry) for entry in entries if isinstance(entry, dict))
    return [each for each in found if each is not None]


def _found(entry: dict[str, Any]) -> FoundRepository | None:
    name = entry.get("id")
    if not isinstance(name, str) or not is_repo(name):
        return None

    def number(key: str) -> int | None:
        value = entry.get(key)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value if is_number else None

    def text(key: str) -> str | None:
        value = entry.get(key)
        return value[:_QUOTE] if isinstance(value, str) else None

    return FoundRepository(
        id=name,
        downloads=number("downloads"),
        likes=number("likes"),
        modified_at=text("lastModified"),
        gated=entry.get("gated") not in (None, False),
        task=text("pipeline_tag"),
    )


def _file(entry: Any) -> RepoFile | None:  # noqa: ANN401 -- undecoded JSON
    path, lfs = entry["rfilename"], entry.get("lfs") or {}
    blob = lfs.get("sha256") or lfs.get("oid") or entry.get("blobId")
    size = lfs.get("size", entry.get("size"))
    if (
        not isinstance(path, str)
        or not is_safe_path(path)
        or not isinstance(blob, str)
        or not _BLOB.fullmatch(blob)
        or not isinstance(size, int)
        or isinstance(size, bool)
        or size < 0
    ):
        return None
    return RepoFile(path, size, blob)


def _gated(repo: str, page: str, *, has_token: bool) -> str:
    if has_token:
        return (
            f"{repo} is gated, and the account of your token has not been let in: "
            f"ask for access at {page}, then try again"
        )
    return (
        f"{repo} is gated: accept its conditions at {page}, then set HF_TOKEN "
        "(or run 'hf auth login') and try again"
    )


def _missing(repo: str, code: str, *, has_token: bool) -> DownloadError:
    if code == "EntryNotFound":
        return HubFileMissingError(f"{repo} no longer has the file that it lists; try again")
    hint = (
        "the token of this machine may not see it"
        if has_token
        else "set HF_TOKEN or run 'hf auth login' if it is private"
    )
    return RepositoryMissingError(
        f"the hub has no model repository {repo!r}, or does not show it to you; {hint}"
    )


def _quoted(message: str) -> str:
    return f" (it says: {message[:_QUOTE]})" if message else ""
