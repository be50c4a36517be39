"""Fetching files from an offline hub that breaks, lies, stalls and refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from email.utils import formatdate
from pathlib import Path
from time import time

import attrs
import httpx
import pytest

from llama_router.errors.downloads import (
    CacheUnusableError,
    DiskFullError,
    DownloadError,
    HubAccessError,
    HubAnswerError,
    HubFileMissingError,
    HubTokenError,
    HubUnreachableError,
    RepositoryMissingError,
)
from llama_router.hub import cache as hub_cache
from llama_router.hub import cache_deletion
from llama_router.hub.cache import RepoCache, repositories
from llama_router.hub.partial_file import PartialFile
from llama_router.hub.references import Reference, RepoFile, choose
from llama_router.hub.responses import Repository, RetryPolicy
from llama_router.hub.transfer import HubClient, _offset, check_room
from tests.hub_server import HubServer

pytestmark = pytest.mark.process

REPO = "acme/model-GGUF"
NAME = "model-Q4_K_M.gguf"
SIZE = 700_001


@attrs.define
class Heard:
    """Everything that a transfer said, and the pauses that it made."""

    arrived_bytes: list[int] = attrs.field(factory=list)
    reasons: list[str] = attrs.field(factory=list)
    checked: list[str] = attrs.field(factory=list)
    pauses_s: list[float] = attrs.field(factory=list)

    def arrived(self, size_bytes: int) -> None:
        self.arrived_bytes.append(size_bytes)

    def waiting(self, reason: str, _pause_s: float | None) -> None:
        self.reasons.append(reason)

    def checking(self, path: str) -> None:
        self.checked.append(path)


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with one repository of one model."""
    write(tmp_path / "hub" / REPO / NAME, SIZE)
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def heard() -> Heard:
    """What the transfer says."""
    return Heard()


@pytest.fixture
def cache(tmp_path) -> RepoCache:
    """An empty cache."""
    return RepoCache(tmp_path / "cache", REPO)


def write(path: Path, size_bytes: int) -> None:
    """Write a file of random bytes, the same in every run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(random.Random(path.name).randbytes(size_bytes))


@pytest.fixture
def connect(server, heard) -> Iterator[Callable[..., HubClient]]:
    """Return a function that makes a client of the hub."""
    with ExitStack() as stack:

        def connect(token: str | None = None, *, url: str = server.url, **changes) -> HubClient:
            retries, sleep = RetryPolicy(limit=3, first_pause_s=0.5), heard.pauses_s.append
            hub = HubClient(url, token, heard, retries=retries, sleep=sleep, **changes)
            return stack.enter_context(hub)

        yield connect


def ask(hub: HubClient) -> tuple[Repository, RepoFile]:
    repository = hub.repository(REPO)
    return repository, choose(repository.files, Reference(REPO)).model.parts[0]


def fetch(hub: HubClient, cache: RepoCache) -> tuple[Repository, RepoFile]:
    repository, file = ask(hub)
    hub.fetch(cache, repository.commit, file)
    return repository, file


def is_fetched(server: HubServer, cache: RepoCache, file: RepoFile) -> bool:
    whole = cache.blob(file).read_bytes() == (server.root / REPO / file.path).read_bytes()
    return whole and not list(cache.folder.rglob("*.incomplete"))


# -- the plain way --------------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
def test_a_file_is_fetched(connect, server, heard, cache, direct) -> None:
    """From the hub itself, and from the host that it redirects to."""
    server.direct = direct
    _, file = fetch(connect(), cache)
    assert is_fetched(server, cache, file)
    assert heard.arrived_bytes[-1] == SIZE
    assert heard.checked == [NAME]
    assert heard.reasons == []


def test_the_token_stays_with_the_hub(connect, server, cache) -> None:
    """A host that it redirects to does not get it."""
    server.token, server.known_tokens, server.gated = "hf_x", {"hf_x"}, {REPO}
    _, file = fetch(connect(token="hf_x"), cache)
    assert is_fetched(server, cache, file)
    tokens = {
        entry["path"].split("/")[1]: "authorization" in entry["fields"] for entry in server.log
    }
    assert tokens == {"api": True, "acme": True, "cdn": False}


def test_small_files_are_checked_too(connect, server, cache) -> None:
    """They have git's hash instead of a sha256."""
    write(server.root / REPO / "notes.txt", 1000)
    hub = connect()
    repository = hub.repository(REPO)
    file = next(file for file in repository.files if file.path == "notes.txt")
    hub.fetch(cache, repository.commit, file)
    assert is_fetched(server, cache, file)


def test_an_empty_file_is_fetched(connect, server, cache) -> None:
    """Nothing is something."""
    write(server.root / REPO / NAME, 0)
    _, file = fetch(connect(), cache)
    assert is_fetched(server, cache, file)


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, {"content-length": "9" * 5000}),
        (206, {"content-range": f"bytes {'9' * 5000}-1/2"}),
    ],
)
def test_a_length_of_thousands_of_digits_is_no_length(status: int, fields: dict[str, str]) -> None:
    """No number is made of it: Python refuses such ones by an exception of its own."""
    response = httpx.Response(status, headers=fields)
    file = RepoFile("a.gguf", 5, "0" * 64)
    with contextlib.suppress(HubAnswerError):
        assert _offset(response, 0, file) == 0


# -- resuming -------------------------------------------------------------------------


@pytest.mark.parametrize("have_bytes", [1, 65_535, SIZE - 1, SIZE])
def test_it_goes_on_where_it_ended(connect, server, cache, have_bytes) -> None:
    """Only what is missing is sent again, and the whole is checked."""
    hub = connect()
    repository, file = ask(hub)
    cache.partial_blob(file).parent.mkdir(parents=True)
    content = (server.root / REPO / NAME).read_bytes()
    cache.partial_blob(file).write_bytes(content[:have_bytes])
    assert cache.missing_bytes(repository.commit, file) == SIZE - have_bytes
    hub.fetch(cache, repository.commit, file)
    assert is_fetched(server, cache, file)
    sent = [(entry["start"], entry["sent"]) for entry in server.served(NAME)]
    assert sent == ([(have_bytes, SIZE - have_bytes)] if have_bytes < SIZE else [])


def test_a_server_without_ranges_begins_anew(connect, server, cache) -> None:
    """What was here is not mixed with what comes."""
    server.ignore_range = True
    hub = connect()
    repository, file = ask(hub)
    cache.partial_blob(file).parent.mkdir(parents=True)
    cache.partial_blob(file).write_bytes(b"x" * 1000)
    hub.fetch(cache, repository.commit, file)
    assert is_fetched(server, cache, file)


@pytest.mark.parametrize("have", [b"x" * 1000, b"x" * SIZE, b"x" * (SIZE + 1)])
def test_a_broken_beginning_is_fetched_again(connect, server, cache, have) -> None:
    """What an earlier process left may be anything; the hash covers it."""
    hub = connect()
    repository, file = ask(hub)
    cache.partial_blob(file).parent.mkdir(parents=True)
    cache.partial_blob(file).write_bytes(have)
    hub.fetch(cache, repository.commit, file)
    assert is_fetched(server, cache, file)


def test_a_hub_that_drops_every_connection_is_outlasted(connect, server, heard, cache) -> None:
    """As long as each brings something, no number of them is too many."""
    server.drop_after = 100_000
    _, file = fetch(connect(), cache)
    assert is_fetched(server, cache, file)
    assert [entry["start"] for entry in server.served(NAME)] == list(range(0, SIZE, 100_000))
    assert heard.pauses_s == [0.5] * 7
    assert all("broke" in reason for reason in heard.reasons)


def test_a_hub_that_only_drops_is_given_up(connect, server, heard, cache) -> None:
    """Pauses grow, then the reason is told; nothing is left that looks complete."""
    server.drop_after = 0
    hub = connect()
    repository, file = ask(hub)
    with pytest.raises(HubUnreachableError, match="broke"):
        hub.fetch(cache, repository.commit, file)
    assert heard.pauses_s == [0.5, 1.0]
    assert not cache.blob(file).exists()


def test_a_hub_that_stalls_is_asked_again(connect, server, heard, cache) -> None:
    """Silence in the middle of a file counts as a broken connection."""
    server.stall_after = 300_000
    hub = connect(read_timeout_s=0.2)
    repository, file = ask(hub)

    def pause(seconds: float) -> None:
        server.stall_after = None

    hub.sleep = pause
    hub.fetch(cache, repository.commit, file)
    assert is_fetched(server, cache, file)
    assert heard.reasons == [f"the hub {server.url[7:]} was silent for 0.2 seconds"]


# -- errors that pass -----------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_errors_that_pass_are_waited_for(connect, server, heard, cache, status) -> None:
    """The API's and the file's, each after a pause."""
    server.answers = [(status, {})]
    server.cdn_answers = [(status, {})]
    _, file = fetch(connect(), cache)
    assert is_fetched(server, cache, file)
    assert heard.pauses_s == [0.5, 0.5]


def test_retry_after_is_obeyed(connect, server, heard, cache) -> None:
    """In seconds and as a date."""
    server.answers = [(429, {"Retry-After": "7"})]
    server.cdn_answers = [(503, {"Retry-After": formatdate(time() + 100, usegmt=True)})]
    fetch(connect(), cache)
    assert heard.pauses_s[0] == 7
    assert 90 < heard.pauses_s[1] <= 100


def test_a_long_retry_after_is_given_up(connect, server, heard) -> None:
    """An hour is for the user to wait, who learns of it."""
    server.answers = [(429, {"Retry-After": "3600"})]
    with pytest.raises(HubUnreachableError, match="too many requests") as raised:
        connect().repository(REPO)
    assert raised.value.retry_after_s == 3600
    assert heard.pauses_s == []


def test_errors_that_do_not_pass_are_given_up(connect, server) -> None:
    """After as many attempts as there may be."""
    server.answers = [(503, {"X-Error-Message": "maintenance"})] * 9
    with pytest.raises(HubUnreachableError, match=r"status 503.*maintenance"):
        connect().repository(REPO)
    assert len(server.log) == 3


def test_an_expired_address_is_renewed(connect, server, cache) -> None:
    """The host that it redirects to refuses; the hub is asked for another address."""
    server.cdn_answers = [(403, {})]
    _, file = fetch(connect(), cache)
    assert is_fetched(server, cache, file)


# -- errors that stay -----------------------------------------------------------------


def test_a_gated_repository_names_its_page(connect, server, heard, cache) -> None:
    """Without a token, and with one that has not been let in."""
    server.token, server.known_tokens, server.gated = "hf_in", {"hf_in", "hf_out"}, {REPO}
    for token in (None, "hf_out"):
        with pytest.raises(HubAccessError, match=f"{server.url}/{REPO}"):
            fetch(connect(token=token), cache)
    assert heard.pauses_s == []


def test_a_wrong_token_is_told_from_a_missing_repository(connect) -> None:
    """The hub says 401 to both."""
    with pytest.raises(HubTokenError, match="does not accept the token"):
        connect(token="hf_wrong").repository(REPO)
    with pytest.raises(RepositoryMissingError, match="'acme/other'"):
        connect().repository("acme/other")


def test_a_file_that_vanished_is_said_so(connect, server, cache) -> None:
    """It was listed, and is gone when it is asked for."""
    hub = connect()
    repository, file = ask(hub)
    (server.root / REPO / NAME).unlink()
    with pytest.raises(HubFileMissingError, match="no longer"):
        hub.fetch(cache, repository.commit, file)


def test_nobody_listens(connect) -> None:
    """Offline: the hub's name and the system's reason."""
    hub = connect(url="http://127.0.0.1:1")
    with pytest.raises(HubUnreachableError, match=r"127.0.0.1:1 cannot be reached.*refused"):
        hub.repository(REPO)


def test_an_endpoint_that_is_no_address_is_said_so(connect) -> None:
    """The variable and its value, instead of a library's words."""
    with pytest.raises(HubUnreachableError, match=r"HF_ENDPOINT is 'hub\.example'"):
        connect(url="hub.example").repository(REPO)


# -- lies -----------------------------------------------------------------------------


@pytest.mark.parametrize("lie", [-1, 1, -SIZE, 10**15])
@pytest.mark.parametrize("have_bytes", [0, 1])
def test_a_lie_about_the_size_is_found(connect, server, cache, lie, have_bytes) -> None:
    """Before the disk is filled with it."""
    server.lie_size = lie
    hub = connect()
    repository, file = ask(hub)
    cache.partial_blob(file).parent.mkdir(parents=True)
    cache.partial_blob(file).write_bytes((server.root / REPO / NAME).read_bytes()[:have_bytes])
    with pytest.raises(HubAnswerError):
        hub.fetch(cache, repository.commit, file)
    assert not cache.blob(file).exists()


def test_a_body_without_end_is_cut(tmp_path) -> None:
    """Not a byte more than announced is written."""
    file = RepoFile("m.gguf", 10, "0" * 64)
    with PartialFile(tmp_path / "part", file) as part:
        part.write(b"x" * 9)
        with pytest.raises(HubAnswerError, match="sends more"):
            part.write(b"xx")
    assert (tmp_path / "part").stat().st_size == 9


def test_a_wrong_hash_is_found_and_deleted(connect, server, cache) -> None:
    """It is fetched once more, in case it was an accident, and then given up."""
    server.flip = True
    hub = connect()
    repository, file = ask(hub)
    with pytest.raises(HubAnswerError, match="hash is wrong"):
        hub.fetch(cache, repository.commit, file)
    assert len(server.served(NAME)) == 2
    assert list(cache.folder.rglob("*.gguf")) == []
    assert list((cache.folder / "blobs").iterdir()) == []


def test_paths_that_lead_out_are_not_fetched(connect, server) -> None:
    """A hub that lists ../../evil.gguf, and hashes that are paths."""
    lfs = {"sha256": "c" * 64, "size": 5}
    server.extra_siblings = [
        {"rfilename": "../../evil-Q4_K_M.gguf", "lfs": lfs},
        {"rfilename": "/evil-Q4_K_M.gguf", "lfs": lfs},
        {"rfilename": "evil-Q4_K_M.gguf", "lfs": {"sha256": "../../../evil", "size": 5}},
    ]
    assert [file.path for file in connect().repository(REPO).files] == [NAME]


# -- the disk -------------------------------------------------------------------------


def test_the_disk_is_looked_at_first(connect, cache, monkeypatch) -> None:
    """The message has what is missing and what is free; what is here already counts."""
    repository, file = ask(connect())
    usage = namedtuple("usage", "free")  # noqa: PYI024 -- as shutil's
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(600_000))
    with pytest.raises(DiskFullError, match=r"700.0 kB are still.* only 600.0 kB free"):
        check_room(cache, repository.commit, [file])
    (cache.folder / "blobs").mkdir()
    cache.partial_blob(file).write_bytes(b"x" * 100_001)
    check_room(cache, repository.commit, [file])


def test_a_disk_that_becomes_full_is_a_sentence(connect, cache, monkeypatch) -> None:
    """What was written before stays."""

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if offset >= 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[: 100_000 - offset], offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    hub = connect()
    repository, file = ask(hub)
    with pytest.raises(DiskFullError, match="became full"):
        hub.fetch(cache, repository.commit, file)
    assert cache.partial_blob(file).stat().st_size == 100_000


def test_a_cache_that_is_no_folder_is_a_sentence(connect, tmp_path) -> None:
    """The path is in the message."""
    (tmp_path / "file").touch()
    with pytest.raises(CacheUnusableError, match=str(tmp_path / "file")):
        fetch(connect(), RepoCache(tmp_path / "file", REPO))


# -- the layout of the cache ----------------------------------------------------------


def publish(connect: Callable[..., HubClient], cache: RepoCache) -> Path:
    hub = connect()
    repository = hub.repository(cache.repo)
    for file in repository.files:
        hub.fetch(cache, repository.commit, file)
    return cache.publish(repository.commit, repository.files)


def test_huggingface_hub_sees_it(connect, cache) -> None:
    """Its own functions find the file, and nothing that would be wrong."""
    hub = pytest.importorskip("huggingface_hub")
    snapshot = publish(connect, cache)
    found = hub.hf_hub_download(REPO, NAME, local_files_only=True, cache_dir=cache.root)
    assert Path(found) == snapshot / NAME
    info = hub.scan_cache_dir(cache.root)
    assert info.warnings == []
    assert [(repo.repo_id, repo.size_on_disk, set(repo.refs)) for repo in info.repos] == [
        (REPO, SIZE, {"main"})
    ]


def test_a_disk_without_links_will_do(connect, cache, monkeypatch) -> None:
    """The file is moved to its name, and is not fetched again."""

    def symlink_to(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(Path, "symlink_to", symlink_to)
    snapshot = publish(connect, cache)
    repository, file = ask(connect())
    assert (snapshot / NAME).stat().st_size == SIZE
    assert cache.missing_bytes(repository.commit, file) == 0
    assert [model.path for model in cache.models()] == [snapshot / NAME]


def test_the_newest_version_is_found(connect, server, cache) -> None:
    """Both are here after the repository has changed; "main" is the one that counts."""
    old = publish(connect, cache)
    write(server.root / REPO / NAME, 1000)
    new = publish(connect, cache)
    assert old != new
    assert cache.snapshots() == [new, old]
    assert cache.find(Reference(REPO))[1] == new
    assert [(m.id, m.size_bytes) for m in cache.models()] == [(f"{REPO}:Q4_K_M", 1000)]


def test_removing_leaves_nothing(connect, server, cache) -> None:
    """Every version, the contents, what is unfinished, and the folder."""
    publish(connect, cache)
    write(server.root / REPO / NAME, 1000)
    publish(connect, cache)
    (cache.folder / "blobs" / ("d" * 64 + hub_cache.PARTIAL_SUFFIX)).write_bytes(b"x" * 10)
    assert cache_deletion.remove(cache, cache.model_by_tag(None)) == SIZE + 1000 + 10
    assert not cache.folder.exists()
    assert repositories(cache.root) == []


def test_removing_one_keeps_the_others(connect, server, cache) -> None:
    """A projector stays as long as a model does, and so does what is not ours."""
    for name in ("model-Q8_0.gguf", "mmproj-F16.gguf", "config.json"):
        write(server.root / REPO / name, 1000)
    snapshot = publish(connect, cache)
    assert cache_deletion.remove(cache, cache.model_by_tag("q4_k_m")) == SIZE
    left = {path.name for path in snapshot.iterdir()}
    assert left == {"model-Q8_0.gguf", "mmproj-F16.gguf", "config.json"}
    assert cache_deletion.remove(cache, cache.model_by_tag("q8_0")) == 2000
    assert {path.name for path in snapshot.iterdir()} == {"config.json"}


def test_what_is_under_way_is_not_removed(connect, server, cache) -> None:
    """Here the first of two files is complete, and the second one is not."""
    publish(connect, cache)
    write(server.root / REPO / "model-Q8_0.gguf", 1000)
    hub = connect()
    repository = hub.repository(REPO)
    other = next(file for file in repository.files if file.path == "model-Q8_0.gguf")
    with cache.in_use():
        hub.fetch(cache, repository.commit, other)
        cache.partial_blob(RepoFile("second", 10, "e" * 64)).write_bytes(b"x")
        assert cache_deletion.remove(cache, cache.model_by_tag(None)) == SIZE
    assert cache_deletion.remove_leftovers(cache) == 1001
    assert list((cache.folder / "blobs").iterdir()) == []


def test_a_content_that_vanished_is_not_linked(cache) -> None:
    """A name that leads nowhere would look like a model."""
    with pytest.raises(FileNotFoundError):
        cache.publish("a" * 40, [RepoFile(NAME, 10, "e" * 64)])
    assert cache.models() == []


def test_every_error_of_a_download_is_one() -> None:
    """The parent makes the child's errors again by their codes, so these must be distinct."""
    kinds: list[type[DownloadError]] = [DownloadError, *DownloadError.__subclasses__()]
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
