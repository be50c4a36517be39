"""The two kinds of connections of the data plane, as fibers use them.

Everything that touches a socket of the data plane is here or in `engine`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from http import HTTPStatus
from typing import Final

from ..errors.base import RouterError
from .loop.channel import GONE, READABLE, WRITABLE, Channel
from .loop.engine import Engine
from .loop.fiber import Fiber, FiberTimeoutError, pause

#: Most bytes taken from a socket at once. More would only raise the memory that a
#: slow reader can hold.
RECEIVE_BYTES: Final = 32 * 1024

#: The same where the client does not keep up: what it has not taken stays in memory.
SLOW_RECEIVE_BYTES: Final = 8 * 1024

#: Of what is received into a buffer at once, so many bytes count as a piece more.
BYTES_PER_PIECE: Final = 128 * 1024

#: Errors that say that this process, or the machine, has too much open.
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: How long a closing connection may take to read what was sent, in seconds.
LINGER_S: Final = 2.0


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody to answer.

    A client that only closes its sending side counts as gone, too: the two cannot be
    told apart before something is sent, and a backend must not compute for nobody.
    """


class ExhaustedError(RouterError):
    """This router has no file descriptors or memory left for one more connection."""

    code = "router_exhausted"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after_s: float | None = 1.0


def _raise_if_exhausted(exc: OSError) -> None:
    """Tell the router's own limits from what a peer did."""
    if exc.errno in EXHAUSTED:
        raise _exhausted(exc.strerror) from exc


def _exhausted(reason: str | None) -> ExhaustedError:
    return ExhaustedError(
        f"the router cannot open one more connection: {reason}; raise its limit of "
        "open files (ulimit -n, LimitNOFILE=)"
    )


class Client(Channel):
    """One client's connection, and the fiber that serves it.

    Attributes:
        fiber: Whom its events resume.
        torn: A send was given up halfway: nothing can follow what the client has got.
        slow: It did not take all at once; set back by who cares.
    """

    __slots__ = ("_receive", "_send", "fiber", "slow", "torn")

    def __init__(self, engine: Engine, connection: socket.socket, fiber: Fiber) -> None:
        super().__init__(engine, connection, fiber)
        self.readable = True  # likely: who connects has something to say
        self.fiber = fiber
        self.torn = False
        self.slow = False
        self._receive = connection.recv
        self._send = connection.send

    def note(self, events: int) -> None:
        """Remember *events*, and resume who waits; but what is new has time."""
        if self.want & READABLE:
            self._engine.put_off(self, events)
        else:
            super().note(events)

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty means that the client closed."""
        while (data := self.receive_nowait()) is None:
            await self._wait(READABLE | GONE)
        return data

    def receive_nowait(self) -> bytes | None:
        """Return bytes that are here, or None; empty means that the client closed."""
        if not self.readable:
            return None
        try:
            data = self._receive(RECEIVE_BYTES)
        except BlockingIOError:
            self.readable = False
            return None
        except OSError:
            return b""
        # A short read has emptied the socket: the next bytes make a new edge.
        if len(data) < RECEIVE_BYTES and not self.gone:
            self.readable = False
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, put them into *buffer*, return how many; 0: the client closed."""
        while True:
            if self.readable:
                try:
                    size = self.socket.recv_into(buffer)
                except BlockingIOError:
                    self.readable = False
                    continue
                except OSError:
                    return 0
                await self.fiber.spend(1 + size // BYTES_PER_PIECE)
                return size
            await self._wait(READABLE | GONE)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*.

        Raises:
            ClientGoneError: if the client closed.
        """
        if (rest := self.send_nowait(data)) is not None:
            await self.send_rest(rest)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Send what the client takes of *data* now; return the rest, for `send_rest`, or None.

        Raises:
            ClientGoneError: if the client closed.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise ClientGoneError from exc
        return None if sent == len(data) else memoryview(data)[sent:]

    async def send_rest(self, data: memoryview) -> None:
        """Send all of *data*, of which the client did not take more a moment ago.

        Raises:
            ClientGoneError: if the client closed.
        """
        self.torn = self.slow = True
        while data:
            await self._wait(WRITABLE | GONE)
            if self.gone:
                raise ClientGoneError
            try:
                data = data[self._send(data) :]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise ClientGoneError from exc
        self.torn = False

    async def wait_readable(self) -> None:
        """Wait until reading may give something; may return without a reason."""
        self.want = READABLE | GONE
        try:
            await pause()
        finally:
            self.want = 0

    async def _wait(self, events: int) -> None:
        self.want = events
        try:
            await pause()
        finally:
            self.want = 0

    async def linger(self) -> None:
        """Close, but let the client read the last answer first.

        Closing with unread bytes in the socket would reset the connection and destroy
        an error answer that is still on its way. Source: RFC 9112, section 9.6.
        """
        self.fiber.expire_in(LINGER_S)
        with contextlib.suppress(OSError, FiberTimeoutError):
            self.socket.shutdown(socket.SHUT_WR)
            while await self.receive():
                await self.fiber.spend()
        self.close()


class Upstream(Channel):
    """One connection to a backend: used by one exchange at a time, or kept for the next.

    Attributes:
        reused: Whether an earlier exchange used it, so that it may be stale.
        connected: Whether anything was sent on it yet.
    """

    __slots__ = ("_client", "_kept_in_round", "_receive", "_send", "connected", "reused")

    def __init__(self, engine: Engine, connection: socket.socket, client: Client) -> None:
        super().__init__(engine, connection, client.fiber)
        self.reused = False
        self.connected = False
        self._client = client
        self._kept_in_round = 0
        self._receive = connection.recv
        self._send = connection.send

    def keep(self) -> None:
        """Wait for nobody; close when the backend closes, or speaks without being asked."""
        self.reused = True
        self._kept_in_round = self._engine.rounds
        self.waiter = self
        self.want = READABLE | GONE

    def resume(self) -> None:
        """Close: see `keep`."""
        self.close()

    def use(self, client: Client) -> bool:
        """Take a kept connection into use for *client*; False if it is of no use any more."""
        # Whether an edge from while it was in use left anything is only known now. And of
        # this round's edges some may not have been noted yet.
        unsure = self.readable or self._kept_in_round == self._engine.rounds
        if unsure and not self.closed:
            try:
                self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.readable = False
            except OSError:
                self.close()
            else:
                self.close()
        if self.gone or self.closed:
            self.close()
            return False
        self.want = 0
        self.waiter = client.fiber
        self._client = client
        return True

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty means that the backend closed.

        Raises:
            ClientGoneError: if the client closed meanwhile.
        """
        client = self._client
        while True:
            if self.readable:
                most = SLOW_RECEIVE_BYTES if client.slow else RECEIVE_BYTES
                try:
                    data = self._receive(most)
                except BlockingIOError:
                    self.readable = False
                    continue
                except OSError:
                    return b""
                if len(data) < most and not self.gone:
                    self.readable = False
                return data
            if client.gone:
                raise ClientGoneError
            self.want = READABLE | GONE
            client.want = GONE
            try:
                await pause()
            finally:
                self.want = client.want = 0

    async def send(
        self, data: bytes | bytearray | memoryview, *, silence_s: float
    ) -> memoryview | None:
        """Send *data*; return what was not sent because the backend answers already.

        The fiber's deadline is moved to *silence_s* from now whenever the backend takes
        a part of it.

        Raises:
            OSError: if the backend closed, or does not accept connections.
            ClientGoneError: if the client closed meanwhile.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:  # it takes no more, or is not connected yet
            sent = 0
        if sent == len(data):
            self.connected = True
            return None
        return await self._send_rest(memoryview(data)[sent:], silence_s)

    async def _send_rest(self, data: memoryview, silence_s: float) -> memoryview | None:
        client = self._client
        while data:
            if client.gone:
                raise ClientGoneError
            if self.readable:
                if not self.connected:
                    self._raise_if_refused()
                return data
            self.want = WRITABLE | READABLE | GONE
            client.want = GONE
            try:
                await pause()
            finally:
                self.want = client.want = 0
            with contextlib.suppress(BlockingIOError):
                data = data[self._send(data) :]
                self.connected = True
                client.fiber.expire_in(silence_s)
        return None

    def _raise_if_refused(self) -> None:
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))


def connect(engine: Engine, client: Client, host: str, port: int) -> Upstream:
    """Begin a connection, in use for *client*; sending on it waits until it stands.

    Raises:
        OSError: if nobody listens there (which may also show itself later).
        ExhaustedError: if there is no file descriptor left for it.
    """
    if not engine.has_room():
        raise _exhausted(os.strerror(errno.EMFILE))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as exc:
        _raise_if_exhausted(exc)
        raise
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):  # EINPROGRESS: as it should be
            connection.connect((host, port))
        return Upstream(engine, connection, client)
    except OSError as exc:
        connection.close()
        _raise_if_exhausted(exc)
        raise
