"""The accept loop."""

from __future__ import annotations

import errno
import socket
from typing import Final

import structlog
import trio

from ..errors import RouterError
from .connection import Gateway
from .sockets import EXHAUSTED

log = structlog.get_logger()

#: Connections that the kernel keeps for us while we are busy.
BACKLOG: Final = 1024

#: Connections that are accepted before others get their turn.
ACCEPTED_AT_ONCE: Final = 64

#: Pause after running out of file descriptors, in seconds: until a connection ends,
#: accepting again would fail again.
EXHAUSTED_PAUSE_S: Final = 0.1


class ListenError(RouterError):
    """The address to listen on cannot be used."""

    code = "listen_failed"


def listen(host: str, port: int) -> list[socket.socket]:
    """Return a listening socket for every address of *host*.

    Raises:
        ListenError: if an address is taken or does not exist; with what to do.
    """
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            listener = socket.create_server(
                (address[0], listeners[0].getsockname()[1] if listeners else port),
                family=family,
                backlog=BACKLOG,
            )
            listener.setblocking(False)
            listeners.append(listener)
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


async def serve(
    gateway: Gateway,
    listeners: list[socket.socket],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Accept connections until ``gateway.draining`` is set; return when all have ended.

    The sockets are closed as soon as draining begins, so that clients turn elsewhere.
    """
    async with trio.open_nursery() as gateway.tasks, trio.open_nursery() as services:
        await services.start(gateway.engine.run)
        async with trio.open_nursery() as accepting:
            for listener in listeners:
                accepting.start_soon(_accept, gateway, listener)
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
                for _ in range(ACCEPTED_AT_ONCE):
                    connection, _address = listener.accept()
                    exhausted = False
                    connection.setblocking(False)
                    if connection.family in (socket.AF_INET, socket.AF_INET6):
                        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    gateway.serve(connection)
            except BlockingIOError:
                continue
            except OSError as exc:
                if exc.errno in EXHAUSTED:
                    if not exhausted:
                        exhausted = True
                        log.error("connection.delayed", reason=exc.strerror)
                    await trio.sleep(EXHAUSTED_PAUSE_S)
                # else this one client left already
