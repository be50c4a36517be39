"""What the hub's answers mean: the list of files, errors as sentences, what is worth a retry. Pure.

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
from .names import RepoFile, is_repo, is_safe_path

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_BLOB: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

#: Statuses that may be different soon.
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

#: Longest piece of the hub's own words that is quoted, in characters.
_QUOTE: Final = 200


@attrs.frozen
class Repository:
    """A repository at one commit; *commit* and every *blob* are safe as file names.

    Attributes:
        commit: Its hash.
        files: What it holds.
        name: ``user/repo``, spelled as the hub does.
    """

    commit: str
    files: tuple[RepoFile, ...]
    name: str


@attrs.frozen
class Retries:
    """How often and how patiently to try again.

    Attributes:
        limit: Failures in a row, without a byte in between, after which it is given up.
        first_pause_s: Pause after the first failure; it doubles with each further one.
        max_pause_s: Longest such pause.
        max_retry_after_s: Longest ``Retry-After`` that is obeyed; beyond, it is given up.
    """

    limit: int = 10
    first_pause_s: float = 0.5
    max_pause_s: float = 15.0
    max_retry_after_s: float = 300.0

    def pause_s(self, failures: int, retry_after_s: float | None = None) -> float | None:
        """Return how long to wait after that many failures in a row; None to give up."""
        if failures >= self.limit or (retry_after_s or 0) > self.max_retry_after_s:
            return None
        pause_s = min(self.first_pause_s * 2.0 ** (failures - 1), self.max_pause_s)
        return max(pause_s, retry_after_s or 0.0)


@attrs.frozen
class Answer:
    """The head of an answer that is not a success.

    Attributes:
        status: Its status.
        fields: Its header fields, names in lower case.
        from_hub: Whether the hub itself sent it, and not a host that it redirected to.
    """

    status: int
    fields: Mapping[str, str]
    from_hub: bool = True


def is_passing(answer: Answer) -> bool:
    """Return whether the same request may succeed soon.

    A host behind a redirect refuses addresses whose signature is too old: the hub gives a
    fresh one.
    """
    return answer.status in _PASSING or (not answer.from_hub and answer.status in {401, 403})


def failure(answer: Answer, *, repo: str, page: str, has_token: bool) -> DownloadError:
    """Return the error that *answer* stands for.

    Args:
        answer: An answer with an error status.
        repo: What was asked for, ``user/repo``.
        page: The repository's web page.
        has_token: Whether a token was sent along.
    """
    code = answer.fields.get("x-error-code", "")
    said = _quoted(answer.fields.get("x-error-message", ""))
    status = answer.status
    if is_passing(answer):
        what = "too many requests" if status == 429 else f"status {status}"
        return HubUnreachableError(f"the hub answers with {what}; try again later{said}")
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
        said = ": a file is shorter than it announced"
    return HubAnswerError(f"the hub answers with status {status} for {repo}{said}")


def parse_repository(body: bytes, repo: str) -> Repository:
    """Read the hub's description of *repo*; files with unusable names are left out.

    Raises:
        HubAnswerError: if it makes no sense.
    """
    nonsense = HubAnswerError(f"the hub's description of {repo} makes no sense; try again later")
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
        raise nonsense from exc
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise nonsense
    name = document.get("id")
    if not isinstance(name, str) or name.lower() != repo.lower() or not is_repo(name):
        name = repo  # an old name, perhaps, that the hub still knows
    return Repository(commit, files, name)


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
