"""Allocation of TCP ports for backends: the lowest free ones."""

from __future__ import annotations

import errno
import secrets
import socket
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ..errors.backends import SpawnError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_LAST_PORT = 65535

#: The addresses on which a port must be free. A server on the wildcard address may conflict
#: with one on the loopback address, and on some systems IPv6 with IPv4.
_PROBED = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),  # noqa: S104 -- bound for an instant, never listened on
    (socket.AF_INET6, "::"),
)

#: This machine has no such address, so no process can hold it.
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

#: Another process has the port, or it is reserved.
_TAKEN = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}


class Ports:
    """The ports from *base_port* up, each allocated to one holder at a time.

    A port is probed when it is allocated. Another process may still take it before the
    backend's own ``bind``, above all another router, which allocates the lowest ports, too. So
    the owner of the listening socket must be checked after that.

    Args:
        base_port: The first port to try.
        excluded: Ports that are never allocated, such as the router's own.
    """

    def __init__(self, base_port: int, excluded: Collection[int] = ()) -> None:
        self._base_port = base_port
        self._excluded = frozenset(excluded)
        self._held: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """The allocated ports."""
        return frozenset(self._held)

    def acquire(self, avoided: Collection[int] = (), *, spread: int = 1) -> int:
        """Return the lowest port that is not allocated, not excluded and not in use.

        A port with connections in TIME_WAIT is in use. Takes about 20 µs per port tried.

        Args:
            avoided: Further ports to skip.
            spread: Choose at random among this many of the lowest.

        Raises:
            SpawnError: if there is none up to 65535, or no socket to probe with.
        """
        skipped = self._held | self._excluded | set(avoided)
        ports = range(self._base_port, _LAST_PORT + 1)
        free = [*islice((p for p in ports if p not in skipped and _is_free(p)), spread)]
        if not free:
            raise SpawnError(f"no free TCP port between {self._base_port} and {_LAST_PORT}")
        port = secrets.choice(free)
        self._held.add(port)
        return port

    def release(self, port: int) -> None:
        """Free *port*; it may be allocated again at once.

        Raises:
            KeyError: if it was not allocated.
        """
        self._held.remove(port)

    @contextmanager
    def hold(self, avoided: Collection[int] = (), *, spread: int = 1) -> Iterator[int]:
        """Hold a port for the length of a ``with`` block; see `acquire`.

        Raises:
            SpawnError: see `acquire`.
        """
        port = self.acquire(avoided, spread=spread)
        try:
            yield port
        finally:
            self.release(port)


def _is_free(port: int) -> bool:
    """Return whether *port* can be bound on all of `_PROBED`.

    Raises:
        SpawnError: if no socket can be made.
    """
    for family, host in _PROBED:
        try:
            # No SO_REUSEADDR: it would hide connections in TIME_WAIT.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((host, port))
        except OSError as exc:
            if exc.errno in _TAKEN:
                return False
            if exc.errno not in _NO_SUCH_ADDRESS:
                raise SpawnError(f"cannot probe TCP port {port}: {exc.strerror}") from exc
    return True
