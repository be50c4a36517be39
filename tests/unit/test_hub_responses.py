"""What the hub's answers mean."""

import json
from typing import Any

import pytest

from llama_router.errors.downloads import (
    DownloadError,
    HubAccessError,
    HubAnswerError,
    HubFileMissingError,
    HubTokenError,
    HubUnreachableError,
    RepositoryMissingError,
)
from llama_router.hub.messages import Done, Failed, Progressed, decode, encode
from llama_router.hub.rate import Rate
from llama_router.hub.references import RepoFile
from llama_router.hub.responses import (
    HubResponse,
    RetryPolicy,
    error_for,
    is_transient,
    parse_repository,
)
from llama_router.hub.units import format_duration, format_size

PAGE = "https://hub.example/a/b"


def fails(status: int, code: str = "", *, has_token: bool = False) -> DownloadError:
    answer = HubResponse(status, {"x-error-code": code, "x-error-message": "words"})
    return error_for(answer, repo="a/b", page=PAGE, has_token=has_token)


@pytest.mark.parametrize(
    ("status", "code", "has_token", "kind", "words"),
    [
        (401, "GatedRepo", False, HubAccessError, f"accept its conditions at {PAGE}, then set HF_"),
        (403, "GatedRepo", True, HubAccessError, f"ask for access at {PAGE}"),
        (403, "", True, HubAccessError, PAGE),
        (401, "", True, HubTokenError, "https://hub.example/settings/tokens"),
        (401, "RepoNotFound", False, RepositoryMissingError, "set HF_TOKEN"),
        (404, "RepoNotFound", True, RepositoryMissingError, "the token of this machine"),
        (404, "EntryNotFound", False, HubFileMissingError, "no longer"),
        (429, "", False, HubUnreachableError, "too many requests"),
        (503, "", False, HubUnreachableError, "status 503 (it says: words)"),
        (416, "", False, HubAnswerError, "shorter than it announced"),
        (418, "", False, HubAnswerError, "status 418"),
    ],
)
def test_errors_are_sentences(status, code, has_token, kind, words) -> None:
    """Each says what is the matter and what to do, and has a kind of its own."""
    error = fails(status, code, has_token=has_token)
    assert type(error) is kind
    assert words.replace(" (it says: words)", "") in str(error)


def test_a_host_behind_a_redirect_may_refuse_an_old_address() -> None:
    """The hub gives a fresh one, so that is worth another try; the hub's own refusal is not."""
    assert is_transient(HubResponse(403, {}, from_hub=False))
    assert not is_transient(HubResponse(403, {}))


def test_pauses_grow_and_end() -> None:
    """Doubling up to a limit, never shorter than asked for, and not for ever."""
    retries = RetryPolicy(limit=5, first_pause_s=1, max_pause_s=3, max_retry_after_s=60)
    assert [retries.pause_s(failures) for failures in range(1, 6)] == [1, 2, 3, 3, None]
    assert retries.pause_s(1, 30) == 30
    assert retries.pause_s(3, 1) == 3
    assert retries.pause_s(1, 61) is None


def document(**changes: Any) -> bytes:
    good = {"rfilename": "m.gguf", "size": 5, "blobId": "0" * 40}
    return json.dumps({"sha": "a" * 40, "siblings": [good | changes]}).encode()


def test_a_repository_is_read() -> None:
    """The hash of a large file is its sha256; of a small one, git's."""
    lfs = {"sha256": "b" * 64, "size": 7}
    assert parse_repository(document(lfs=lfs), "a/b").files == (RepoFile("m.gguf", 7, "b" * 64),)
    assert parse_repository(document(), "a/b").files == (RepoFile("m.gguf", 5, "0" * 40),)


@pytest.mark.parametrize(
    ("said", "name"),
    [("A/B", "A/B"), ("a/other", "a/b"), (5, "a/b"), ("../..", "a/b"), (None, "a/b")],
)
def test_a_repository_is_called_as_the_hub_spells_it(said, name) -> None:
    """Else each spelling would have a folder of its own; another name is not believed."""
    body = json.dumps({"id": said, "sha": "a" * 40, "siblings": []}).encode()
    assert parse_repository(body, "a/b").name == name


@pytest.mark.parametrize(
    "changes",
    [
        {"rfilename": "../m.gguf"},
        {"rfilename": "/m.gguf"},
        {"rfilename": 5},
        {"blobId": "../../x"},
        {"blobId": "0" * 39},
        {"blobId": None},
        {"size": -1},
        {"size": "5"},
        {"size": None},
    ],
)
def test_files_that_could_do_harm_are_left_out(changes) -> None:
    """Paths and hashes become names of files here."""
    assert parse_repository(document(**changes), "a/b").files == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"sha": "x", "siblings": []}',
        b'{"sha": "../../../../../../../../../../../../../..", "siblings": []}',
        b'{"sha": 5, "siblings": 5}',
        b'{"sha": "' + b"a" * 40 + b'", "siblings": [5]}',
        b"\xff",
    ],
)
def test_nonsense_is_refused(body) -> None:
    """A captive portal's page is not a repository."""
    with pytest.raises(HubAnswerError, match="makes no sense"):
        parse_repository(body, "a/b")


def test_reports_survive_the_pipe() -> None:
    """What is encoded is decoded; anything else on the pipe is no report."""
    for report in (Progressed(5), Failed("code", "a\nb"), Done("m", "/p", None, 5)):
        line = encode(report)
        assert line.count(b"\n") == 1
        assert decode(line.rstrip()) == report
    for line in (b"", b"Warning: x", b"{}", b'{"event":"other"}', b"\xff"):
        assert decode(line) is None


def test_the_rate_is_that_of_late() -> None:
    """Old news do not count, silence lowers it, and a restart begins anew."""
    rate = Rate()
    assert rate.bytes_per_s(0) is None
    for second in range(100):
        rate.add(second, min(second, 50) * 10 + max(second - 50, 0) * 100)
    assert rate.bytes_per_s(99) == pytest.approx(100)
    assert rate.bytes_per_s(199) == pytest.approx(1000 / 110)
    rate.add(200, 0)
    assert rate.bytes_per_s(200) is None


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (4.6e9, "4.6 GB"), (2e15, "2000.0 TB")],
)
def test_sizes_are_decimal(size_bytes, text) -> None:
    """As on the label of a disk."""
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (3725, "1:02:05")]
)
def test_durations_are_short(seconds, text) -> None:
    """Seconds, then minutes, then hours."""
    assert format_duration(seconds) == text
