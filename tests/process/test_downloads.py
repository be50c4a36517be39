"""Downloads as processes: begun, watched, cancelled, killed and resumed."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from llama_router.errors.config import ConfigError, Problem
from llama_router.errors.downloads import HubFileMissingError, HubUnreachableError
from llama_router.hub import cache_deletion
from llama_router.hub.cache import PARTIAL_SUFFIX, RepoCache
from llama_router.hub.downloads import Downloads, DownloadState, DownloadStatus
from llama_router.hub.references import Reference
from llama_router.process import procfs
from tests.hub_server import HubServer
from tests.limits import LIMIT_S

pytestmark = pytest.mark.process

REPO = "acme/model-GGUF"
NAME = "model-Q4_K_M.gguf"
SIZE = 3_000_000


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with one repository of one model."""
    path = tmp_path / "hub" / REPO / NAME
    path.parent.mkdir(parents=True)
    path.write_bytes(random.Random(NAME).randbytes(SIZE))
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def environ(server, tmp_path) -> dict[str, str]:
    """The environment of the downloads: this hub, and an empty home."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "LLAMA_"))}
    return inherited | {
        "HF_ENDPOINT": server.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HOME": str(tmp_path),
        "NO_PROXY": "*",
    }


@pytest.fixture
def ended() -> list[DownloadStatus]:
    """What the manager said about downloads that are over."""
    return []


@pytest.fixture
async def downloads(environ, ended) -> AsyncIterator[Downloads]:
    """A running manager."""
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            downloads = Downloads(environ, on_end=ended.append)
            await nursery.start(downloads.run)
            yield downloads
            nursery.cancel_scope.cancel()
    assert children() == set()


@pytest.fixture
def cache(tmp_path) -> RepoCache:
    """The cache that the downloads use."""
    return RepoCache(tmp_path / "cache", REPO)


def children() -> set[int]:
    """Return the children of this process that fetch something."""
    return {
        pid
        for pid in procfs.children(os.getpid())
        if b"llama_router.hub.fetch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


async def stalled(server: HubServer) -> None:
    await trio.to_thread.run_sync(server.stalled.wait, abandon_on_cancel=True)


async def until(downloads: Downloads, id_: str, done_bytes: int) -> None:
    while downloads.status(id_).done_bytes < done_bytes:
        await downloads.changed()


def is_right(server: HubServer, cache: RepoCache) -> bool:
    (model,) = cache.models()
    return model.path.read_bytes() == (server.root / REPO / NAME).read_bytes()


async def test_a_download_runs_to_its_end(downloads, server, cache, ended) -> None:
    """The model is in the cache, and the status says where, what and how much."""
    status = await downloads.finished(downloads.start(Reference(REPO)).id)
    assert status.state is DownloadState.DONE
    assert (status.model, status.files) == (f"{REPO}:Q4_K_M", (NAME,))
    assert status.done_bytes == status.total_bytes == SIZE
    assert status.result is not None
    assert status.result.path == str(cache.models()[0].path)
    assert status.result.fetched_bytes == SIZE
    assert is_right(server, cache)
    assert ended == [status]


async def test_a_download_is_done_when_its_model_was_adopted(environ, server) -> None:
    """Whoever sees it done may use the model."""
    reached, go_on = trio.Event(), trio.Event()

    async def adopt() -> None:
        reached.set()
        await go_on.wait()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            downloads = Downloads(environ, on_fetched=adopt)
            await nursery.start(downloads.run)
            id_ = downloads.start(Reference(REPO)).id
            await reached.wait()
            assert downloads.status(id_).state is DownloadState.RUNNING
            go_on.set()
            assert (await downloads.finished(id_)).state is DownloadState.DONE
            nursery.cancel_scope.cancel()


async def test_a_model_that_cannot_be_adopted_is_a_failed_download(environ, cache) -> None:
    """The reason is that of whoever could not; the model is in the cache all the same."""

    async def adopt() -> None:
        await trio.lowlevel.checkpoint()
        raise ConfigError((Problem((), "a mistake"),))

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            downloads = Downloads(environ, on_fetched=adopt)
            await nursery.start(downloads.run)
            status = await downloads.finished(downloads.start(Reference(REPO)).id)
            nursery.cancel_scope.cancel()
    assert (status.state, str(status.error)) == (DownloadState.FAILED, "a mistake")
    assert len(cache.models()) == 1


async def test_what_is_here_is_not_fetched_again(downloads, server) -> None:
    """The second download asks for the list of files, and nothing more."""
    await downloads.finished(downloads.start(Reference(REPO)).id)
    status = await downloads.finished(downloads.start(Reference(REPO, "Q4_K_M")).id)
    assert status.result is not None
    assert status.result.fetched_bytes == 0
    assert len(server.served(NAME)) == 1


async def test_the_same_download_is_joined(downloads, server) -> None:
    """Two who want the same share one; another reference is another download."""
    server.stall_after = 1000
    first = downloads.start(Reference(REPO))
    assert downloads.start(Reference(REPO)).id == first.id
    assert downloads.start(Reference(REPO, "Q4_K_M")).id != first.id
    await stalled(server)


async def test_two_downloads_of_one_file_take_turns(downloads, server, cache) -> None:
    """The second waits for the first, says so, and finds the file complete."""
    server.rate = SIZE
    first, second = downloads.start(Reference(REPO)), downloads.start(Reference(REPO, "Q4_K_M"))
    notes = set()
    while not all(downloads.status(i).state.is_over for i in (first.id, second.id)):
        await downloads.changed()
        notes |= {downloads.status(first.id).note, downloads.status(second.id).note}
    assert "another process is fetching the same file" in notes
    assert len(server.served(NAME)) == 1
    assert is_right(server, cache)


@pytest.mark.parametrize("what", ["file", "api"])
async def test_a_cancelled_download_ends_at_once(downloads, server, ended, what) -> None:
    """Also while the hub says nothing. Its process is gone then."""
    server.stall_after = 1_000_000 if what == "file" else None
    server.stall_api = what == "api"
    id_ = downloads.start(Reference(REPO)).id
    await stalled(server)
    assert children()
    began_s = trio.current_time()
    assert downloads.cancel(id_)
    status = await downloads.finished(id_)
    assert trio.current_time() - began_s < 0.5
    assert children() == set()
    assert status.state is DownloadState.CANCELLED
    assert ended == [status]
    assert not downloads.cancel(id_)


async def test_a_cancelled_download_goes_on_later(downloads, server, cache) -> None:
    """What was here is not sent again."""
    server.stall_after = 1_000_000
    id_ = downloads.start(Reference(REPO)).id
    await stalled(server)
    await until(downloads, id_, 1)
    downloads.cancel(id_)
    await downloads.finished(id_)
    (part,) = cache.folder.rglob(f"*{PARTIAL_SUFFIX}")
    have_bytes = part.stat().st_size
    assert 0 < have_bytes <= 1_000_000
    server.stall_after = None
    status = await downloads.finished(downloads.start(Reference(REPO)).id)
    assert status.result is not None
    assert status.result.fetched_bytes == SIZE - have_bytes
    assert server.served(NAME)[1]["start"] == have_bytes
    assert is_right(server, cache)


@pytest.mark.parametrize("after_bytes", [1, 65_536, 1_500_001, SIZE - 1])
async def test_a_killed_download_goes_on_later(downloads, server, cache, after_bytes) -> None:
    """SIGKILL at any byte: the error says so, and the next attempt ends it."""
    server.stall_after = after_bytes
    id_ = downloads.start(Reference(REPO)).id
    await stalled(server)
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    status = await downloads.finished(id_)
    assert status.state is DownloadState.FAILED
    assert "killed by signal 9" in str(status.error)
    server.stall_after = None
    status = await downloads.finished(downloads.start(Reference(REPO)).id)
    assert status.state is DownloadState.DONE, status.error
    assert is_right(server, cache)


async def test_a_queued_download_can_be_cancelled(downloads, server) -> None:
    """It never had a process."""
    server.stall_api = True
    ids = [downloads.start(Reference(REPO, tag)).id for tag in ("Q4_K_M", "Q8_0", "F16")]
    await stalled(server)
    (queued,) = (i for i in ids if downloads.status(i).state is DownloadState.QUEUED)
    downloads.cancel(queued)
    assert (await downloads.finished(queued)).state is DownloadState.CANCELLED


async def test_errors_keep_their_kind(downloads) -> None:
    """They cross from the child by their code, with the sentence."""
    status = await downloads.finished(downloads.start(Reference(REPO, "Q2_K")).id)
    assert status.state is DownloadState.FAILED
    assert isinstance(status.error, HubFileMissingError)
    assert str(status.error) == f"{REPO} has no quantization 'Q2_K'; there are: Q4_K_M"


async def test_a_hub_that_is_down_is_no_reason_to_fail(downloads, server, cache) -> None:
    """If the model is here; the status says that it was not compared."""
    reference = Reference(REPO)
    await downloads.finished(downloads.start(reference).id)
    server.answers = [(503, {})] * 9
    status = await downloads.finished(downloads.start(reference).id)
    assert status.state is DownloadState.DONE
    assert status.result is not None
    assert "status 503" in (status.result.stale_reason or "")
    cache_deletion.remove(cache, cache.model_by_tag(None))
    status = await downloads.finished(downloads.start(reference).id)
    assert isinstance(status.error, HubUnreachableError)


async def test_a_stored_token_is_used(downloads, server, tmp_path) -> None:
    """The one that ``hf auth login`` leaves in the home folder."""
    server.token, server.known_tokens, server.gated = "hf_stored", {"hf_stored"}, {REPO}
    folder = tmp_path / ".cache" / "huggingface"
    folder.mkdir(parents=True)
    (folder / "token").write_text("hf_stored\n")
    status = await downloads.finished(downloads.start(Reference(REPO)).id)
    assert status.state is DownloadState.DONE, status.error


async def test_a_download_ends_with_its_parent(server, environ) -> None:
    """A killed router leaves no process that goes on writing."""
    server.stall_api = True
    parent = f"""
import os, trio
from llama_router.hub.references import Reference
from llama_router.hub.downloads import Downloads
async def main():
    async with trio.open_nursery() as nursery:
        downloads = Downloads(os.environ)
        await nursery.start(downloads.run)
        downloads.start(Reference({REPO!r}))
trio.run(main)
"""
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process([sys.executable, "-c", parent], env=environ)
        await stalled(server)
        (child,) = procfs.children(process.pid)
        with open_pidfd(child) as descriptor:
            process.kill()
            await process.wait()
            await trio.lowlevel.wait_readable(descriptor)


class open_pidfd:  # noqa: N801 -- used like a function
    """A descriptor that becomes readable when a process ends."""

    def __init__(self, pid: int) -> None:
        self._descriptor = os.pidfd_open(pid)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
