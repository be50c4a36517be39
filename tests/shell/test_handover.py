"""What goes wrong on a connection of the control plane costs that connection."""

import socket

import trio
import trio.testing

from llama_router.gateway.connection import Gateway


async def test_a_failure_while_the_router_ends_ends_nothing_else() -> None:
    """Also if it comes together with the cancellation of the connection's tasks."""

    async def fail_at_the_end(stream: trio.SocketStream, replay: bytes) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("a bug")

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    gateway = Gateway(None, None, fail_at_the_end)
    with theirs:
        async with trio.open_nursery() as gateway.tasks:
            gateway.hand_over(ours, b"")
            await trio.testing.wait_all_tasks_blocked()
            gateway.tasks.cancel_scope.cancel()
    assert ours.fileno() == -1
