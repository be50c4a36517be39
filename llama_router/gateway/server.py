"""The listening sockets, and the accept loop."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from ..core.config.exposure import without_brackets
from ..errors.base import RouterError
from ..logs.events import log
from .connection import serve_connection
from .gateway import Gateway
from .sockets import EXHAUSTED

#: Connections that the kernel queues while the router is busy.
BACKLOG: Final = 1024

#: Connections that are accepted before other tasks run. Most bring a request along, which is
#: started at once.
ACCEPTED_AT_ONCE: Final = 16

#: Share of the allowed connections that may be clients'; the others are to backends.
CLIENTS_SHARE: Final = 0.75

#: Pause after running out of file descriptors, in seconds: the next accept would fail too
#: until a connection ends.
EXHAUSTED_PAUSE_S: Final = 0.1


class ListenError(RouterError):
    """The listening address cannot be used."""

    code = "listen_failed"


def listen(host: str, port: int, *, replacing: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Return a listening socket for every address of *host*.

    Args:
        host: The address, or a name that resolves to addresses.
        port: 0 selects any free one.
        replacing: Sockets of this router, still listening, that may conflict with the new
            ones: ``0.0.0.0`` is every address.

    Raises:
        ListenError: if an address is taken or does not exist; the message names the settings.
    """
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(
                without_brackets(host), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        ):
            where = (str(address[0]), listeners[0].getsockname()[1] if listeners else port)
            listeners.append(_listener(family, where, replacing))
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
    family: int, where: tuple[str, int], replacing: Sequence[socket.socket]
) -> socket.socket:
    """Return one listening socket.

    Raises:
        OSError: if the address is taken, or does not exist.
    """
    if not replacing:
        listener = socket.create_server(where, family=family, backlog=BACKLOG)
        listener.setblocking(False)
        return listener
    # Both sockets must allow each other. Not from the start: two routers with one address
    # would not detect each other. Source: socket(7).
    for old in replacing:
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
        for old in replacing:
            if old.family in (socket.AF_INET, socket.AF_INET6):
                old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listener


class ListenerSet:
    """The listening sockets of a router; they can be replaced while it runs.

    Attributes:
        sockets: The sockets in use.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._changed = trio.Event()

    def replace(self, sockets: list[socket.socket]) -> None:
        """Listen on *sockets* from now on. Existing connections stay."""
        if self._changed.is_set():
            self.close()  # these were never used
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
                        # Accepted sockets inherit it. Source: tcp(7) and the kernel's accept.
                        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    accepting.start_soon(_accept, gateway, listener)
                await self._changed.wait()
                for listener in sockets:
                    with contextlib.suppress(OSError):  # accept the connections already queued
                        _accept_queued(gateway, listener, BACKLOG)
                accepting.cancel_scope.cancel()


async def serve(
    gateway: Gateway,
    listeners: ListenerSet,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until ``gateway.draining`` is set; return when all have ended.

    The sockets are closed as soon as draining begins, so that clients connect elsewhere.
    """
    async with trio.open_nursery() as tasks, trio.open_nursery() as services:
        gateway.tasks = tasks
        await services.start(gateway.loop.run)
        async with trio.open_nursery() as accepting:
            accepting.start_soon(listeners.run, gateway)
            task_status.started()
            await gateway.draining.wait()
            accepting.cancel_scope.cancel()
        await gateway.loop.wait_idle()
        services.cancel_scope.cancel()


async def _accept(gateway: Gateway, listener: socket.socket) -> None:
    exhausted = False
    with listener:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                _accept_queued(gateway, listener, ACCEPTED_AT_ONCE)
            except OSError as exc:
                if exc.errno in EXHAUSTED:
                    if not exhausted:
                        exhausted = True
                        log.error("connection.delayed", reason=exc.strerror)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                # else only this client left again
            else:
                exhausted = False


def _accept_queued(gateway: Gateway, listener: socket.socket, max_connections: int) -> None:
    """Accept the queued connections, *max_connections* at most.

    Raises:
        OSError: if accepting fails, for one client or for all.
    """
    for _ in range(max_connections):
        if not gateway.loop.has_room(CLIENTS_SHARE, others=gateway.handed_over):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        gateway.loop.start(partial(serve_connection, gateway, connection))
