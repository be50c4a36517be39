"""Random traffic through the whole gateway: no answer is ever somebody else's, nothing is left.

Many clients send pipelined requests, cut anywhere, some broken, some aborted; the backend
answers each with what it received, framed at random, and sometimes misbehaves. Every
exchange has an identity of its own, which is all over its request and its answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from llama_router.core.config.names import ModelId
from tests.http_cases import post
from tests.limits import LIMIT_S
from tests.process.harness import RawClient
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

#: Neither a run nor any wait of it may take longer, in seconds.
#: What a client sends instead of a good request, as the last thing on its connection.
BAD = (
    post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"hello"),
    post(b"Transfer-Encoding: chunked", body=b"zz\r\n"),
    post(b"Transfer-Encoding: gzip"),
    post(b"A : b"),
    post().replace(b"\r\n", b"\n"),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


@attrs.frozen
class Plan:
    """One exchange.

    Attributes:
        body: Bytes of padding in the request.
        framing: Of the request: ``length`` or ``chunked``.
        answer: Of the answer: ``length``, ``chunked``, ``events``, ``close``, ``interim``;
            or how the backend misbehaves: ``surplus``, ``cut``, ``silent-close``, ``garbage``,
            ``early`` (before the body is read).
        size: Bytes of padding in the answer.
    """

    body: int
    framing: str
    answer: str
    size: int


@attrs.frozen
class Talk:
    """What one client does on one connection.

    Attributes:
        plans: Its requests, pipelined.
        ending: ``read`` all answers, ``bad`` request behind them, ``abort`` after some
            answers, or ``reset`` halfway through sending.
        seed: Of the places where it cuts what it sends.
    """

    plans: tuple[Plan, ...]
    ending: str
    seed: int


GOOD = ("length", "length", "chunked", "events", "interim")
ODD = ("close", "surplus", "cut", "silent-close", "garbage", "early")

plans = st.builds(
    Plan,
    body=st.sampled_from([0, 1, 100, 5_000, 200_000]),
    framing=st.sampled_from(["length", "chunked"]),
    answer=st.sampled_from(GOOD + ODD),
    size=st.sampled_from([0, 1, 100, 5_000, 300_000]),
)
talks = st.lists(
    st.builds(
        Talk,
        plans=st.lists(plans, min_size=1, max_size=6).map(tuple),
        ending=st.sampled_from(["read", "read", "bad", "abort", "reset"]),
        seed=st.integers(0, 2**32 - 1),
    ),
    min_size=1,
    max_size=8,
)


def padding(identity: str, size: int) -> str:
    """Return *size* characters that nobody else has."""
    return (identity * (size // len(identity) + 1))[:size]


def pieces(data: bytes, random: Random, *, most: int) -> Iterator[bytes]:
    """Cut *data* at random places into at most that many pieces."""
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randrange(most)))
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        yield data[begin:end]


def coded(data: bytes, random: Random) -> bytes:
    """Return *data* in the chunked coding."""
    chunks = (piece for piece in pieces(data, random, most=6) if piece)
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def request_of(identity: str, plan: Plan, random: Random) -> bytes:
    """Return the bytes of one request, with its identity and how it is to be answered."""
    document = {"model": "a", "id": identity, **attrs.asdict(plan)}
    body = json.dumps({**document, "padding": padding(identity, plan.body)}).encode()
    head = f"POST /{identity} HTTP/1.1\r\nHost: localhost\r\nX-Id: {identity}\r\n"
    head += f"X-Answer: {plan.answer}\r\n"
    if plan.framing == "chunked":
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + coded(body, random)
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Echo:
    """A backend that answers with the identity of what it received.

    Attributes:
        mixed: What it received that was not one whole request of one exchange.
    """

    def __init__(self, seed: int) -> None:
        self.mixed: list[str] = []
        self._random = Random(seed)

    async def serve(self, peer: Peer) -> None:
        """Answer one connection's requests."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, AssertionError):
            while await self._exchange(peer):
                pass
        await peer.close()

    async def _exchange(self, peer: Peer) -> bool:
        head = (await peer.until(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        if lines[0].startswith("GET /health "):  # after failures the router asks for it
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return False
        pairs = (line.split(": ", 1) for line in lines[1:-2])
        fields = {name.lower(): value for name, value in pairs}
        identity = fields["x-id"]
        if lines[0] != f"POST /{identity} HTTP/1.1":
            self.mixed.append(head)
        if fields["x-answer"] == "early":
            await peer.send(self._framed(identity, "length", 10))
            return False
        body = await peer.exactly(int(fields["content-length"]))
        if len(body) < int(fields["content-length"]):
            return False
        document = json.loads(body)
        if document["id"] != identity or document["padding"] != padding(identity, document["body"]):
            self.mixed.append(identity)
        answer, size = document["answer"], document["size"]
        data = self._framed(identity, answer, size)
        # Surplus that comes later cannot be told from the next answer by anybody.
        for piece in pieces(data, self._random, most=1 if answer == "surplus" else 5):
            await peer.send(piece)
            await trio.lowlevel.checkpoint()
        return answer not in ("close", "cut", "silent-close", "garbage")

    def _framed(self, identity: str, answer: str, size: int) -> bytes:
        body = f"{identity}:{padding(identity, size)}:{identity}".encode()
        head = b"HTTP/1.1 200 OK\r\nX-Id: %b\r\n" % identity.encode()
        whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        chunks = b"Transfer-Encoding: chunked\r\n\r\n" + coded(body, self._random)
        framed = {
            "chunked": head + chunks,
            "events": head + b"Content-Type: text/event-stream\r\n" + chunks,
            "close": head + b"\r\n" + body,
            "interim": head.replace(b"200 OK", b"103 Hint") + b"\r\n" + whole,
            "surplus": whole + b"HTTP/1.1 200 OK\r\nX-Id: nobody\r\nContent-Length: 0\r\n\r\n",
            "cut": whole[:-1],
            "garbage": b"nonsense of " + identity.encode() + b"\r\n\r\n",
            "silent-close": b"",
        }
        return framed.get(answer, whole)


@attrs.define
class Client:
    """One client and what it makes of the answers.

    Attributes:
        name: Its own part of all its identities.
        talk: What it does.
        answered: Exchanges that were answered whole and right.
    """

    name: str
    talk: Talk
    answered: int = 0

    async def run(self, lane: Lane) -> None:
        """Do all of it; fails if anything comes that is not its own."""
        random = Random(self.talk.seed)
        identities = [f"{self.name}e{number}z" for number in range(len(self.talk.plans))]
        data = b"".join(map(request_of, identities, self.talk.plans, [random] * 6))
        if self.talk.ending == "bad":
            data += random.choice(BAD)
        client = await lane.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, client, data, random)
            stop = random.randrange(len(identities) + 1)
            for number, (identity, plan) in enumerate(
                zip(identities, self.talk.plans, strict=True)
            ):
                if self.talk.ending in ("abort", "reset") and number >= stop:
                    break
                if not await self._read(client, identity, plan):
                    break
            else:
                if self.talk.ending == "bad":
                    answer = await client.answer()
                    assert answer.status in (400, 501)
                    assert await client.rest() == b""
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(client.stream)

    async def _send(self, client: RawClient, data: bytes, random: Random) -> None:
        end = random.randrange(len(data)) if self.talk.ending == "reset" else len(data)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            for piece in pieces(data[:end], random, most=12):
                await client.send(piece)
                await trio.lowlevel.checkpoint()
            if self.talk.ending == "reset":
                await trio.aclose_forcefully(client.stream)

    async def _read(self, client: RawClient, identity: str, plan: Plan) -> bool:
        """Read one answer and check whose it is; return whether another one may follow."""
        try:
            head = await client.head()
            while head.status == 103:
                assert head.fields["x-id"] == identity
                head = await client.head()
            body, whole = await self._body(client, head.fields)
        except (AssertionError, trio.BrokenResourceError, trio.ClosedResourceError):
            if self.talk.ending == "reset" or plan.answer == "cut":
                return False
            raise
        expected = f"{identity}:{padding(identity, plan.size)}:{identity}".encode()
        if plan.answer == "early":
            expected = f"{identity}:{padding(identity, 10)}:{identity}".encode()
        if head.status == 200:
            assert head.fields["x-id"] == identity
            assert body == expected if whole else expected.startswith(body)
            assert whole or plan.answer == "cut"
            self.answered += whole
        else:
            assert head.status == 502
            assert plan.answer in ("silent-close", "garbage", "cut")
            assert b'"upstream_failed"' in body
        return whole and head.fields.get("connection") != "close"

    async def _body(self, client: RawClient, fields: dict[str, str]) -> tuple[bytes, bool]:
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while data := await client.chunk():
                body += data
            return body, True
        if "content-length" in fields:
            body = await client.exactly(int(fields["content-length"]))
            return body, len(body) == int(fields["content-length"])
        return await client.rest(), True


async def run(talks: list[Talk]) -> None:
    """Run one plan from beginning to end."""
    echo = Echo(talks[0].seed)
    with trio.fail_after(LIMIT_S):
        async with running() as lane, trio.open_nursery() as backends:

            async def serve_all() -> None:
                while True:
                    backends.start_soon(echo.serve, await lane.peer())

            backends.start_soon(serve_all)
            clients = [Client(f"c{number}", talk) for number, talk in enumerate(talks)]
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.run, lane)
            assert echo.mixed == []
            # A client that asks for nothing odd is served in the end, whatever others do.
            last = Client("last", Talk((Plan(10, "length", "length", 10),), "read", 0))
            await last.run(lane)
            assert last.answered == 1
            await wait_all_tasks_blocked()
            backend = lane.gateway.dispatcher.backend(ModelId("a"))
            assert backend is not None
            kept = {channel for channel in backend._kept if channel in loop_channels(lane)}
            assert loop_channels(lane) == kept
            assert not lane.gateway.loop._fibers
            backends.cancel_scope.cancel()


def loop_channels(lane: Lane) -> set[object]:
    """Return the connections that the event loop watches."""
    return set(lane.gateway.loop._channels.values())


def descriptors() -> set[str]:
    """Return what this process has open, by the names in /proc."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            found.add(str(descriptor.readlink()))
    return found


@given(talks)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_nothing_of_one_exchange_is_in_another(talks: list[Talk]) -> None:
    """Every answer is its request's; nothing crashes, hangs or stays open."""
    before = descriptors()
    trio.run(run, talks)
    assert descriptors() - before == set()


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd(seed: int) -> None:
    """The same with 60 connections at once, half of which do odd things."""
    random = Random(seed)

    def plan() -> Plan:
        return Plan(
            random.choice([0, 100, 100_000]),
            random.choice(["length", "chunked"]),
            random.choice(GOOD if random.random() < 0.8 else ODD),
            random.choice([0, 100, 100_000]),
        )

    crowd = [
        Talk(
            tuple(plan() for _ in range(random.randint(1, 6))),
            random.choice(["read", "read", "bad", "abort", "reset"]),
            random.randrange(2**32),
        )
        for _ in range(60)
    ]
    before = descriptors()
    trio.run(run, crowd)
    assert descriptors() - before == set()
