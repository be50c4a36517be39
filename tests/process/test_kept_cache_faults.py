"""Saving and restoring slots, with a server that does it as a test says, also wrongly."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio

from llama_router.backends.backend import Backend
from llama_router.backends.kept_caches import KeptCache, KeptCaches, read_index
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.learned import LaunchKey
from tests.events import KeptEvents

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

MODEL = ModelId("a")
LAUNCH = LaunchKey("launch")


@attrs.define(eq=False)
class Server:
    """A llama-server's slots, each with the tokens of one conversation.

    Attributes:
        slots: The tokens of each slot; empty ones were not used.
        fault: What it does wrong: ``hang``, ``refuse``, ``full``, ``short``, ``lie``,
            ``unlisted``, or nothing.
        folder: Where it writes.
        asked: The requests that it got.
        busy_looks: How often it says that its first slot serves a request.
    """

    folder: Path
    slots: list[list[int]] = attrs.field(factory=lambda: [[], []])
    fault: str = ""
    asked: list[str] = attrs.field(factory=list)
    busy_looks: int = 0
    hanging: trio.Event = attrs.field(factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request."""
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received or not self._is_whole(received):
                if not (data := await stream.receive_some()):
                    return
                received += data
            line, _, rest = received.partition(b"\r\n")
            method, target, _ = line.decode().split(" ")
            self.asked.append(f"{method} {target}")
            body = rest.partition(b"\r\n\r\n")[2]
            if self.fault == "hang" and method == "POST":
                self.hanging.set()
                await trio.sleep_forever()
            status, answer = self._answer(target, json.loads(body or b"{}"))
            data = json.dumps(answer).encode()
            head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n\r\n"
            await stream.send_all(head.encode() + data)

    def _is_whole(self, received: bytes) -> bool:
        head, _, body = received.partition(b"\r\n\r\n")
        length = [
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length")
        ]
        return len(body) >= (length[0] if length else 0)

    def _listed(self) -> tuple[int, object]:
        if self.fault == "unlisted":
            return 501, {"error": {"message": "it does not list slots"}}
        self.busy_looks -= 1
        listed: list[dict[str, object]] = []
        for number, tokens in enumerate(self.slots):
            listed.append({"id": number, "n_prompt_tokens": len(tokens)})
            if tokens:
                listed[-1]["id_task"] = 1
        listed[0]["is_processing"] = self.busy_looks >= 0
        return 200, listed

    def _answer(self, target: str, body: dict[str, str]) -> tuple[int, object]:
        if target == "/slots":
            return self._listed()
        slot = int(target.removeprefix("/slots/").partition("?")[0])
        if self.fault == "refuse":
            return 501, {"error": {"message": "not supported by this architecture"}}
        path = self.folder / body["filename"]
        if target.endswith("save"):
            tokens = self.slots[slot]
            data = b"qsgg" + struct.pack(f"<II{len(tokens)}i", 2, len(tokens), *tokens)
            if self.fault == "full":
                path.write_bytes(data[:20])
                return 500, {"error": {"message": "Unable to save slot"}}
            path.write_bytes(data[:-4] if self.fault == "short" else data)
            return 200, {"n_saved": len(tokens), "n_written": len(data)}
        data = path.read_bytes()
        if self.fault == "lie":
            return 200, {"n_restored": 1}
        _, n_tokens = struct.unpack_from("<II", data, 4)
        self.slots[slot] = list(struct.unpack_from(f"<{n_tokens}i", data, 12))
        return 200, {"n_restored": n_tokens}


def spec_with(**spawn: object) -> ModelSpec:
    """Return a model that keeps conversations of ten tokens."""
    written = {"command": ["true"], "keep_cache": True, "keep_cache_min_tokens": 10}
    limit = {"keep_cache_max_s": 60}
    return parse_config({"models": {"a": {"spawn": written | limit | spawn}}}).models[MODEL]


class Caches(KeptCaches):
    """Those of a router, whose background work is done at once."""

    def __init__(self, folder: Path, limit_bytes: int = 10**6) -> None:
        super().__init__(folder, lambda work: work(), lambda: limit_bytes, read_index(folder))
        self.keep_only([spec_with()])

    @property
    def files(self) -> set[str]:
        """The files of the model."""
        folder = self.folder_of(MODEL)
        return {path.name for path in folder.iterdir()} if folder.exists() else set()


@asynccontextmanager
async def cache_of(caches: Caches, server: Server, **spawn: object) -> AsyncIterator[KeptCache]:
    """Yield the cache of a backend that was just loaded; *server* answers for it."""
    folder = await caches.prepare(MODEL, LAUNCH)
    assert folder is not None
    server.folder = folder
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        backend = Backend(
            MODEL, spec_with(**spawn), "127.0.0.1", port, pid=1, spawned_s=0, ready_s=0, slots=2
        )
        yield KeptCache(caches, backend, LAUNCH, folder)
        nursery.cancel_scope.cancel()


async def keep(caches: Caches, *conversations: range, **spawn: object) -> None:
    """Save *conversations* as a backend of the model does."""
    server = Server(caches.folder, [list(tokens) for tokens in conversations])
    async with cache_of(caches, server, **spawn) as cache:
        await cache.save(idle_only=False)


async def restored(caches: Caches, fault: str = "") -> list[list[int]]:
    """Return the slots of a new backend after the restore."""
    server = Server(caches.folder, fault=fault)
    async with cache_of(caches, server) as cache:
        await cache.restore()
    return server.slots


@contextmanager
def events() -> Iterator[KeptEvents]:
    """Yield the events that are logged meanwhile."""
    kept = KeptEvents()
    with kept.captured():
        yield kept


def reasons(kept: KeptEvents, event: str) -> list[str]:
    """Return the reasons of all events of that name."""
    return [entry["reason"] for entry in kept.entries if entry["event"] == event]


async def test_what_was_saved_is_restored_by_another_router(tmp_path: Path) -> None:
    """Nothing but the folder is left of the first one."""
    await keep(Caches(tmp_path), range(20), range(100, 140))
    assert sorted(await restored(Caches(tmp_path))) == [[*range(20)], [*range(100, 140)]]


async def test_short_conversations_are_not_saved(tmp_path: Path) -> None:
    """They are computed again more quickly."""
    caches = Caches(tmp_path)
    await keep(caches, range(9), range(0))
    assert caches.files == set()


async def test_a_longer_conversation_replaces_its_beginning(tmp_path: Path) -> None:
    """And another one stays beside it."""
    caches = Caches(tmp_path)
    await keep(caches, range(20), range(100, 120))
    await keep(caches, range(30))
    assert sorted(slot.n_tokens for slot in caches.kept.slots) == [20, 30]
    assert len(caches.files) == 2


async def test_the_oldest_conversation_leaves_over_the_budget(tmp_path: Path) -> None:
    """Each of them takes 92 bytes."""
    caches = Caches(tmp_path, limit_bytes=200)
    for first in (0, 100, 200):
        await keep(caches, range(first, first + 20))
    assert len(caches.files) == 2
    assert [slot[0] for slot in await restored(caches)] == [200, 100]


async def test_slots_are_saved_once_for_each_request(tmp_path: Path) -> None:
    """What was saved while others drained is not saved again at the stop."""
    caches = Caches(tmp_path)
    server = Server(tmp_path, [[*range(20)], []])
    async with cache_of(caches, server) as cache:
        await cache.save(idle_only=False)
        await cache.save(idle_only=False)
    assert len([asked for asked in server.asked if asked.endswith("save")]) == 1


@pytest.mark.parametrize(("idle_only", "saves"), [(True, 1), (False, 2)])
async def test_a_request_that_ends_is_waited_for_at_the_stop(
    tmp_path: Path, *, idle_only: bool, saves: int
) -> None:
    """A client has left, and the server notices it a moment later; not while others drain."""
    caches = Caches(tmp_path)
    server = Server(tmp_path, [[*range(20)], [*range(100, 120)]], busy_looks=2)
    async with cache_of(caches, server) as cache:
        await cache.save(idle_only=idle_only)
    assert len(caches.files) == saves


async def test_slots_that_are_not_listed_are_saved(tmp_path: Path) -> None:
    """With --no-slots: the answer to each save says whether it was worth it."""
    caches = Caches(tmp_path)
    server = Server(tmp_path, [[*range(20)], []], "unlisted")
    async with cache_of(caches, server) as cache:
        await cache.save(idle_only=False)
        server.slots = [[*range(20)], [*range(100, 120)]]
        await cache.save(idle_only=False)
    assert [slot.n_tokens for slot in caches.kept.slots] == [20, 20]


async def test_another_launch_removes_what_was_kept(tmp_path: Path) -> None:
    """A new build or another option: the files mean something else."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    await caches.prepare(MODEL, LaunchKey("another"))
    assert (caches.files, caches.kept.slots) == (set(), ())


async def test_files_that_no_record_names_are_removed(tmp_path: Path) -> None:
    """A save was cut, or the index was lost; what is no slot's file is left alone."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    folder = caches.folder_of(MODEL)
    (folder / "foreign.slot").write_bytes(b"x")
    (folder / "note.txt").write_bytes(b"x")
    await caches.prepare(MODEL, LAUNCH)
    assert len(caches.files) == 2
    assert "foreign.slot" not in caches.files


@pytest.mark.parametrize("change", ["cut", "replaced", "gone"])
async def test_a_file_that_was_changed_is_not_restored(tmp_path: Path, change: str) -> None:
    """A llama-server aborts on a file that was cut: it must not see it."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    (name,) = caches.files
    path = caches.folder_of(MODEL) / name
    match change:
        case "cut":
            os.truncate(path, 50)
        case "replaced":
            path.write_bytes(bytes(path.stat().st_size))
            os.utime(path, ns=(0, 1))
        case "gone":
            path.unlink()
    with events() as kept:
        assert await restored(caches) == [[], []]
    assert len(reasons(kept, "cache.discarded")) == 1
    assert caches.kept.slots == ()


async def test_an_answer_that_promises_less_than_was_saved_is_a_failure(tmp_path: Path) -> None:
    """It says 200, and has read one token."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    with events() as kept:
        await restored(caches, "lie")
    assert reasons(kept, "cache.discarded") == ["the backend has read 1 tokens of it"]
    assert caches.kept.slots == ()


@pytest.mark.parametrize("fault", ["full", "short"])
async def test_a_save_that_fails_leaves_nothing(tmp_path: Path, fault: str) -> None:
    """A full disk: the part that was written is removed; what was there before stays."""
    caches = Caches(tmp_path)
    await keep(caches, range(100, 120))
    before = caches.files
    server = Server(tmp_path, [[*range(20)], []], fault)
    with events() as kept:
        async with cache_of(caches, server) as cache:
            await cache.save(idle_only=False)
    assert len(reasons(kept, "cache.unsaved")) == 1
    assert caches.files == before


async def test_a_save_that_hangs_is_given_up_in_time(tmp_path: Path) -> None:
    """The swap goes on, and the reason is logged."""
    caches = Caches(tmp_path)
    server = Server(tmp_path, [[*range(20)], []], "hang")
    with events() as kept:
        async with cache_of(caches, server, keep_cache_max_s=0.1) as cache:
            await cache.save(idle_only=False)
    assert reasons(kept, "cache.unsaved") == ["it took longer than 0.1 s (keep_cache_max_s)"]


async def test_a_restore_that_hangs_is_given_up_and_not_tried_again(tmp_path: Path) -> None:
    """The model serves without it."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    server = Server(tmp_path, fault="hang")
    async with cache_of(caches, server, keep_cache_max_s=0.1) as cache:
        await cache.restore()
    assert caches.kept.slots == ()


async def test_a_file_on_which_the_backend_dies_is_not_tried_again(tmp_path: Path) -> None:
    """Its end cancels the restore; the next start would die in the same way."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    server = Server(tmp_path, fault="hang")
    async with cache_of(caches, server) as cache, trio.open_nursery() as nursery:
        nursery.start_soon(cache.restore)
        await server.hanging.wait()
        nursery.cancel_scope.cancel()
    assert caches.kept.slots == ()


async def test_a_server_that_refuses_is_asked_once(tmp_path: Path) -> None:
    """One warning; from then on the launch keeps nothing, also in the next router."""
    caches = Caches(tmp_path)
    server = Server(tmp_path, [[*range(20)], [*range(50)]], "refuse")
    with events() as kept:
        async with cache_of(caches, server) as cache:
            await cache.save(idle_only=False)
            await cache.save(idle_only=False)
    (reason,) = reasons(kept, "cache.disabled")
    assert "not supported by this architecture" in reason
    assert len([asked for asked in server.asked if asked.endswith("save")]) == 1
    assert await Caches(tmp_path).prepare(MODEL, LAUNCH) is None


async def test_a_server_that_does_not_use_what_it_restores_is_switched_off(tmp_path: Path) -> None:
    """Twice a conversation went on and was computed anew, and never was it used."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    with events() as kept:
        for load in range(2):
            server = Server(tmp_path)
            async with cache_of(caches, server) as cache:
                await cache.restore()
                assert cache.awaits_answer
                cache.note_answer(b'"timings":{"cache_n":0,"prompt_n":20}}')
                assert not cache.awaits_answer
                server.slots = [[*range(25 + load)], []]
                await cache.save(idle_only=False)
    assert len(reasons(kept, "cache.disabled")) == 1
    assert await caches.prepare(MODEL, LAUNCH) is None


async def test_a_server_that_was_seen_to_use_it_is_never_switched_off(tmp_path: Path) -> None:
    """A later miss has another cause."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    for load, cached in enumerate((19, 0, 0, 0)):
        server = Server(tmp_path)
        async with cache_of(caches, server) as cache:
            await cache.restore()
            cache.note_answer(b'"timings":{"cache_n":%d,"prompt_n":1}}' % cached)
            server.slots = [[*range(25 + load)], []]
            await cache.save(idle_only=False)
    assert await caches.prepare(MODEL, LAUNCH) is not None


async def test_what_is_kept_goes_with_its_model(tmp_path: Path) -> None:
    """Its folder, too, and whatever else is in it."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    caches.keep_only([])
    assert not caches.folder_of(MODEL).exists()
    assert Caches(tmp_path).kept.slots == ()


async def test_a_broken_index_costs_what_was_kept(tmp_path: Path) -> None:
    """And is said; the router starts."""
    caches = Caches(tmp_path)
    await keep(caches, range(20))
    (tmp_path / "index.json").write_bytes(b"{")
    with events() as kept:
        caches = Caches(tmp_path)
    assert len(reasons(kept, "cache.unreadable")) == 1
    await caches.prepare(MODEL, LAUNCH)
    assert caches.files == set()
