"""journald's native protocol: encodes and sends entries with named fields.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/, and systemd.exec(5) for JOURNAL_STREAM.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Final

#: The socket of journald.
SOCKET_PATH: Final = "/run/systemd/journal/socket"

# journald drops a field with a longer name.
_NAME_CHARS: Final = 64

# Size of the send buffer of the socket; the same as in sd_journal_send.
_SEND_BUFFER_BYTES: Final = 8 * 2**20

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9_]")

# journald accepts a file only if it can no longer be changed.
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_connected(descriptor: int | None, environ: Mapping[str, str]) -> bool:
    """Return True if *descriptor* is the journal stream that systemd announced."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if descriptor is None or not colon:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def field_name(name: str) -> str:
    """Return *name* in journald's form: capitals, digits and ``_``, the latter not at the start."""
    return _NOT_IN_A_NAME.sub("_", name.upper()).lstrip("_")[:_NAME_CHARS]


def encode(fields: Mapping[str, str]) -> bytes:
    """Return *fields* as one entry; a value cannot add a field. The names must be valid."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)


class Journal:
    """A connection to journald; each entry is a datagram. It survives restarts of journald."""

    def __init__(self, path: str = SOCKET_PATH) -> None:
        """Create a socket for sending to *path*.

        Raises:
            OSError: if no socket can be created.
        """
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)

    def send(self, entry: bytes) -> None:
        """Send one entry; blocks while journald is busy.

        Raises:
            OSError: if it cannot be sent.
        """
        try:
            self._socket.sendto(entry, self._path)
        except OSError as exc:
            if exc.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_as_file(entry)

    def close(self) -> None:
        """Close the socket. Safe to call again."""
        self._socket.close()

    def _send_as_file(self, entry: bytes) -> None:
        """Send an entry that is too large for a datagram, as a sealed memory file."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(entry)
            while rest:
                written = os.write(file, rest)
                rest = rest[written:]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(file)
