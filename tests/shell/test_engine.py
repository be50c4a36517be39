"""The engine of the data plane on real sockets, without HTTP."""

from __future__ import annotations

import gc
import math
import os
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from llama_router.errors.requests import RequestError
from llama_router.gateway.loop import engine as engine_module
from llama_router.gateway.loop.engine import Engine
from llama_router.gateway.loop.fiber import (
    TICK_S,
    Fiber,
    FiberCutError,
    FiberTimeoutError,
    pause,
)
from llama_router.gateway.sockets import Client, ClientGoneError, Upstream
from tests.limits import LIMIT_S, stretched_s

pytestmark = pytest.mark.process

Body = Callable[[Fiber], Coroutine[None, None, None]]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """A running engine; at the end it must be empty."""
    engine = Engine()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    assert not engine._fibers
    assert not engine._channels
    assert not any(engine._buckets.values())


@pytest.fixture
def pair() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Return connected TCP sockets: ours, non-blocking, and the peer's; closed at the end."""
    with ExitStack() as stack:

        def make() -> tuple[socket.socket, socket.socket]:
            return stack.enter_context(connected())

        yield make


@contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Return two ends of one TCP connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as theirs,
    ):
        ours, _ = listener.accept()
        with ours:
            ours.setblocking(False)
            yield ours, theirs


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class TestDeadlines:
    """`Fiber.expire_in`."""

    async def test_a_deadline_is_raised_where_the_fiber_waits(self, engine) -> None:
        """Not before its time, and at most two ticks later."""
        seen: list[float] = []

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(0.2)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append(trio.current_time())

        begun_s = trio.current_time()
        engine.start(body)
        await engine.wait_idle()
        assert 0.2 <= seen[0] - begun_s < 0.2 + 2 * TICK_S + 0.1

    async def test_a_deadline_can_be_put_off_and_taken_back(self, engine) -> None:
        """Only the last one counts, and none is raised after it was set to infinity."""
        seen: list[str] = []

        async def put_off(fiber: Fiber) -> None:
            fiber.expire_in(0.1)
            fiber.expire_in(0.4)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append("put off")
            engine.wake(fibers[0])

        async def taken_back(fiber: Fiber) -> None:
            fiber.expire_in(0.1)
            fiber.deadline_s = math.inf
            fibers.append(fiber)
            await pause()
            seen.append("woken")

        async def sooner(fiber: Fiber) -> None:
            fiber.expire_in(60)
            fiber.expire_in(0.1)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append("sooner")

        fibers: list[Fiber] = []
        for body in (put_off, taken_back, sooner):
            engine.start(body)
        await engine.wait_idle()
        assert seen == ["sooner", "put off", "woken"]

    async def test_a_fiber_may_set_a_new_deadline_after_one(self, engine) -> None:
        """Each is raised once."""
        count = 0

        async def body(fiber: Fiber) -> None:
            nonlocal count
            for _ in range(3):
                fiber.expire_in(0.01)
                try:
                    await pause()
                except FiberTimeoutError:
                    count += 1

        engine.start(body)
        await engine.wait_idle()
        assert count == 3

    async def test_time_in_which_the_process_was_held_up_does_not_count(self, engine, pair) -> None:
        """Nobody is silent because the router could not look."""
        seen: list[str] = []
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            try:
                for _ in range(8):  # as Trio may look at deadlines before or after events
                    fiber.expire_in(0.1)
                    await client.receive()
                seen.append("all")
            except FiberTimeoutError:
                seen.append("silent")
            client.close()

        engine.start(body)
        for _ in range(8):
            await wait_all_tasks_blocked()
            time.sleep(0.25)  # noqa: ASYNC251 -- as in a machine that was stopped
            theirs.send(b"x")
        await engine.wait_idle()
        assert seen == ["all"]

    async def test_who_was_held_up_as_well_has_the_rest_of_its_time(self, engine, pair) -> None:
        """A pause does not use up the time of a side that needs some more after it."""
        seen: list[str] = []
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            try:
                fiber.expire_in(1.5)
                await client.receive()
                seen.append("heard")
            except FiberTimeoutError:
                seen.append("silent")
            client.close()

        engine.start(body)
        await wait_all_tasks_blocked()
        time.sleep(2.0)  # noqa: ASYNC251 -- as in a machine that was stopped
        await trio.sleep(0.75)  # what it still has to do takes so long
        theirs.send(b"x")
        await engine.wait_idle()
        assert seen == ["heard"]

    async def test_short_lived_fibers_leave_no_timers(self, engine) -> None:
        """Memory does not grow with 50,000 fibers that ended long before their deadlines."""

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(75)
            fibers.append(fiber)
            await pause()

        fibers: list[Fiber] = []

        async def churn(count: int) -> None:
            for _ in range(count // 500):
                for _ in range(500):
                    engine.start(body)
                while fibers:
                    engine.wake(fibers.pop())
                await engine.wait_idle()

        await churn(5_000)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await churn(50_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert not any(engine._buckets.values())
        assert grown < 200_000


class TestWake:
    """`Engine.wake` and `pause`."""

    async def test_from_outside(self, engine) -> None:
        """A Trio task wakes a fiber; to wake one that ended is harmless."""
        fibers: list[Fiber] = []

        async def body(fiber: Fiber) -> None:
            fibers.append(fiber)
            await pause()

        engine.start(body)
        await wait_all_tasks_blocked()
        assert engine._fibers == set(fibers)
        engine.wake(fibers[0])
        await engine.wait_idle()
        engine.wake(fibers[0])
        await wait_all_tasks_blocked()

    async def test_by_another_fiber(self, engine, pair) -> None:
        """It is resumed in the same turn, once for each time that it was woken."""
        turns: list[str] = []
        waiting: list[Fiber] = []
        ours, theirs = pair()

        async def sleeper(fiber: Fiber) -> None:
            waiting.append(fiber)
            for _ in range(2):
                await pause()
                turns.append("woken")

        async def waker(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            assert await client.receive() == b"x"
            for _ in range(2):
                engine.wake(waiting[0])
            turns.append("wakes")
            client.close()

        engine.start(sleeper)
        engine.start(waker)
        theirs.send(b"x")
        await engine.wait_idle()
        assert turns == ["wakes", "woken", "woken"]


class TestCrash:
    """A bug in one fiber."""

    async def test_it_costs_one_fiber(self, engine, pair) -> None:
        """It is logged; the others of the same turn go on."""
        pairs = [pair() for _ in range(3)]
        got: list[bytes] = []

        def serve(ours: socket.socket) -> Body:
            async def body(fiber: Fiber) -> None:
                client = Client(engine, ours, fiber)
                try:
                    data = await client.receive()
                    got.append(data)
                    if data == b"1":
                        raise ZeroDivisionError
                    got.append(await client.receive())
                finally:
                    client.close()

            return body

        for ours, _ in pairs:
            engine.start(serve(ours))
        with capture_logs() as logs:
            for number, (_, theirs) in enumerate(pairs):
                theirs.send(b"%d" % number)
            await wait_all_tasks_blocked()
            assert len(got) == 3
            pairs[0][1].send(b"a")
            pairs[2][1].send(b"b")
            await engine.wait_idle()
        assert sorted(got) == [b"0", b"1", b"2", b"a", b"b"]
        assert [entry["event"] for entry in logs] == ["connection.crashed"]

    async def test_at_the_deadline(self, engine) -> None:
        """A fiber that answers its deadline by a bug does not stop the clock for others."""
        seen: list[str] = []

        async def bad(fiber: Fiber) -> None:
            fiber.expire_in(0.01)
            try:
                await pause()
            except FiberTimeoutError:
                raise ZeroDivisionError from None

        async def good(fiber: Fiber) -> None:
            fiber.expire_in(0.01)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append("good")

        with capture_logs() as logs:
            for body in (bad, good, bad, good):
                engine.start(body)
            await engine.wait_idle()
        assert seen == ["good", "good"]
        assert [entry["event"] for entry in logs] == ["connection.crashed"] * 2

    async def test_a_deadline_that_nobody_handles_is_no_crash(self, engine) -> None:
        """It ends the fiber silently."""

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(0.01)
            await pause()

        with capture_logs() as logs:
            engine.start(body)
            await engine.wait_idle()
        assert logs == []


class TestCut:
    """The end of the engine, or of one fiber."""

    async def test_every_fiber_is_told_and_may_send(self, pair) -> None:
        """What it sends within `ENDING_S` arrives; then its connection is closed."""
        engine = Engine()
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            try:
                await client.receive()
            except FiberCutError as exc:
                await client.send(exc.error.code.encode())
            finally:
                client.close()

        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                engine.start(body)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert theirs.recv(100) == b"shutting_down"
        assert theirs.recv(100) == b""

    async def test_who_does_not_end_is_ended(self, monkeypatch, pair) -> None:
        """After `ENDING_S` its coroutine is closed, and its socket with it."""
        monkeypatch.setattr(engine_module, "ENDING_S", 0.1)
        engine = Engine()
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            try:
                while True:
                    try:
                        await client.receive()
                    except FiberCutError:
                        continue
            finally:
                client.close()

        with capture_logs() as logs, trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                engine.start(body)
                await wait_all_tasks_blocked()
                begun_s = trio.current_time()
                nursery.cancel_scope.cancel()
        assert 0.1 <= trio.current_time() - begun_s < 2
        assert not engine._fibers
        assert theirs.recv(1) == b""
        assert logs == []

    async def test_one_fiber(self, engine) -> None:
        """It hears why; nobody else does."""
        seen: list[str] = []
        fibers: list[Fiber] = []

        async def body(fiber: Fiber) -> None:
            fibers.append(fiber)
            try:
                await pause()
            except FiberCutError as exc:
                seen.append(str(exc.error))

        engine.start(body)
        engine.start(body)
        engine.cut(fibers[0], RequestError("because"))
        assert seen == ["because"]
        assert engine._fibers == {fibers[1]}
        engine.cut(fibers[0], RequestError("again"))
        assert seen == ["because"]
        engine.wake(fibers[1])
        await engine.wait_idle()


class TestInTrio:
    """`Engine.in_trio`."""

    async def run(
        self, engine: Engine, ours: socket.socket, function: Callable, *, timeout_s: float = 60
    ) -> list[object]:
        """Return what a fiber got of *function*, as soon as it waits for it."""
        got: list[object] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            fiber.expire_in(timeout_s)
            try:
                got.append(await engine.in_trio(fiber, function, unless_gone=client))
            except (RequestError, FiberTimeoutError) as exc:
                got.append(exc)
            finally:
                client.close()

        engine.start(body)
        await wait_all_tasks_blocked()
        return got

    async def test_what_it_returns(self, engine, pair) -> None:
        """The fiber gets it, although the function waited."""
        event = trio.Event()

        async def function() -> int:
            await event.wait()
            return 7

        got = await self.run(engine, pair()[0], function)
        assert got == []
        event.set()
        await engine.wait_idle()
        assert got == [7]

    async def test_what_it_raises(self, engine, pair) -> None:
        """The fiber gets the same exception."""

        async def function() -> int:
            raise RequestError("no")

        [raised] = await self.run(engine, pair()[0], function)
        assert str(raised) == "no"

    @pytest.mark.parametrize("how", ["gone", "deadline"])
    async def test_it_is_cancelled(self, engine, pair, how) -> None:
        """When the peer goes, or the fiber's time is over, the task ends at once."""
        ended = trio.Event()
        ours, theirs = pair()

        async def function() -> int:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        got = await self.run(engine, ours, function, timeout_s=60 if how == "gone" else 0.1)
        if how == "gone":
            theirs.shutdown(socket.SHUT_WR)
        with trio.fail_after(stretched_s(2)):
            await ended.wait()
            await engine.wait_idle()
        if how == "gone":
            assert got == [None]
        else:
            assert isinstance(got[0], FiberTimeoutError)

    async def test_bytes_of_the_peer_do_not_end_it(self, engine, pair) -> None:
        """A pipelined request is not a hang-up."""
        event = trio.Event()
        ours, theirs = pair()

        async def function() -> str:
            await event.wait()
            return "done"

        got = await self.run(engine, ours, function)
        theirs.send(b"GET")
        await wait_all_tasks_blocked()
        assert got == []
        event.set()
        await engine.wait_idle()
        assert got == ["done"]


async def echo(engine: Engine, ours: socket.socket, fiber: Fiber) -> None:
    """Send back what comes, until the peer closes."""
    client = Client(engine, ours, fiber)
    try:
        while data := await client.receive():
            await client.send(data)
    finally:
        client.close()


class TestFairness:
    """One fiber that never runs out of work."""

    @pytest.mark.parametrize("kind", ["receive", "spend"])
    async def test_others_get_their_turn(self, engine, pair, kind) -> None:
        """Trio tasks and other fibers go on while one fiber is fed without end."""
        busy, feeder = pair()
        quiet, theirs = pair()
        moved = 0
        scope = trio.CancelScope()

        async def endless(fiber: Fiber) -> None:
            nonlocal moved
            client = Client(engine, busy, fiber)
            buffer = memoryview(bytearray(1000))
            try:
                while not scope.cancel_called:
                    if kind == "receive":
                        moved += await client.receive_into(buffer)
                    else:
                        moved += 1
                        await fiber.spend()
            finally:
                client.close()

        def feed() -> None:
            with suppress(OSError):
                while True:
                    feeder.send(b"x" * 65536)

        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, feed)
                engine.start(endless)
                engine.start(partial(echo, engine, quiet))
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
                async with stream:
                    meanwhile = 0
                    while meanwhile < 30:  # exchanges during which the other one was busy
                        before = moved
                        with trio.fail_after(stretched_s(2)):
                            await stream.send_all(b"%02d" % meanwhile)
                            assert await stream.receive_some(2) == b"%02d" % meanwhile
                        meanwhile += moved > before
                    await stream.send_eof()
                scope.cancel()
                await engine.wait_idle()
        assert logs == []

    async def test_many_that_take_long_do_not_make_a_turn_long(self, engine, monkeypatch) -> None:
        """Those for whom a turn has no time left go on in the next one."""
        resumed = 0
        now_s = engine.clock()

        async def heavy(fiber: Fiber) -> None:
            nonlocal now_s, resumed
            await pause()
            now_s += 0.75 * engine_module.TURN_S
            resumed += 1

        for _ in range(10):
            engine.start(heavy)
        fibers = list(engine._fibers)
        monkeypatch.setattr(engine, "clock", lambda: now_s)
        for fiber in fibers:
            engine.wake(fiber)
        engine._turn()
        assert resumed == 2
        await engine.wait_idle()
        assert resumed == 10

    async def test_turns_are_short_while_trio_is_in_a_hurry(self, engine, monkeypatch) -> None:
        """After `Engine.hurry`, for a moment: then a turn is as long as before."""
        busy = True
        now_s = engine.clock()

        def clock() -> float:
            nonlocal now_s
            now_s += 2**-13  # so long takes a round; without rounding errors
            return now_s

        async def endless(fiber: Fiber) -> None:
            while busy:
                engine.wake(fiber)
                await pause()

        lengths: list[int] = []
        drive = engine._turn

        def turn() -> None:
            before = engine.rounds
            drive()
            lengths.append(engine.rounds - before)

        async def length() -> int:
            """Return how many rounds the next turn has."""
            seen = len(lengths)
            while len(lengths) == seen:
                await trio.lowlevel.checkpoint()
            return lengths[seen]

        monkeypatch.setattr(engine, "clock", clock)
        monkeypatch.setattr(engine, "_turn", turn)
        engine.start(endless)
        await length()
        usual = await length()
        engine.hurry()
        assert await length() < usual / 3
        now_s += engine_module.HURRY_S
        assert await length() == usual
        busy = False
        await engine.wait_idle()


def renumbered(ours: socket.socket, number: int) -> socket.socket:
    """Return *ours* under that *number*, which is free."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with ours:
        return socket.socket(fileno=os.dup2(ours.fileno(), number, inheritable=False))


class TestDescriptors:
    """Sockets whose numbers are used again."""

    async def test_events_of_a_closed_socket_do_not_reach_its_successor(self, engine, pair) -> None:
        """Not even while somebody, as a child that is about to exec, holds a copy of it."""
        clients: list[Client] = []

        def watch(ours: socket.socket) -> Body:
            async def body(fiber: Fiber) -> None:
                client = Client(engine, ours, fiber)
                clients.append(client)
                await pause()
                client.close()

            return body

        ours, theirs = pair()
        spare, other = pair()
        number = ours.fileno()
        engine.start(watch(ours))
        copy = os.dup(number)
        try:
            engine.wake(clients[0].fiber)
            await engine.wait_idle()
            engine.start(watch(renumbered(spare, number)))
            theirs.shutdown(socket.SHUT_WR)
            await wait_all_tasks_blocked()
            assert not clients[1].gone
            other.shutdown(socket.SHUT_WR)
            await wait_all_tasks_blocked()
            assert clients[1].gone
        finally:
            os.close(copy)
        engine.wake(clients[1].fiber)
        await engine.wait_idle()

    async def test_a_number_that_is_used_again_within_a_round(self, engine, pair) -> None:
        """A connection that a fiber opens does not get the event of the one that it closed."""
        pairs = [pair() for _ in range(2)]
        front, _ = pair()
        spare, _ = pair()
        seen: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, front, fiber)
            first, second = (Upstream(engine, ours, client) for ours, _ in pairs)
            number = pairs[1][0].fileno()
            assert await first.receive() == b"x"
            assert not second.readable
            second.close()  # its event of this round was not noted yet
            third = Upstream(engine, renumbered(spare, number), client)
            engine.wake(fiber)
            await pause()
            await pause()
            seen.append(third.readable)
            for channel in (client, first, third):
                channel.close()

        engine.start(body)
        [fiber] = engine._fibers
        for _, theirs in pairs:
            theirs.send(b"x")
        await wait_all_tasks_blocked()
        engine.wake(fiber)
        await engine.wait_idle()
        assert seen == [False]

    async def test_all_is_noted_before_anything_is_sent(self, engine, pair) -> None:
        """`Engine.sends` are done at the end of the round, once."""
        pairs = [pair() for _ in range(3)]
        seen: list[bytes] = []

        class Echo:
            def send(self, data: bytes) -> None:
                seen.append(b"sent " + data)

        def note(_: int) -> None:
            seen.append(b"noted")
            engine.sends.append((Echo(), b"x"))

        async def body(fiber: Fiber) -> None:
            channels = [Client(engine, ours, fiber) for ours, _ in pairs]
            await pause()  # their first events: that they are writable
            for channel in channels:
                engine.tell(channel, note)
            await pause()
            for channel in channels:
                channel.close()

        engine.start(body)
        [fiber] = engine._fibers
        await wait_all_tasks_blocked()
        engine.wake(fiber)
        await wait_all_tasks_blocked()
        for _, theirs in pairs:
            theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert seen == 3 * [b"noted"] + 3 * [b"sent x"]
        engine.wake(fiber)
        await engine.wait_idle()

    async def test_connections_come_and_go_without_a_trace(self, engine) -> None:
        """As many descriptors are open after 300 connections as before."""

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            while await client.receive():
                pass
            client.close()

        before = descriptors()
        for _ in range(300):
            with connected() as (ours, theirs):
                engine.start(body)
                theirs.send(b"x")
                theirs.shutdown(socket.SHUT_WR)
                await engine.wait_idle()
        assert descriptors() == before

    async def test_a_released_socket_is_watched_no_more(self, engine, pair) -> None:
        """Somebody else serves it; its bytes are still there."""
        ours, theirs = pair()
        released: list[socket.socket] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            assert await client.receive() == b"1"
            released.append(client.release())

        engine.start(body)
        theirs.send(b"1")
        await engine.wait_idle()
        theirs.send(b"2")
        await wait_all_tasks_blocked()
        assert not engine._channels
        assert released[0].recv(10) == b"2"


class TestSending:
    """Peers that take nothing, or go."""

    async def test_a_send_that_is_given_up_tears_the_stream(self, engine, pair) -> None:
        """Whoever sends an ending behind it must know; a send that ends well leaves no mark."""
        ours, theirs = pair()
        marks: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            await client.send(b"x")
            marks.append(client.torn)
            fiber.expire_in(0.1)
            try:
                await client.send(bytes(50_000_000))
            except FiberTimeoutError:
                marks.append(client.torn)
            client.close()

        engine.start(body)
        await engine.wait_idle()
        assert marks == [False, True]
        assert theirs.recv(1) == b"x"

    async def test_a_slow_peer_gets_everything(self, engine, pair) -> None:
        """A large piece is sent as the peer takes it, and is not torn."""
        ours, theirs = pair()
        data = bytes(range(256)) * 40_000
        marks: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            await client.send(data)
            marks.append(client.torn)
            client.close()

        engine.start(body)
        got = bytearray()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
        async with stream:
            while part := await stream.receive_some(100_000):
                got += part
        assert got == data
        assert marks == [False]

    async def test_a_peer_that_goes_ends_a_send(self, engine, pair) -> None:
        """The fiber hears of it at once, though nothing is sent."""
        ours, theirs = pair()
        seen: list[str] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, ours, fiber)
            try:
                await client.send(bytes(50_000_000))
            except ClientGoneError:
                seen.append("gone")
            client.close()

        engine.start(body)
        await wait_all_tasks_blocked()
        assert seen == []
        theirs.close()
        await engine.wait_idle()
        assert seen == ["gone"]


class TestKept:
    """Connections to a backend between two exchanges."""

    @pytest.mark.parametrize("noted", [True, False], ids=["noted", "same-round"])
    async def test_one_with_surplus_bytes_is_of_no_use(self, engine, pair, noted) -> None:
        """Also if their event is not here yet: they would be taken for the next answer."""
        ours, theirs = pair()
        front, _ = pair()
        usable: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, front, fiber)
            upstream = Upstream(engine, ours, client)
            upstreams.append(upstream)
            assert await upstream.receive() == b"answer"
            theirs.send(b"surplus")
            upstream.keep()
            if not noted:
                usable.append(upstream.use(client))
            else:
                await pause()
                usable.append(upstream.use(client))
            client.close()

        upstreams: list[Upstream] = []
        engine.start(body)
        theirs.send(b"answer")
        if noted:
            await wait_all_tasks_blocked()
            assert upstreams[0].closed
            engine.wake(next(iter(engine._fibers)))
        await engine.wait_idle()
        assert usable == [False]
        with pytest.raises(OSError, match="reset"):
            theirs.recv(1)

    async def test_one_without_is_used_again(self, engine, pair) -> None:
        """In the same round and later."""
        ours, theirs = pair()
        front, _ = pair()
        usable: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = Client(engine, front, fiber)
            upstream = Upstream(engine, ours, client)
            for _ in range(2):
                await upstream.receive()
                upstream.keep()
                usable.append(upstream.use(client))
                upstream.keep()
                await pause()
                usable.append(upstream.use(client))
            upstream.close()
            client.close()

        engine.start(body)
        [fiber] = engine._fibers
        for _ in range(2):
            theirs.send(b"answer")
            await wait_all_tasks_blocked()
            engine.wake(fiber)
            await wait_all_tasks_blocked()
        await engine.wait_idle()
        assert usable == [True] * 4
