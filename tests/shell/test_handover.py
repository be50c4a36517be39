"""What goes wrong on a connection of the control plane costs that connection."""

import socket
from unittest.mock import Mock

import trio
import trio.testing

from llama_router.gateway.gateway import Gateway
from llama_router.http1 import parse_request_head
from tests.events import capture_logs


async def test_a_failure_while_the_router_ends_ends_nothing_else() -> None:
    """Also if it comes together with the cancellation of the connection's tasks."""
    seen: list[str] = []

    async def fail_at_the_end(_stream: object, _request: object, _moving: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                seen.append("the end")
                raise ValueError("a bug")

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    gateway = Gateway(Mock(), Mock(), fail_at_the_end)
    head = parse_request_head(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
    assert head is not None
    with theirs, capture_logs() as logs:
        async with trio.open_nursery() as gateway.tasks:
            gateway.hand_over(ours, head, b"")
            await trio.testing.wait_all_tasks_blocked()
            gateway.tasks.cancel_scope.cancel()
    assert ours.fileno() == -1
    assert seen == ["the end"]
    assert [line["event"] for line in logs] == ["connection.crashed"]
