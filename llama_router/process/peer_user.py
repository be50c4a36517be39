"""The user whose process has the other end of a TCP connection within this machine.

Linux only. Source: man page proc(5), Documentation/networking/proc_net_tcp.rst.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

#: The tables of TCP sockets of this network namespace.
_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")

#: Size of one read of a table, in bytes. Lines have 150.
_CHUNK_BYTES: Final = 256 * 1024

#: What the kernel reports for users that are not known in this namespace.
_OVERFLOW: Final = Path("/proc/sys/kernel/overflowuid")


def user_of_peer(here: tuple[str, int], there: tuple[str, int]) -> int | None:
    """Return the id of the user that opened the socket at the other end. Blocks on files.

    Args:
        here: Address and port of the connection's own end.
        there: Address and port of its other end.

    Returns:
        None if that is not a socket of this machine, if it is no longer connected, or if its
        user does not exist in the namespace of this process.
    """
    if not (_is_loopback(here[0]) and _is_loopback(there[0])):
        return None
    ends = {_written(*there, mapped=mapped) for mapped in (False, True)}
    others = {_written(*here, mapped=mapped) for mapped in (False, True)}
    # Only an established connection (01) has a user: what is left of a closed one belongs to
    # user 0, whoever had opened it.
    wanted = re.compile(
        b"(?:%b) (?:%b) 01 [0-9A-F:]+ [0-9A-F:]+ [0-9A-F]+ +([0-9]+) "
        % (b"|".join(ends), b"|".join(others))
    )
    for table in _TABLES:
        found = _search(table, wanted)
        if found is not None:
            return None if found == _overflow_uid() else found
    return None


def router_users() -> frozenset[int]:
    """Return the users that may do everything to this process anyway: its own, and root."""
    return frozenset((os.getuid(), 0))


def _search(table: str, wanted: re.Pattern[bytes]) -> int | None:
    rest = b""
    with suppress(FileNotFoundError), open(table, "rb", buffering=0) as lines:  # noqa: PTH123 -- quicker than pathlib
        while chunk := lines.read(_CHUNK_BYTES):
            whole, newline, rest = (rest + chunk).rpartition(b"\n")
            if newline and (found := wanted.search(whole)) is not None:
                return int(found[1])
    return None


def _overflow_uid() -> int | None:
    try:
        return int(_OVERFLOW.read_text("ascii"))
    except (OSError, ValueError):
        return 65534


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _written(host: str, port: int, *, mapped: bool) -> bytes:
    """Return an address as the tables have it: 32-bit words in host order.

    Args:
        host: An IP address.
        port: Its port.
        mapped: Return an IPv4 address as one of IPv6, which an IPv6 socket has.
    """
    address = ipaddress.ip_address(host)
    inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else address
    packed = address.packed
    if isinstance(inner, ipaddress.IPv4Address):
        packed = bytes(10) + b"\xff\xff" + inner.packed if mapped else inner.packed
    words = (packed[at : at + 4] for at in range(0, len(packed), 4))
    text = b"".join(b"%08X" % int.from_bytes(word, sys.byteorder) for word in words)
    return b"%b:%04X" % (text, port)
