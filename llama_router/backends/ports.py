"""Giving out TCP ports for backends: the lowest that nobody uses."""

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

#: Where a port must be free. A server on the wildcard address takes the port from one on
#: the loopback address, and on some systems IPv6 takes it from IPv4.
_PROBED = (
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET, "0.0.0.0"),  # noqa: S104 -- bound for an instant, never listened on
    (socket.AF_INET6, "::"),
)

#: There is no such address on this machine, so nobody can hold it.
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}

#: Somebody has the port, or it is reserved.
_TAKEN = {errno.EADDRINUSE, errno.EACCES, errno.EPERM}


class Ports:
    """The ports from *base_port* up, each given to one holder at a time.

    A port is probed when it is given out. Between then and the backend's own ``bind``
    somebody else may still take it, another router above all, which looks for the lowest
    port, too: who connects must check who answers.

    Args:
        base_port: The first port to try.
        excluded: Ports never given out, such as the router's own.
    """

    def __init__(self, base_port: int, excluded: Collection[int] = ()) -> None:
        self._base_port = base_port
        self._excluded = frozenset(excluded)
        self._held: set[int] = set()

    @property
    def held(self) -> frozenset[int]:
        """The ports that are given out."""
        return frozenset(self._held)

    def acquire(self, avoided: Collection[int] = (), *, spread: int = 1) -> int:
        """Return the lowest port that is not given out, not excluded and not in use.

        A port with connections in TIME_WAIT is in use. Takes about 20 µs per port tried.

        Args:
            avoided: Further ports that are not wanted.
            spread: Choose by chance among so many of the lowest.

        Raises:
            SpawnError: if there is none up to 65535, or no socket to probe with.
        """
        unwanted = self._held | self._excluded | set(avoided)
        ports = range(self._base_port, _LAST_PORT + 1)
        free = [*islice((p for p in ports if p not in unwanted and _is_free(p)), spread)]
        if not free:
            raise SpawnError(f"no free TCP port between {self._base_port} and {_LAST_PORT}")
        port = secrets.choice(free)
        self._held.add(port)
        return port

    def release(self, port: int) -> None:
        """Take *port* back; it may be given out again at once.

        Raises:
            KeyError: if it was not given out.
        """
        self._held.remove(port)

    @contextmanager
    def lease(self, avoided: Collection[int] = (), *, spread: int = 1) -> Iterator[int]:
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
    """Tell whether *port* can be bound on every address that matters.

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
