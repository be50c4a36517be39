"""The listening sockets, and the accept loop."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Container, Sequence
from functools import partial
from typing import Final, TypeAlias

import attrs
import trio

from ..core.config.exposure import socket_path, split_address
from ..errors.base import RouterError
from ..logs.events import log
from .connection import serve_connection
from .gateway import Gateway
from .sockets import EXHAUSTED

#: The addresses that are every address of a family.
_EVERY: Final = ("0.0.0.0", "::")  # noqa: S104 -- nothing listens there by default

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


#: The address of clients of a Unix socket, which have none.
UNIX_PEER: Final = "unix"

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)

#: The name of this machine for itself, and the addresses that it means.
_LOCALHOST: Final = "localhost"
_LOOPBACK: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

#: Permissions of the files of UNIX sockets.
_SOCKET_MODE: Final = 0o660

_Where: TypeAlias = tuple[int, str, int]
"""Family, IP address and port of a socket."""


@attrs.frozen
class Opened:
    """Listening sockets that were just opened.

    Attributes:
        sockets: One for each address.
        port: The port of the addresses that have none of their own.
    """

    sockets: list[socket.socket]
    port: int


def listen(
    addresses: Sequence[str], port: int, *, replacing: Sequence[socket.socket] = ()
) -> Opened:
    """Return a listening socket for each of *addresses*, and for each address of a name.

    Args:
        addresses: Addresses, or names that resolve to addresses, each perhaps with a port.
        port: The port of the others; 0 selects any free one.
        replacing: Sockets of this router, still listening, that may conflict with the new
            ones: ``0.0.0.0`` is every address. Those with a wanted address are in the result.

    Raises:
        ListenError: if an address is taken or does not exist; the message names the settings.
    """
    kept = {_where(old): old for old in replacing if old.family in _INTERNET}
    found: dict[_Where, socket.socket] = {}
    places: dict[socket.socket, int] = {}
    address = ""
    try:
        for place, address in sorted(enumerate(addresses), key=lambda each: _covers_none(each[1])):
            host, own_port = split_address(address)
            path = socket_path(address)
            if path is not None:
                listener = _kept_at(path, replacing) or UnixListener.at(path)
                places.setdefault(listener, place)
                continue
            for family, ip in _resolved(host):
                where = (family, ip, port if own_port is None else own_port)
                if _is_covered(where, found):
                    continue
                listener = kept.get(where) or _listener(where, replacing)
                found[_where(listener)], places[listener] = listener, place
                if own_port is None:
                    port = _where(listener)[2]  # the others get the same one
    except (OSError, OverflowError, UnicodeError) as exc:
        for listener in places:
            if listener not in replacing:
                listener.close()
        raise _listen_error(address, port, exc) from exc
    return Opened(sorted(places, key=lambda listener: places[listener]), port)


def _where(listener: socket.socket) -> _Where:
    ip, port, *_ = listener.getsockname()
    return listener.family, str(ip), int(port)


def _covers_none(address: str) -> bool:
    """Return whether *address* is a single one: those that cover others are opened first."""
    return split_address(address)[0] not in _EVERY


def _resolved(host: str) -> list[tuple[int, str]]:
    """Return family and IP address of each address of *host*.

    Raises:
        OSError: if there is none.
    """
    if host.lower() == _LOCALHOST:  # what a machine's list of names leaves out, clients still try
        return [(int(family), ip) for family, ip in _LOOPBACK if _has(family, ip)]
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((int(family), str(where[0])) for family, _, _, _, where in infos))


def _has(family: socket.AddressFamily, ip: str) -> bool:
    """Return whether this machine has the address *ip*; one without IPv6 has no ``::1``."""
    if family == socket.AF_INET:
        return True
    try:
        with socket.socket(family) as probe:
            probe.bind((ip, 0))
    except OSError:
        return False
    return True


def _kept_at(path: str, replacing: Sequence[socket.socket]) -> socket.socket | None:
    """Return the one of *replacing* that listens at *path*; None without one."""
    return next(
        (old for old in replacing if isinstance(old, UnixListener) and old.path == path), None
    )


class UnixListener(socket.socket):
    """A listening UNIX socket that removes its file when it is closed.

    Attributes:
        path: Its file.
    """

    path: str = ""
    _identity: tuple[int, int] | None = None

    @classmethod
    def at(cls, path: str) -> UnixListener:
        """Return a socket that listens at *path*; what a router that was killed left is replaced.

        Its group may connect, others may not: permissions say who uses the router there.

        Raises:
            OSError: if another program listens there, or the path cannot be used.
        """
        _remove_stale(path)
        listener = cls(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(path)
            listener.path = path
            found = os.stat(path)  # noqa: PTH116 -- its path is a text everywhere here
            listener._identity = found.st_dev, found.st_ino
            os.chmod(path, _SOCKET_MODE)  # noqa: PTH101 -- same
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def close(self) -> None:
        """Close it, and remove its file unless another one has taken its place."""
        super().close()
        if self._identity is not None:
            with contextlib.suppress(OSError):
                found = os.stat(self.path)  # noqa: PTH116 -- same
                if (found.st_dev, found.st_ino) == self._identity:
                    os.unlink(self.path)  # noqa: PTH108 -- same
            self._identity = None


def _remove_stale(path: str) -> None:
    """Remove the file of a socket at *path* on which nothing listens.

    Raises:
        OSError: if something listens, or the file is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # A full queue shows a listener, too.
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    os.unlink(path)  # noqa: PTH108 -- same


def _is_covered(where: _Where, found: Container[_Where]) -> bool:
    """Return whether *found* has *where*, or every address of its family with its port."""
    family, _, port = where
    return where in found or any((family, every, port) in found for every in _EVERY)


def _listen_error(address: str, port: int, exc: Exception) -> ListenError:
    host, own_port = split_address(address)
    port = port if own_port is None else own_port
    place = host if socket_path(address) is not None else f"{host} port {port}"
    in_use = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
    hint = "; another program listens there" if in_use else ""
    reason = (exc.strerror if isinstance(exc, OSError) else None) or exc
    return ListenError(
        f"cannot listen on {place}: {reason}{hint} (router.host and router.port in router.toml)"
    )


def _listener(where: _Where, replacing: Sequence[socket.socket]) -> socket.socket:
    """Return one listening socket.

    Raises:
        OSError: if the address is taken, or does not exist.
    """
    family, *address = where
    if not replacing:
        listener = socket.create_server(tuple(address), family=family, backlog=BACKLOG)
        listener.setblocking(False)
        return listener
    # Both sockets must allow each other. Not from the start: two routers with one address
    # would not detect each other. Source: socket(7).
    for old in replacing:
        if old.family in _INTERNET:
            old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(tuple(address))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    except BaseException:
        listener.close()
        raise
    finally:
        for old in replacing:
            if old.family in _INTERNET:
                old.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return listener


class ListenerSet:
    """The listening sockets of a router; they can be replaced while it runs.

    Attributes:
        sockets: The sockets in use.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.sockets = sockets
        self._accepting: dict[socket.socket, trio.CancelScope] = {}
        self._changed = trio.Event()

    def replace(self, sockets: list[socket.socket]) -> None:
        """Listen on *sockets* from now on. Existing connections stay."""
        for listener in self.sockets:
            if listener not in sockets and listener not in self._accepting:
                listener.close()  # it was never used
        self.sockets = sockets
        self._changed.set()

    def close(self) -> None:
        """Close the sockets in use."""
        for listener in self.sockets:
            listener.close()

    async def run(self, gateway: Gateway) -> None:
        """Accept connections until cancelled."""
        async with trio.open_nursery() as accepting:
            while True:
                self._changed = trio.Event()
                for listener in [each for each in self._accepting if each not in self.sockets]:
                    with contextlib.suppress(OSError):  # accept the connections already queued
                        _accept_queued(gateway, listener, BACKLOG)
                    self._accepting.pop(listener).cancel()
                for listener in self.sockets:
                    if listener in self._accepting:
                        continue
                    if listener.family in _INTERNET:
                        # Accepted sockets inherit it. Source: tcp(7) and the kernel's accept.
                        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self._accepting[listener] = trio.CancelScope()
                    accepting.start_soon(_accept, gateway, listener, self._accepting[listener])
                await self._changed.wait()


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


async def _accept(gateway: Gateway, listener: socket.socket, scope: trio.CancelScope) -> None:
    exhausted = False
    with listener, scope:
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
            connection, address = listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        peer = address[0] if address and listener.family in _INTERNET else UNIX_PEER
        gateway.loop.start(partial(serve_connection, gateway, connection, peer))
