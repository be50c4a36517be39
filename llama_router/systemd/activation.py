"""Sockets that systemd opened for the router (socket activation).

Source: sd_listen_fds(3), systemd 252.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

import attrs

from ..errors.base import RouterError

#: The first descriptor that is passed (``SD_LISTEN_FDS_START``).
FIRST_FD: Final = 3

#: The most descriptors that a unit can pass; a larger number is not of systemd.
MAX_FDS: Final = 1024

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class ActivationError(RouterError):
    """A descriptor that systemd passed is no listening stream socket."""

    code = "activation_failed"


@attrs.frozen
class Activated:
    """Sockets that systemd passed.

    Attributes:
        listeners: Listening, non-blocking, not inherited by other programs.
        names: ``FileDescriptorName=`` of each.
    """

    listeners: tuple[socket.socket, ...]
    names: tuple[str, ...]


def take_listeners(environ: Mapping[str, str], pid: int) -> Activated | None:
    """Return the sockets that were passed to process *pid*, or None if there are none.

    The caller owns them, so this may be called once only.

    Raises:
        ActivationError: if a descriptor is no listening stream socket.
    """
    if environ.get("LISTEN_PID") != str(pid):  # they are for another process
        return None
    written = environ.get("LISTEN_FDS", "")
    if not written.isascii() or not written.isdecimal() or int(written) > MAX_FDS:
        raise ActivationError(f"LISTEN_FDS={written!r} is not a number of file descriptors")
    if (number := int(written)) == 0:
        return None
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += ["unknown"] * (number - len(names))
    descriptors = range(FIRST_FD, FIRST_FD + number)
    taken: list[socket.socket] = []
    try:
        for descriptor, name in zip(descriptors, names, strict=False):
            taken.append(_take(descriptor, name))
    except ActivationError:
        for listener in taken:
            listener.close()
        raise
    return Activated(tuple(taken), tuple(names[:number]))


def _take(descriptor: int, name: str) -> socket.socket:
    """Return the socket of *descriptor*, non-blocking and not inheritable.

    Raises:
        ActivationError: if it is no listening stream socket.
    """
    try:
        os.set_inheritable(descriptor, False)
        listener = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ActivationError(
            f"file descriptor {descriptor} ({name}), passed by systemd, is not a socket: "
            f"{exc.strerror}"
        ) from exc
    listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family not in _FAMILIES or listener.type != socket.SOCK_STREAM or not listens:
        listener.detach()
        raise ActivationError(
            f"file descriptor {descriptor} ({name}), passed by systemd, is not a listening stream "
            "socket: the socket unit needs ListenStream= and Accept=no"
        )
    listener.setblocking(False)
    return listener
