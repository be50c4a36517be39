"""journald's native protocol: entries with a field for each fact.

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

#: Where journald listens.
SOCKET_PATH: Final = "/run/systemd/journal/socket"

# journald keeps no field with a longer name.
_NAME_CHARS: Final = 64

# Bytes that may wait in the socket; what sd_journal_send asks for, too.
_SEND_BUFFER_BYTES: Final = 8 * 2**20

_NOT_IN_A_NAME: Final = re.compile(r"[^A-Z0-9_]")

# journald takes a file only if nobody can change it any more.
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_connected(descriptor: int | None, environ: Mapping[str, str]) -> bool:
    """Say whether what is written to *descriptor* goes to the journal, as systemd promises."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if descriptor is None or not colon:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def field_name(name: str) -> str:
    """Return *name* as journald takes it: capitals, digits, ``_``, and not that first."""
    return _NOT_IN_A_NAME.sub("_", name.upper()).lstrip("_")[:_NAME_CHARS]


def encode(fields: Mapping[str, str]) -> bytes:
    """Return *fields*, whose names fit, as one entry. No value can add another field."""
    entry = bytearray()
    for name, text in fields.items():
        value = text.encode("utf-8", "backslashreplace")
        if b"\n" in value:
            entry += name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
        else:
            entry += name.encode() + b"=" + value + b"\n"
    return bytes(entry)


class Journal:
    """A connection to journald; each entry is a datagram. Outlives a restart of journald."""

    def __init__(self, path: str = SOCKET_PATH) -> None:
        """Prepare to send to the socket at *path*.

        Raises:
            OSError: if there can be no socket.
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
        """Send what is too large for a datagram: a sealed file in memory, by its descriptor."""
        file = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            rest = memoryview(entry)
            while rest:
                rest = rest[os.write(file, rest) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
            self._socket.sendmsg([b""], [rights], 0, self._path)
        finally:
            os.close(file)
