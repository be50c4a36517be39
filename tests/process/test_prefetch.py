"""Prefetch: the next model's file is read while the one before it finishes its requests."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.process.harness import Router, Stage, post

pytestmark = [pytest.mark.process]

Start = Callable[..., Awaitable[Router]]

SIZE_BYTES = 24 * 1024 * 1024


def uncached_file(path: Path) -> Path:
    """Make a file that is on the disk and not in the page cache."""
    with path.open("wb") as file:
        file.write(os.urandom(SIZE_BYTES))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def is_cached(path: Path) -> bool:
    """Return whether the last bytes of a file can be read without the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.preadv(descriptor, [bytearray(4096)], SIZE_BYTES - 4096, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


async def test_the_next_model_is_read_while_the_one_before_it_is_busy(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """Its file is in the page cache before its backend is started."""
    path = uncached_file(tmp_path / "b.gguf")
    if is_cached(path):
        pytest.skip("this file system keeps files in memory")
    router = await start({"a": stage.model("a"), "b": stage.model("b", path=str(path))})
    busy, waiting = await router.connect(), await router.connect()
    await busy.send(post("/v1/script", "a"))
    backend = await stage.backend("a")
    request = await backend.request()
    await waiting.send(post("/v1/echo", "b"))
    read = await router.events.wait("model.prefetched")
    assert (read["model"], read["mib"]) == ("b", SIZE_BYTES // 2**20)
    assert is_cached(path)
    assert router.spawned() == ["a"]
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await busy.answer()).status == 200
    assert (await waiting.answer()).status == 200


async def test_nothing_is_read_ahead_where_that_is_turned_off(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """The next model's file is left to its backend."""
    path = uncached_file(tmp_path / "b.gguf")
    router = await start(
        {"a": stage.model("a"), "b": stage.model("b", path=str(path))},
        scheduler={"prefetch": False},
    )
    busy, waiting = await router.connect(), await router.connect()
    await busy.send(post("/v1/script", "a"))
    request = await (await stage.backend("a")).request()
    await waiting.send(post("/v1/echo", "b"))
    while not router.of("b").queued:
        await router.running.dispatcher.changed.wait()
    await request.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (await busy.answer()).status == 200
    assert (await waiting.answer()).status == 200
    assert router.events.named("model.prefetched") == []


async def test_a_model_that_may_start_at_once_is_not_read(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """Its backend reads it itself."""
    path = uncached_file(tmp_path / "a.gguf")
    router = await start({"a": stage.model("a", path=str(path))})
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    assert router.events.named("model.prefetched") == []
