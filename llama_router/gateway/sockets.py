"""Moving bytes on raw non-blocking sockets.

Trio's streams cost a reschedule and several objects per operation; with
`trio.lowlevel.wait_readable` a chunk costs half. Everything that touches a socket
of the data plane is here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from http import HTTPStatus
from typing import Final

import trio

from ..errors import RouterError

#: Most bytes taken from a socket at once. More would only raise the memory that a
#: slow reader can hold; the kernel's loopback segments are this size.
RECEIVE_BYTES: Final = 64 * 1024

#: Errors that say that this process, or the machine, has too much open.
EXHAUSTED: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

#: How long a closing connection may take to read what was sent, in seconds.
LINGER_S: Final = 2.0

_wait_readable = trio.lowlevel.wait_readable
_wait_writable = trio.lowlevel.wait_writable


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
        raise ExhaustedError(
            f"the router cannot open one more connection: {exc.strerror}; raise its limit of "
            "open files (ulimit -n, LimitNOFILE=)"
        ) from exc


class Progress:
    """Ends its scope when nothing moved for a while.

    Entering a deadline into Trio costs microseconds, so it is renewed only when a
    sixteenth of it has passed.
    """

    __slots__ = ("_renew_s", "_timeout_s", "scope")

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        now_s = trio.current_time()
        self.scope = trio.CancelScope(deadline=now_s + timeout_s)
        self._renew_s = now_s + timeout_s / 16

    def note(self) -> None:
        """Note that something moved."""
        now_s = trio.current_time()
        if now_s > self._renew_s:
            self.scope.deadline = now_s + self._timeout_s
            self._renew_s = now_s + self._timeout_s / 16


class Client:
    """One client's connection.

    Attributes:
        socket: Non-blocking, with Nagle's algorithm off.
    """

    __slots__ = ("_hangup", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._hangup: select.epoll | None = None

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty means that the client closed."""
        while True:
            await _wait_readable(self.socket)
            try:
                return self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*.

        Raises:
            ClientGoneError: if the client closed.
        """
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            raise ClientGoneError from exc
        if sent < len(data):
            try:
                await send_rest(self.socket, memoryview(data)[sent:])
            except OSError as exc:
                raise ClientGoneError from exc

    def watch(self) -> select.epoll:
        """Return an epoll that becomes readable when the client hangs up.

        Its own epoll, because Trio's cannot wait for a hang-up alone: with a pipelined
        request in the socket it would always report "readable".

        Raises:
            ExhaustedError: if there is no file descriptor left for it.
        """
        if self._hangup is None:
            try:
                self._hangup = select.epoll()
            except OSError as exc:
                _raise_if_exhausted(exc)
                raise
            self._hangup.register(self.socket, select.EPOLLRDHUP)
        return self._hangup

    async def hung_up(self) -> None:
        """Return when the client has hung up."""
        hangup = self.watch()
        while not hangup.poll(0):
            await _wait_readable(hangup)

    async def linger(self) -> None:
        """Close, but let the client read the last answer first.

        Closing with unread bytes in the socket would reset the connection and destroy
        an error answer that is still on its way. Source: RFC 9112, section 9.6.
        """
        with contextlib.suppress(OSError), trio.move_on_after(LINGER_S):
            self.socket.shutdown(socket.SHUT_WR)
            while await self.receive():
                pass
        self.close()

    def close(self) -> None:
        """Close; safe to call twice."""
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        self.socket.close()

    def release(self) -> socket.socket:
        """Give the socket away, to be served by somebody else."""
        if self._hangup is not None:
            self._hangup.close()
            self._hangup = None
        return self.socket


class Upstream:
    """One connection to a backend, while one client's exchange uses it.

    Attributes:
        socket: Non-blocking, with Nagle's algorithm off.
        reused: Whether an earlier exchange used it, so that it may be stale.
    """

    __slots__ = ("_client_fd", "_epoll", "reused", "socket")

    def __init__(self, connection: socket.socket, client: Client, *, reused: bool) -> None:
        self.socket = connection
        self.reused = reused
        self._client_fd = client.socket.fileno()
        self._epoll = client.watch()
        self._epoll.register(connection, select.EPOLLIN)

    async def receive(self) -> bytes:
        """Wait for bytes and return them; empty means that the backend closed.

        Raises:
            ClientGoneError: if the client hung up meanwhile.
        """
        while True:
            await _wait_readable(self._epoll)
            for fd, _ in self._epoll.poll(0):
                if fd == self._client_fd:
                    raise ClientGoneError
            try:
                return self.socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    async def send(self, data: bytes | bytearray) -> None:
        """Send all of *data*.

        Raises:
            OSError: if the backend closed.
        """
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            await send_rest(self.socket, memoryview(data)[sent:])

    def detach(self) -> socket.socket:
        """End the exchange's use; the connection itself lives on."""
        self._epoll.unregister(self.socket)
        return self.socket

    def close(self) -> None:
        """End the exchange's use and the connection."""
        with contextlib.suppress(OSError, ValueError):
            self._epoll.unregister(self.socket)
        self.socket.close()


async def send_rest(connection: socket.socket, data: memoryview) -> None:
    """Send *data* as fast as the peer takes it.

    Raises:
        OSError: if the peer closed.
    """
    while data:
        await _wait_writable(connection)
        with contextlib.suppress(BlockingIOError):
            data = data[connection.send(data) :]


async def connect(host: str, port: int) -> socket.socket:
    """Return a new connection; takes no time-out, the caller sets the deadline.

    Raises:
        OSError: if nobody listens there.
        ExhaustedError: if there is no file descriptor left for it.
    """
    try:
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as exc:
        _raise_if_exhausted(exc)
        raise
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = connection.connect_ex((host, port))
        if error == errno.EINPROGRESS:
            await _wait_writable(connection)
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        connection.close()
        raise
    if error:
        connection.close()
        raise OSError(error, os.strerror(error))
    return connection
