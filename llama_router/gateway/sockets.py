"""The sockets of the data plane: of clients and of backends, with the waits of fibers.

Only this module, `loop`, `pump`, `upload` and `tunnel` touch a socket of the data plane.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from ..errors.base import RouterError
from ..http1 import ResponseHeads
from .loop.event_loop import EventLoop
from .loop.fiber import PEER_CLOSED, READABLE, WRITABLE, Channel, Fiber, FiberTimeoutError
from .loop.pausing import pause

#: Most bytes of one receive. More would only raise the memory that a slow reader can occupy.
RECEIVE_BYTES: Final = 32 * 1024

#: The same for a client that does not keep up: the bytes that it has not read stay in memory.
SLOW_RECEIVE_BYTES: Final = 8 * 1024

#: Bytes, received into a buffer at once, that count as one more piece.
BYTES_PER_PIECE: Final = 128 * 1024

#: Most bytes that are sent at the end of an iteration: more are not copied.
LATER_BYTES: Final = 16 * 1024

#: Errors that mean that this process, or the machine, has too many descriptors open.
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: Longest wait for a client to read the last response before its connection is closed, in
#: seconds.
LINGERING_CLOSE_S: Final = 2.0


class ClientGoneError(Exception):
    """The client closed its connection, so no response can be sent.

    A client that closes only its sending side is treated the same: the two cases cannot be
    distinguished before a send, and a backend must not compute for a client that has left.
    """


class ExhaustedError(RouterError):
    """This router has no file descriptors or memory left for one more connection."""

    code = "router_exhausted"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retry_after_s: float | None = 1.0


def _raise_if_exhausted(exc: OSError) -> None:
    """Raise `ExhaustedError` if *exc* comes from a limit of the router, not from a peer."""
    if exc.errno in EXHAUSTED:
        raise _exhausted(exc.strerror) from exc


def _exhausted(reason: str | None) -> ExhaustedError:
    return ExhaustedError(
        f"the router cannot open one more connection: {reason}; raise its limit of "
        "open files (ulimit -n, LimitNOFILE=)"
    )


class ClientSocket(Channel):
    """A client's socket, and the fiber that serves it.

    Attributes:
        fiber: The fiber that its events resume.
        peer: Address of the client.
        mid_send: A send is incomplete. If it was abandoned, nothing may be sent any more.
        slow: A send was not accepted at once; the exchange resets it.
        send_some: Sends as many of some bytes as the client accepts now; returns their number.
        unsent: Bytes of `send_later` that were not sent yet; None if there are none.
    """

    __slots__ = (
        "_receive",
        "_timeout_s",
        "fiber",
        "mid_send",
        "peer",
        "send_some",
        "slow",
        "unsent",
    )

    def __init__(
        self, loop: EventLoop, connection: socket.socket, fiber: Fiber, peer: str = ""
    ) -> None:
        super().__init__(loop, connection, fiber)
        self.readable = True  # likely: most clients send a request at once
        self.fiber = fiber
        self.peer = peer
        self.mid_send = False
        self.slow = False
        self.unsent: bytes | memoryview | None = None
        self._timeout_s = 0.0
        self._receive = connection.recv
        self.send_some: Callable[[bytes | bytearray | memoryview], int] = connection.send

    def on_events(self, events: int) -> None:
        """Record *events* and resume the fiber; a new request is deferred."""
        if self.interest & READABLE:
            self._loop.defer(self, events)
        else:
            super().on_events(events)

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty if the client closed."""
        while (data := self.receive_nowait()) is None:
            await self._wait(READABLE | PEER_CLOSED)
        return data

    def receive_nowait(self) -> bytes | None:
        """Return the bytes that have arrived, or None; empty if the client closed."""
        if not self.readable:
            return None
        try:
            data = self._receive(RECEIVE_BYTES)
        except BlockingIOError:
            self.readable = False
            return None
        except OSError:
            return b""
        # A short read emptied the socket: the next bytes cause a new edge.
        if len(data) < RECEIVE_BYTES and not self.peer_closed:
            self.readable = False
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, put them into *buffer*, return their number; 0 if the client closed."""
        while True:
            if self.readable:
                try:
                    size = self.socket.recv_into(buffer)
                except BlockingIOError:
                    self.readable = False
                    continue
                except OSError:
                    return 0
                await self.fiber.yield_if_over_budget(1 + size // BYTES_PER_PIECE)
                return size
            await self._wait(READABLE | PEER_CLOSED)

    def tap(self, sink: Callable[[memoryview], None]) -> None:
        """Pass what is sent from now on to *sink*, too, and to no other one."""
        send = self.socket.send

        def send_and_tell(data: bytes | bytearray | memoryview) -> int:
            sent = send(data)
            sink(memoryview(data)[:sent])
            return sent

        self.send_some = send_and_tell

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*.

        Raises:
            ClientGoneError: if the client closed.
        """
        if (rest := self.send_nowait(data)) is not None:
            await self.send_rest(rest)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Send what the client accepts of *data* now; return the rest for `send_rest`, or None.

        Raises:
            ClientGoneError: if the client closed.
        """
        if self.unsent is not None:
            data, self.unsent = b"".join((self.unsent, data)), None
        try:
            sent = self.send_some(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise ClientGoneError from exc
        return None if sent == len(data) else memoryview(data)[sent:]

    def send_later(self, data: bytes, *, timeout_s: float) -> None:
        """Send *data*, a whole response, at the end of this iteration.

        What the client does not accept then is in `unsent`, for `flush`. Any other send comes
        after it.

        Args:
            data: The response.
            timeout_s: Longest wait for the client to accept a part of the rest, in seconds.
        """
        assert self.unsent is None, "the reader flushes before it takes the next request"
        self.unsent, self._timeout_s = data, timeout_s
        self._loop.pending_sends.append((self, data))

    def send_now(self, data: bytes) -> None:
        """Send *data*, which `send_later` got, unless that has happened."""
        if self.unsent is not data:
            return
        self.unsent = None
        try:
            rest = self.send_nowait(data)
        except ClientGoneError:
            self.readable = self.peer_closed = True
            self.waiter.resume()
            return
        if rest is not None:
            self.unsent = rest
            self.waiter.resume()

    async def flush(self) -> None:
        """Send what is unsent.

        Raises:
            ClientGoneError: if the client closed.
        """
        if self.unsent is not None:
            self.fiber.expire_in(self._timeout_s)
            await self.send(b"")

    def close(self) -> None:
        """Close the socket; safe to call twice. What is unsent is sent as far as possible."""
        if self.unsent is not None and not self.closed:
            with contextlib.suppress(ClientGoneError):
                self.send_nowait(b"")
        super().close()

    async def send_rest(self, data: memoryview) -> None:
        """Send all of *data*, the rest of a send that the client did not accept completely.

        Raises:
            ClientGoneError: if the client closed.
        """
        self.mid_send = self.slow = True
        while data:
            await self._wait(WRITABLE | PEER_CLOSED)
            if self.peer_closed:
                raise ClientGoneError
            try:
                sent = self.send_some(data)
                data = data[sent:]
            except BlockingIOError:
                continue
            except OSError as exc:
                raise ClientGoneError from exc
        self.mid_send = False

    async def wait_readable(self) -> None:
        """Wait until a read may return something; may return spuriously."""
        self.interest = READABLE | PEER_CLOSED
        try:
            await pause()
        finally:
            self.interest = 0

    async def _wait(self, events: int) -> None:
        self.interest = events
        try:
            await pause()
        finally:
            self.interest = 0

    async def linger(self) -> None:
        """Close after the client has read the last response.

        Closing with unread bytes in the socket would reset the connection and destroy an
        error response that is still on its way. Source: RFC 9112, section 9.6.
        """
        self.fiber.expire_in(LINGERING_CLOSE_S)
        with contextlib.suppress(OSError, FiberTimeoutError):
            self.socket.shutdown(socket.SHUT_WR)
            while await self.receive():
                await self.fiber.yield_if_over_budget()
        self.close()


class UpstreamSocket(Channel):
    """A connection to a backend: in use by one exchange, or kept for the next one.

    Attributes:
        reused: An earlier exchange used it, so it may be stale.
        connected: Bytes were sent on it.
        reset: It broke before its end: the backend did not read all that was sent.
        heads: Parses the heads of its responses.
        unsent: The rest of what `send_later` got, if the backend did not accept all of it, or
            responded before; None if there is none.
    """

    __slots__ = (
        "_client",
        "_kept_in_iteration",
        "_receive",
        "_send",
        "_silence_s",
        "connected",
        "heads",
        "reset",
        "reused",
        "unsent",
    )

    def __init__(self, loop: EventLoop, connection: socket.socket, client: ClientSocket) -> None:
        super().__init__(loop, connection, client.fiber)
        self.reused = False
        self.connected = False
        self.reset = False
        self.heads = ResponseHeads()
        self.unsent: memoryview | None = None
        self._silence_s = 0.0
        self._client = client
        self._kept_in_iteration = 0
        self._receive = connection.recv
        self._send = connection.send

    def keep(self) -> None:
        """Make the connection idle; it is closed if the backend closes it or sends on it."""
        self.reused = True
        self._kept_in_iteration = self._loop.iterations
        self.waiter = self
        self.interest = READABLE | PEER_CLOSED

    def resume(self) -> None:
        """Close the idle connection after an event: see `keep`."""
        self.close()

    def reuse(self, client: ClientSocket) -> bool:
        """Assign an idle connection to *client*; return False if it cannot be used any more."""
        # Only a read shows whether an edge from the last use left any bytes. And the handlers
        # of this iteration's events may not all have run yet.
        uncertain = self.readable or self._kept_in_iteration == self._loop.iterations
        if uncertain and not self.closed:
            try:
                self.socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                self.readable = False
            except OSError:
                self.close()
            else:
                self.close()
        if self.peer_closed or self.closed:
            self.close()
            return False
        self.interest = 0
        self.waiter = client.fiber
        self._client = client
        return True

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty if the backend closed.

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
                    self.reset = True
                    return b""
                if len(data) < most and not self.peer_closed:
                    self.readable = False
                return data
            if client.peer_closed:
                raise ClientGoneError
            if self.unsent:
                await self._send_unsent()
                continue
            self.interest = READABLE | PEER_CLOSED
            client.interest = PEER_CLOSED
            try:
                await pause()
            finally:
                self.interest = client.interest = 0

    async def send(
        self, data: bytes | bytearray | memoryview, *, silence_s: float
    ) -> memoryview | None:
        """Send *data*; return the rest if the backend responds before it has read all.

        The fiber's deadline is set to *silence_s* from now whenever the backend accepts a
        part of it.

        Raises:
            OSError: if the backend closed, or does not accept connections.
            ClientGoneError: if the client closed meanwhile.
        """
        rest = self.send_nowait(data)
        return None if rest is None else await self.send_rest(rest, silence_s=silence_s)

    def send_nowait(self, data: bytes | bytearray | memoryview) -> memoryview | None:
        """Send what the backend accepts of *data* now; return the rest for `send_rest`, or None.

        Raises:
            OSError: as `send`.
        """
        try:
            sent = self._send(data)
        except BlockingIOError:  # its buffer is full, or it is not connected yet
            sent = 0
        if sent == len(data):
            self.connected = True
            return None
        return memoryview(data)[sent:]

    def send_later(self, data: bytes, *, silence_s: float) -> None:
        """Send *data*, a whole request, at the end of this iteration; `receive` sends the rest.

        If the backend closed, the next read shows it, as after `send`, and `reset` is set.

        Args:
            data: The request.
            silence_s: As for `send`.
        """
        self._silence_s = silence_s
        self._loop.pending_sends.append((self, data))

    def send_now(self, data: bytes) -> None:
        """Send *data*, which `send_later` got, unless the exchange has ended."""
        if self.closed:
            return
        try:
            self.unsent = self.send_nowait(data)
        except OSError:
            self.reset = self.readable = True
        if self.unsent is not None or self.reset:
            self.waiter.resume()

    async def _send_unsent(self) -> None:
        """Send the rest of `send_later`, unless the backend responds before it has read that."""
        assert self.unsent is not None, "checked before"
        try:
            self.unsent = await self.send_rest(self.unsent, silence_s=self._silence_s)
        except OSError:
            self.reset = self.readable = True

    async def send_rest(self, data: memoryview, *, silence_s: float) -> memoryview | None:
        """Send *data*, the rest of a send that the backend did not accept; otherwise as `send`."""
        client = self._client
        while data:
            if client.peer_closed:
                raise ClientGoneError
            if self.readable:
                if not self.connected:
                    self._raise_if_refused()
                return data
            self.interest = WRITABLE | READABLE | PEER_CLOSED
            client.interest = PEER_CLOSED
            try:
                await pause()
            finally:
                self.interest = client.interest = 0
            with contextlib.suppress(BlockingIOError):
                sent = self._send(data)
                data = data[sent:]
                self.connected = True
                client.fiber.expire_in(silence_s)
        return None

    def _raise_if_refused(self) -> None:
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))


def connect(loop: EventLoop, client: ClientSocket, host: str, port: int) -> UpstreamSocket:
    """Return a connection for *client* that may still be in progress; a send on it waits.

    Args:
        loop: Runs the connections.
        client: The client that it is for.
        host: An address, or the path of a Unix socket.
        port: The port; of no meaning for a path.

    Raises:
        OSError: if the port is closed (a send may raise it instead).
        ExhaustedError: if no file descriptor is left for it.
    """
    if not loop.has_room():
        raise _exhausted(os.strerror(errno.EMFILE))
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        is_path = host.startswith("/")
        if is_path:
            family = socket.AF_UNIX
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as exc:
        _raise_if_exhausted(exc)
        raise
    try:
        if is_path:
            connection.connect(host)  # at once, or never: there is no handshake
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with contextlib.suppress(BlockingIOError):  # EINPROGRESS: the normal case
                connection.connect((host, port))
        return UpstreamSocket(loop, connection, client)
    except OSError as exc:
        connection.close()
        _raise_if_exhausted(exc)
        raise
