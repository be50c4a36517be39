"""A WebSocket client for tests, over a plain connection to a router."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, Request


class Socket:
    """A WebSocket client over a plain connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self._events: list[Any] = []

    async def send(self, event) -> None:
        await self.stream.send_all(self.protocol.send(event))

    async def event(self):
        while not self._events:
            self.protocol.receive_data(await self.stream.receive_some() or None)
            self._events += self.protocol.events()
        return self._events.pop(0)

    async def until_closed(self) -> None:
        with suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass

    async def message(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            event = await self.event()
            assert isinstance(event, BytesMessage)
            data += event.data
        return data


async def connect(router, target: str) -> Socket:
    socket = Socket((await router.connect()).stream)
    await socket.send(Request(host="router", target=target))
    return socket
