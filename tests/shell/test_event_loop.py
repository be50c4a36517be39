"""The event loop of the data plane on real sockets, without HTTP."""

from __future__ import annotations

import gc
import math
import os
import socket
import struct
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.errors.requests import RequestError
from llama_router.gateway.loop import event_loop as loop_module
from llama_router.gateway.loop.event_loop import EventLoop
from llama_router.gateway.loop.fiber import (
    TICK_S,
    Fiber,
    FiberCancelledError,
    FiberTimeoutError,
)
from llama_router.gateway.loop.pausing import pause
from llama_router.gateway.sockets import ClientGoneError, ClientSocket, UpstreamSocket
from tests.events import capture_logs
from tests.limits import LIMIT_S, stretched_s

pytestmark = pytest.mark.process

Body = Callable[[Fiber], Coroutine[None, None, None]]


@pytest.fixture
async def loop() -> AsyncIterator[EventLoop]:
    """A running loop; at the end it must be empty."""
    loop = EventLoop()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(loop.run)
            yield loop
            nursery.cancel_scope.cancel()
    assert not loop._fibers
    assert not loop._channels
    assert not any(loop._buckets.values())


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


def fill(ours: socket.socket, theirs: socket.socket) -> int:
    """Send until the peer accepts no more; return how many bytes that were."""
    # Buffers with a size of their own do not grow later.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    size = 0
    with suppress(BlockingIOError):
        while True:
            size += ours.send(b"-" * 65536)
    return size


async def read(theirs: socket.socket, size_bytes: int) -> bytes:
    """Return that many bytes, or fewer if the connection ends."""
    theirs.setblocking(False)
    data = b""
    while len(data) < size_bytes:
        await trio.lowlevel.wait_readable(theirs)
        received = theirs.recv(65536)
        if not received:
            break
        data += received
    return data


class TestLaterSends:
    """`ClientSocket.send_later` and `UpstreamSocket.send_later`."""

    async def test_other_sends_come_after_it(self, loop, pair) -> None:
        """Nothing overtakes a response, and it is sent once."""
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            client.send_later(b"a", timeout_s=1)
            await client.send(b"b")
            client.send_later(b"c", timeout_s=1)
            client.close()

        loop.start(body)
        await loop.wait_idle()
        assert await read(theirs, 9) == b"abc"

    async def test_it_is_sent_at_the_end_of_the_iteration(self, loop, pair) -> None:
        """The fiber need not do anything for it."""
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            client.send_later(b"a", timeout_s=1)
            loop.wake(fiber)
            while not client.peer_closed:
                await client.wait_readable()
            client.close()

        loop.start(body)
        assert await read(theirs, 1) == b"a"
        theirs.close()
        await loop.wait_idle()

    async def test_the_rest_is_for_flush(self, loop, pair) -> None:
        """The fiber is resumed if the client does not accept all of it."""
        ours, theirs = pair()
        filled = fill(ours, theirs)

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            client.send_later(b"abc", timeout_s=9)
            loop.wake(fiber)
            await pause()  # the next iteration sends
            await pause()  # and resumes
            assert client.unsent == b"abc"
            await client.flush()
            assert client.unsent is None
            client.close()

        loop.start(body)
        assert (await read(theirs, filled + 9))[filled:] == b"abc"
        await loop.wait_idle()

    async def test_a_client_that_is_stuck_times_out(self, loop, pair) -> None:
        """`flush` waits for as long as `send_later` was told."""
        ours, theirs = pair()
        fill(ours, theirs)

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            client.send_later(b"abc", timeout_s=0.1)
            with pytest.raises(FiberTimeoutError):
                await client.flush()
            client.close()

        loop.start(body)
        await loop.wait_idle()

    async def test_a_client_that_left_is_noted(self, loop, pair) -> None:
        """The fiber sees that it closed, as after any event."""
        ours, theirs = pair()
        seen: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            ours.shutdown(socket.SHUT_WR)
            client.send_later(b"a", timeout_s=1)
            loop.wake(fiber)
            await pause()
            await pause()
            seen.append(client.peer_closed)
            client.close()

        loop.start(body)
        await loop.wait_idle()
        theirs.close()
        assert seen == [True]

    async def test_receive_sends_the_rest_of_a_request(self, loop, pair) -> None:
        """And then returns the response."""
        (ours, theirs), (client_ours, _) = pair(), pair()
        filled = fill(ours, theirs)
        seen: list[bytes] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, client_ours, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            upstream.send_later(b"abc", silence_s=9)
            loop.wake(fiber)
            await pause()
            seen.append(await upstream.receive())
            assert upstream.unsent is None
            upstream.close()
            client.close()

        loop.start(body)
        assert (await read(theirs, filled + 3))[filled:] == b"abc"
        theirs.send(b"answer")
        await loop.wait_idle()
        assert seen == [b"answer"]

    async def test_a_response_may_come_before_the_rest(self, loop, pair) -> None:
        """Then the rest stays unsent, so that the connection is not used again."""
        (ours, theirs), (client_ours, _) = pair(), pair()
        fill(ours, theirs)
        seen: list[bytes] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, client_ours, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            upstream.send_later(b"abc", silence_s=9)
            loop.wake(fiber)
            await pause()
            seen.append(await upstream.receive())
            assert upstream.unsent == b"abc"
            upstream.close()
            client.close()

        loop.start(body)
        await wait_all_tasks_blocked()
        theirs.send(b"early")
        await loop.wait_idle()
        assert seen == [b"early"]

    async def test_a_backend_that_closed_shows_at_the_next_read(self, loop, pair) -> None:
        """`reset` says that it did not read the request."""
        (ours, theirs), (client_ours, _) = pair(), pair()
        seen: list[tuple[bytes, bool]] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, client_ours, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            upstream.send_later(b"abc", silence_s=9)
            seen.append((await upstream.receive(), upstream.reset))
            upstream.close()
            client.close()

        loop.start(body)
        await loop.wait_idle()
        assert seen == [(b"", True)]

    async def test_an_exchange_that_ended_sends_nothing(self, loop, pair) -> None:
        """Its client left in the same iteration."""
        (ours, theirs), (client_ours, _) = pair(), pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, client_ours, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            upstream.send_later(b"abc", silence_s=9)
            upstream.close()
            loop.wake(fiber)
            await pause()
            client.close()

        loop.start(body)
        await loop.wait_idle()
        assert await read(theirs, 3) == b""


class TestDeadlines:
    """`Fiber.expire_in`."""

    async def test_a_deadline_is_raised_where_the_fiber_waits(self, loop) -> None:
        """Not before its time, and at most two ticks later."""
        seen: list[float] = []

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(0.2)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append(trio.current_time())

        begun_s = trio.current_time()
        loop.start(body)
        await loop.wait_idle()
        assert 0.2 <= seen[0] - begun_s < 0.2 + 2 * TICK_S + stretched_s(0.1)

    async def test_a_deadline_can_be_put_off_and_taken_back(self, loop) -> None:
        """Only the last one counts, and none is raised after it was set to infinity."""
        seen: list[str] = []

        async def put_off(fiber: Fiber) -> None:
            fiber.expire_in(0.1)
            fiber.expire_in(0.4)
            try:
                await pause()
            except FiberTimeoutError:
                seen.append("put off")
            loop.wake(fibers[0])

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
            loop.start(body)
        await loop.wait_idle()
        assert seen == ["sooner", "put off", "woken"]

    async def test_a_fiber_may_set_a_new_deadline_after_one(self, loop) -> None:
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

        loop.start(body)
        await loop.wait_idle()
        assert count == 3

    async def test_time_in_which_the_process_was_held_up_does_not_count(
        self, mock_clock, loop, pair
    ) -> None:
        """Nobody is silent because the router could not look."""
        seen: list[str] = []
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            try:
                for _ in range(8):  # as Trio may look at deadlines before or after events
                    fiber.expire_in(0.1)
                    await client.receive()
                seen.append("all")
            except FiberTimeoutError:
                seen.append("silent")
            client.close()

        loop.start(body)
        for _ in range(8):
            await wait_all_tasks_blocked()
            mock_clock.jump(0.25)  # as in a machine that was stopped
            theirs.send(b"x")
        await loop.wait_idle()
        assert seen == ["all"]

    async def test_who_was_held_up_as_well_has_the_rest_of_its_time(
        self, mock_clock, loop, pair
    ) -> None:
        """A pause does not use up the time of a side that needs some more after it."""
        seen: list[str] = []
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            try:
                fiber.expire_in(1.5)
                await client.receive()
                seen.append("heard")
            except FiberTimeoutError:
                seen.append("silent")
            client.close()

        loop.start(body)
        await wait_all_tasks_blocked()
        mock_clock.jump(2.0)  # as in a machine that was stopped
        for _ in range(12):  # what it still has to do takes so long
            await wait_all_tasks_blocked()
            mock_clock.jump(TICK_S)
        theirs.send(b"x")
        await loop.wait_idle()
        assert seen == ["heard"]

    async def test_short_lived_fibers_leave_no_timers(self, loop) -> None:
        """Memory does not grow with 50,000 fibers that ended long before their deadlines."""

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(75)
            fibers.append(fiber)
            await pause()

        fibers: list[Fiber] = []

        async def churn(count: int) -> None:
            for _ in range(count // 500):
                for _ in range(500):
                    loop.start(body)
                while fibers:
                    loop.wake(fibers.pop())
                await loop.wait_idle()

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
        assert not any(loop._buckets.values())
        assert grown < 200_000


class TestWake:
    """`EventLoop.wake` and `pause`."""

    async def test_from_outside(self, loop) -> None:
        """A Trio task wakes a fiber; to wake one that ended is harmless."""
        fibers: list[Fiber] = []

        async def body(fiber: Fiber) -> None:
            fibers.append(fiber)
            await pause()

        loop.start(body)
        await wait_all_tasks_blocked()
        assert loop._fibers == set(fibers)
        loop.wake(fibers[0])
        await loop.wait_idle()
        loop.wake(fibers[0])
        await wait_all_tasks_blocked()

    async def test_by_another_fiber(self, loop, pair) -> None:
        """It is resumed in the same slice, once for each time that it was woken."""
        turns: list[str] = []
        waiting: list[Fiber] = []
        ours, theirs = pair()

        async def sleeper(fiber: Fiber) -> None:
            waiting.append(fiber)
            for _ in range(2):
                await pause()
                turns.append("woken")

        async def waker(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            assert await client.receive() == b"x"
            for _ in range(2):
                loop.wake(waiting[0])
            turns.append("wakes")
            client.close()

        loop.start(sleeper)
        loop.start(waker)
        theirs.send(b"x")
        await loop.wait_idle()
        assert turns == ["wakes", "woken", "woken"]


class TestCrash:
    """A bug in one fiber."""

    async def test_it_costs_one_fiber(self, loop, pair) -> None:
        """It is logged; the others of the same slice go on."""
        pairs = [pair() for _ in range(3)]
        got: list[bytes] = []

        def serve(ours: socket.socket) -> Body:
            async def body(fiber: Fiber) -> None:
                client = ClientSocket(loop, ours, fiber)
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
            loop.start(serve(ours))
        with capture_logs() as logs:
            for number, (_, theirs) in enumerate(pairs):
                theirs.send(b"%d" % number)
            await wait_all_tasks_blocked()
            assert len(got) == 3
            pairs[0][1].send(b"a")
            pairs[2][1].send(b"b")
            await loop.wait_idle()
        assert sorted(got) == [b"0", b"1", b"2", b"a", b"b"]
        assert [entry["event"] for entry in logs] == ["connection.crashed"]

    async def test_at_the_deadline(self, loop) -> None:
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
                loop.start(body)
            await loop.wait_idle()
        assert seen == ["good", "good"]
        assert [entry["event"] for entry in logs] == ["connection.crashed"] * 2

    async def test_a_deadline_that_nobody_handles_is_no_crash(self, loop) -> None:
        """It ends the fiber silently."""

        async def body(fiber: Fiber) -> None:
            fiber.expire_in(0.01)
            await pause()

        with capture_logs() as logs:
            loop.start(body)
            await loop.wait_idle()
        assert logs == []


class TestCut:
    """The end of the loop, or of one fiber."""

    async def test_every_fiber_is_told_and_may_send(self, pair) -> None:
        """What it sends within `ENDING_S` arrives; then its connection is closed."""
        loop = EventLoop()
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            try:
                await client.receive()
            except FiberCancelledError as exc:
                await client.send(exc.error.code.encode())
            finally:
                client.close()

        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(loop.run)
                loop.start(body)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert theirs.recv(100) == b"shutting_down"
        assert theirs.recv(100) == b""

    async def test_who_does_not_end_is_ended(self, monkeypatch, pair) -> None:
        """After `ENDING_S` its coroutine is closed, and its socket with it."""
        monkeypatch.setattr(loop_module, "ENDING_S", 0.1)
        loop = EventLoop()
        ours, theirs = pair()

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            try:
                while True:
                    try:
                        await client.receive()
                    except FiberCancelledError:
                        continue
            finally:
                client.close()

        with capture_logs() as logs, trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(loop.run)
                loop.start(body)
                await wait_all_tasks_blocked()
                begun_s = trio.current_time()
                nursery.cancel_scope.cancel()
        assert 0.1 <= trio.current_time() - begun_s < 2
        assert not loop._fibers
        assert theirs.recv(1) == b""
        assert logs == []

    async def test_one_fiber(self, loop) -> None:
        """It hears why; nobody else does."""
        seen: list[str] = []
        fibers: list[Fiber] = []

        async def body(fiber: Fiber) -> None:
            fibers.append(fiber)
            try:
                await pause()
            except FiberCancelledError as exc:
                seen.append(str(exc.error))

        loop.start(body)
        loop.start(body)
        loop.cancel(fibers[0], RequestError("because"))
        assert seen == [], "the caller may be in the middle of something"
        loop.cancel(fibers[0], RequestError("again"))
        await wait_all_tasks_blocked()
        assert seen == ["because"]
        assert loop._fibers == {fibers[1]}
        loop.wake(fibers[1])
        await loop.wait_idle()


class TestInTrio:
    """`EventLoop.run_in_trio`."""

    async def run(
        self, loop: EventLoop, ours: socket.socket, function: Callable, *, timeout_s: float = 60
    ) -> list[object]:
        """Return what a fiber got of *function*, as soon as it waits for it."""
        got: list[object] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            fiber.expire_in(timeout_s)
            try:
                got.append(await loop.run_in_trio(fiber, function, unless_closed=client))
            except (RequestError, FiberTimeoutError) as exc:
                got.append(exc)
            finally:
                client.close()

        loop.start(body)
        await wait_all_tasks_blocked()
        return got

    async def test_what_it_returns(self, loop, pair) -> None:
        """The fiber gets it, although the function waited."""
        event = trio.Event()

        async def function() -> int:
            await event.wait()
            return 7

        got = await self.run(loop, pair()[0], function)
        assert got == []
        event.set()
        await loop.wait_idle()
        assert got == [7]

    async def test_what_it_raises(self, loop, pair) -> None:
        """The fiber gets the same exception."""

        async def function() -> int:
            raise RequestError("no")

        [raised] = await self.run(loop, pair()[0], function)
        assert str(raised) == "no"

    @pytest.mark.parametrize("how", ["peer_closed", "deadline"])
    async def test_it_is_cancelled(self, loop, pair, how) -> None:
        """When the peer goes, or the fiber's time is over, the task ends at once."""
        ended = trio.Event()
        ours, theirs = pair()

        async def function() -> int:
            try:
                await trio.sleep_forever()
            finally:
                ended.set()

        got = await self.run(loop, ours, function, timeout_s=60 if how == "peer_closed" else 0.1)
        if how == "peer_closed":
            theirs.shutdown(socket.SHUT_WR)
        with trio.fail_after(stretched_s(2)):
            await ended.wait()
            await loop.wait_idle()
        if how == "peer_closed":
            assert got == [None]
        else:
            assert isinstance(got[0], FiberTimeoutError)

    async def test_bytes_of_the_peer_do_not_end_it(self, loop, pair) -> None:
        """A pipelined request is not a hang-up."""
        event = trio.Event()
        ours, theirs = pair()

        async def function() -> str:
            await event.wait()
            return "done"

        got = await self.run(loop, ours, function)
        theirs.send(b"GET")
        await wait_all_tasks_blocked()
        assert got == []
        event.set()
        await loop.wait_idle()
        assert got == ["done"]


async def echo(loop: EventLoop, ours: socket.socket, fiber: Fiber) -> None:
    """Send back what comes, until the peer closes."""
    client = ClientSocket(loop, ours, fiber)
    try:
        while data := await client.receive():
            await client.send(data)
    finally:
        client.close()


class TestFairness:
    """One fiber that never runs out of work."""

    @pytest.mark.parametrize("kind", ["receive", "spend"])
    async def test_others_get_their_turn(self, loop, pair, kind) -> None:
        """Trio tasks and other fibers go on while one fiber is fed without end."""
        busy, feeder = pair()
        quiet, theirs = pair()
        moved = 0
        scope = trio.CancelScope()

        async def endless(fiber: Fiber) -> None:
            nonlocal moved
            client = ClientSocket(loop, busy, fiber)
            buffer = memoryview(bytearray(1000))
            try:
                while not scope.cancel_called:
                    if kind == "receive":
                        moved += await client.receive_into(buffer)
                    else:
                        moved += 1
                        await fiber.yield_if_over_budget()
            finally:
                client.close()

        def feed() -> None:
            with suppress(OSError):
                while True:
                    feeder.send(b"x" * 65536)

        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, feed)
                loop.start(endless)
                loop.start(partial(echo, loop, quiet))
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
                await loop.wait_idle()
        assert logs == []

    async def test_many_that_take_long_do_not_make_a_turn_long(self, loop, monkeypatch) -> None:
        """Fibers for which a slice has no time left go on in the next one."""
        resumed = 0
        now_s = loop.clock()

        async def heavy(fiber: Fiber) -> None:
            nonlocal now_s, resumed
            await pause()
            now_s += 0.75 * loop_module.SLICE_S
            resumed += 1

        for _ in range(10):
            loop.start(heavy)
        fibers = list(loop._fibers)
        monkeypatch.setattr(loop, "clock", lambda: now_s)
        for fiber in fibers:
            loop.wake(fiber)
        loop._run_slice()
        assert resumed == 2
        await loop.wait_idle()
        assert resumed == 10

    @pytest.mark.interpreted
    async def test_turns_are_short_while_trio_is_in_a_hurry(self, loop, monkeypatch) -> None:
        """After `EventLoop.prioritize_trio`, for a moment: then a slice is as long as before."""
        busy = True
        now_s = loop.clock()

        def clock() -> float:
            nonlocal now_s
            now_s += 2**-13  # the time of an iteration; without rounding errors
            return now_s

        async def endless(fiber: Fiber) -> None:
            while busy:
                loop.wake(fiber)
                await pause()

        lengths: list[int] = []
        drive = loop._run_slice

        def slice_() -> None:
            before = loop.iterations
            drive()
            lengths.append(loop.iterations - before)

        async def length() -> int:
            """Return how many iterations the next slice has."""
            seen = len(lengths)
            while len(lengths) == seen:
                await trio.lowlevel.checkpoint()
            return lengths[seen]

        monkeypatch.setattr(loop, "clock", clock)
        monkeypatch.setattr(loop, "_run_slice", slice_)
        loop.start(endless)
        await length()
        usual = await length()
        loop.prioritize_trio()
        assert await length() < usual / 3
        now_s += loop_module.TRIO_PRIORITY_S
        assert await length() == usual
        busy = False
        await loop.wait_idle()


def renumbered(ours: socket.socket, number: int) -> socket.socket:
    """Return *ours* under that *number*, which is free."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    with ours:
        return socket.socket(fileno=os.dup2(ours.fileno(), number, inheritable=False))


class TestDescriptors:
    """Sockets whose numbers are used again."""

    async def test_events_of_a_closed_socket_do_not_reach_its_successor(self, loop, pair) -> None:
        """Not even while somebody, as a child that is about to exec, holds a copy of it."""
        clients: list[ClientSocket] = []

        def watch(ours: socket.socket) -> Body:
            async def body(fiber: Fiber) -> None:
                client = ClientSocket(loop, ours, fiber)
                clients.append(client)
                await pause()
                client.close()

            return body

        ours, theirs = pair()
        spare, other = pair()
        number = ours.fileno()
        loop.start(watch(ours))
        copy = os.dup(number)
        try:
            loop.wake(clients[0].fiber)
            await loop.wait_idle()
            loop.start(watch(renumbered(spare, number)))
            theirs.shutdown(socket.SHUT_WR)
            await wait_all_tasks_blocked()
            assert not clients[1].peer_closed
            other.shutdown(socket.SHUT_WR)
            await wait_all_tasks_blocked()
            assert clients[1].peer_closed
        finally:
            os.close(copy)
        loop.wake(clients[1].fiber)
        await loop.wait_idle()

    async def test_a_number_that_is_used_again_within_an_iteration(self, loop, pair) -> None:
        """A connection that a fiber opens does not get the event of the one that it closed."""
        pairs = [pair() for _ in range(2)]
        front, _ = pair()
        spare, _ = pair()
        seen: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, front, fiber)
            first, second = (UpstreamSocket(loop, ours, client) for ours, _ in pairs)
            number = pairs[1][0].fileno()
            assert await first.receive() == b"x"
            assert not second.readable
            second.close()  # its event of this iteration was not handled yet
            third = UpstreamSocket(loop, renumbered(spare, number), client)
            loop.wake(fiber)
            await pause()
            await pause()
            seen.append(third.readable)
            for channel in (client, first, third):
                channel.close()

        loop.start(body)
        [fiber] = loop._fibers
        for _, theirs in pairs:
            theirs.send(b"x")
        await wait_all_tasks_blocked()
        loop.wake(fiber)
        await loop.wait_idle()
        assert seen == [False]

    async def test_all_is_noted_before_anything_is_sent(self, loop, pair) -> None:
        """`EventLoop.pending_sends` are done at the end of the iteration, once."""
        pairs = [pair() for _ in range(3)]
        seen: list[bytes] = []

        class Echo:
            def send_now(self, data: bytes) -> None:
                seen.append(b"sent " + data)

        def note(_: int) -> None:
            seen.append(b"noted")
            loop.pending_sends.append((Echo(), b"x"))

        async def body(fiber: Fiber) -> None:
            channels = [ClientSocket(loop, ours, fiber) for ours, _ in pairs]
            await pause()  # their first events: that they are writable
            for channel in channels:
                loop.set_handler(channel, note)
            await pause()
            for channel in channels:
                channel.close()

        loop.start(body)
        [fiber] = loop._fibers
        await wait_all_tasks_blocked()
        loop.wake(fiber)
        await wait_all_tasks_blocked()
        for _, theirs in pairs:
            theirs.send(b"x")
        await wait_all_tasks_blocked()
        assert seen == 3 * [b"noted"] + 3 * [b"sent x"]
        loop.wake(fiber)
        await loop.wait_idle()

    async def test_connections_come_and_go_without_a_trace(self, loop) -> None:
        """As many descriptors are open after 300 connections as before."""

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            while await client.receive():
                pass
            client.close()

        before = descriptors()
        for _ in range(300):
            with connected() as (ours, theirs):
                loop.start(body)
                theirs.send(b"x")
                theirs.shutdown(socket.SHUT_WR)
                await loop.wait_idle()
        assert descriptors() == before

    async def test_a_released_socket_is_watched_no_more(self, loop, pair) -> None:
        """Somebody else serves it; its bytes are still there."""
        ours, theirs = pair()
        released: list[socket.socket] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            assert await client.receive() == b"1"
            released.append(client.release())

        loop.start(body)
        theirs.send(b"1")
        await loop.wait_idle()
        theirs.send(b"2")
        await wait_all_tasks_blocked()
        assert not loop._channels
        assert released[0].recv(10) == b"2"


class TestSending:
    """Peers that take nothing, or go."""

    async def test_a_send_that_is_given_up_tears_the_stream(self, loop, pair) -> None:
        """Whoever sends an ending behind it must know; a send that ends well leaves no mark."""
        ours, theirs = pair()
        marks: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            await client.send(b"x")
            marks.append(client.mid_send)
            fiber.expire_in(0.1)
            try:
                await client.send(bytes(50_000_000))
            except FiberTimeoutError:
                marks.append(client.mid_send)
            client.close()

        loop.start(body)
        await loop.wait_idle()
        assert marks == [False, True]
        assert theirs.recv(1) == b"x"

    async def test_a_slow_peer_gets_everything(self, loop, pair) -> None:
        """A large piece is sent as the peer takes it, and is not torn."""
        ours, theirs = pair()
        data = bytes(range(256)) * 40_000
        marks: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            await client.send(data)
            marks.append(client.mid_send)
            client.close()

        loop.start(body)
        got = bytearray()
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs.dup()))
        async with stream:
            while part := await stream.receive_some(100_000):
                got += part
        assert got == data
        assert marks == [False]

    async def test_a_peer_that_goes_ends_a_send(self, loop, pair) -> None:
        """The fiber hears of it at once, though nothing is sent."""
        ours, theirs = pair()
        seen: list[str] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, ours, fiber)
            try:
                await client.send(bytes(50_000_000))
            except ClientGoneError:
                seen.append("peer_closed")
            client.close()

        loop.start(body)
        await wait_all_tasks_blocked()
        assert seen == []
        theirs.close()
        await loop.wait_idle()
        assert seen == ["peer_closed"]


class TestKept:
    """Connections to a backend between two exchanges."""

    @pytest.mark.parametrize("noted", [True, False], ids=["noted", "same-iteration"])
    async def test_one_with_surplus_bytes_is_of_no_use(self, loop, pair, noted) -> None:
        """Also if their event is not here yet: they would be taken for the next answer."""
        ours, theirs = pair()
        front, _ = pair()
        usable: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, front, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            upstreams.append(upstream)
            assert await upstream.receive() == b"answer"
            theirs.send(b"surplus")
            upstream.keep()
            if not noted:
                usable.append(upstream.reuse(client))
            else:
                await pause()
                usable.append(upstream.reuse(client))
            client.close()

        upstreams: list[UpstreamSocket] = []
        loop.start(body)
        theirs.send(b"answer")
        if noted:
            await wait_all_tasks_blocked()
            assert upstreams[0].closed
            loop.wake(next(iter(loop._fibers)))
        await loop.wait_idle()
        assert usable == [False]
        with pytest.raises(OSError, match="reset"):
            theirs.recv(1)

    async def test_one_without_is_used_again(self, loop, pair) -> None:
        """In the same iteration and later."""
        ours, theirs = pair()
        front, _ = pair()
        usable: list[bool] = []

        async def body(fiber: Fiber) -> None:
            client = ClientSocket(loop, front, fiber)
            upstream = UpstreamSocket(loop, ours, client)
            for _ in range(2):
                await upstream.receive()
                upstream.keep()
                usable.append(upstream.reuse(client))
                upstream.keep()
                await pause()
                usable.append(upstream.reuse(client))
            upstream.close()
            client.close()

        loop.start(body)
        [fiber] = loop._fibers
        for _ in range(2):
            theirs.send(b"answer")
            await wait_all_tasks_blocked()
            loop.wake(fiber)
            await wait_all_tasks_blocked()
        await loop.wait_idle()
        assert usable == [True] * 4
