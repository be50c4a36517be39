"""The accept loop."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog
import trio

from ..errors.base import RouterError
from .connection import serve_connection
from .gateway import Gateway
from .sockets import EXHAUSTED

log = structlog.get_logger()

#: Connections that the kernel keeps for us while we are busy.
BACKLOG: Final = 1024

#: Connections that are accepted before others get their turn. Most bring a request along,
#: which is begun at once.
ACCEPTED_AT_ONCE: Final = 16

#: Of the connections that there may be, so many may be clients'; the others are to backends.
CLIENTS_SHARE: Final = 0.75

#: Pause after running out of file descriptors, in seconds: until a connection ends,
#: accepting again would fail again.
EXHAUSTED_PAUSE_S: Final = 0.1


class ListenError(RouterError):
    """The address to listen on cannot be used."""

    code = "listen_failed"


def listen(
    host: str, port: int, *, instead_of: Sequence[socket.socket] = ()
) -> list[socket.socket]:
    """Return a listening socket for every address of *host*.

    Args:
        host: The address, or a name that has some.
        port: 0 takes any free one.
        instead_of: Our own sockets, still listening, that may be in the way of the new
            ones: ``0.0.0.0`` is every address.

    Raises:
        ListenError: if an address is taken or does not exist; with what to do.
    """
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            where = (str(address[0]), listeners[0].getsockname()[1] if listeners else port)
            listeners.append(_listener(family, where, instead_of))
    except (OSError, OverflowError, UnicodeError) as exc:
        for listener in listeners:
            listener.close()
        in_use = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        hint = "; another program listens there" if in_use else ""
        reason = (exc.strerror if isinstance(exc, OSError) else None) or exc
        raise ListenError(
            f"cannot listen on {host} port {port}: {reason}{hint} "
            "(router.host and router.port in router.toml)"
        ) from exc
    return listeners


def _listener(
    family: int, where: tuple[str, int], instead_of: Sequence[socket.socket]
) -> socket.socket:
    """Return one listening socket.

    Raises:
        OSError: if the address is taken, or does not exist.
    """
    if not instead_of:
        listener = socket.create_server(where, family=family, backlog=BACKLOG)
        listener.setblocking(False)
        return listener
    # Both sides must allow the other. Not from the start: two routers with one address
    # would not notice each other. Source: socket(7).
    for old in instead_of:
        if old.family in (socket.AF_INET, socket.AF_INET6):
            old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except BaseException:
        listener.close()
        raise
    finally:
        for old in instead_of:
            if old.family in (socket.AF_INET, socket.AF_INET6):
                old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listener


class ListenerSet:
    """The listening sockets of a router; others can take their place while it runs.

    Attributes:
        sockets: Those in use.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._changed = trio.Event()

    def exchange(self, sockets: list[socket.socket]) -> None:
        """Listen on *sockets* from now on. Connections that exist are not touched."""
        if self._changed.is_set():
            self.close()  # these never came into use
        self.sockets = sockets
        self._changed.set()

    def close(self) -> None:
        """Close the sockets in use."""
        for listener in self.sockets:
            listener.close()

    async def run(self, gateway: Gateway) -> None:
        """Accept connections until cancelled."""
        while True:
            self._changed = trio.Event()
            sockets = self.sockets
            async with trio.open_nursery() as accepting:
                for listener in sockets:
                    if listener.family in (socket.AF_INET, socket.AF_INET6):
                        # Connections inherit it. Source: tcp(7) and the kernel's accept.
                        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    accepting.start_soon(_accept, gateway, listener)
                await self._changed.wait()
                for listener in sockets:
                    with contextlib.suppress(OSError):  # else: who knocked already comes in
                        _take(gateway, listener, BACKLOG)
                accepting.cancel_scope.cancel()


async def serve(
    gateway: Gateway,
    doors: ListenerSet,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until ``gateway.draining`` is set; return when all have ended.

    The sockets are closed as soon as draining begins, so that clients turn elsewhere.
    """
    async with trio.open_nursery() as tasks, trio.open_nursery() as services:
        gateway.tasks = tasks
        await services.start(gateway.engine.run)
        async with trio.open_nursery() as accepting:
            accepting.start_soon(doors.run, gateway)
            task_status.started()
            await gateway.draining.wait()
            accepting.cancel_scope.cancel()
        await gateway.engine.wait_idle()
        services.cancel_scope.cancel()


async def _accept(gateway: Gateway, listener: socket.socket) -> None:
    exhausted = False
    with listener:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                _take(gateway, listener, ACCEPTED_AT_ONCE)
            except OSError as exc:
                if exc.errno in EXHAUSTED:
                    if not exhausted:
                        exhausted = True
                        log.error("connection.delayed", reason=exc.strerror)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                # else this one client left already
            else:
                exhausted = False


def _take(gateway: Gateway, listener: socket.socket, most: int) -> None:
    """Accept who is waiting, up to that many.

    Raises:
        OSError: if accepting fails, for one client or altogether.
    """
    for _ in range(most):
        if not gateway.engine.has_room(CLIENTS_SHARE, besides=gateway.handed_over):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        gateway.engine.start(partial(serve_connection, gateway, connection))
