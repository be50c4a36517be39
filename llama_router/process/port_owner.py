"""The processes that listen on a TCP port, from /proc/net/tcp and the open files of processes.

Everything here blocks: call it on a thread. Linux only. Source: man page proc(5).
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from . import procfs

#: The ``st`` column of a listening socket in /proc/net/tcp.
_TCP_LISTEN = "0A"

_TCP_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def has_listener(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a process listens on *port*; False if that cannot be determined now."""
    try:
        return bool(listener_inodes(port, host))
    except OSError:  # too many files are open, for instance
        return False


def foreign_listener(port: int, pid: int, host: str = "127.0.0.1") -> str | None:
    """Describe a listener on *port* outside the tree of *pid*; None if there is none.

    A port may be shared: the kernel then divides the connections among its listeners.

    Args:
        port: TCP port.
        pid: The backend's process.
        host: The address that it listens on.

    Raises:
        OSError: if that cannot be determined now: too many files are open, for instance.
    """
    owners = listener_owner(port, host, (pid,))
    if owners == {pid}:
        return None
    foreign = owners - {pid} - procfs.descendants(pid) - procfs.session_members((pid,))
    if owners and not foreign:
        return None
    owner = f"process {min(foreign)}" if foreign else "a process of another user"
    return (
        f"port {port} is answered by {owner}, which does not belong to the backend (if it does, "
        "set check_port_owner = false)"
    )


def listener_inodes(port: int, host: str = "127.0.0.1") -> set[int]:
    """Return the sockets that listen on TCP *port* and would accept a connection to *host*.

    Args:
        port: TCP port.
        host: An IP address, not a name.

    Raises:
        OSError: if *host* is no IP address.
    """
    wanted = _accepting(host)
    for all_lines in (False, True):
        for_each_table = (
            _listeners(table, port, wanted, all_lines=all_lines) for table in _TCP_TABLES
        )
        if found := set[int]().union(*for_each_table):
            return found
    return set()


def listener_owner(port: int, host: str = "127.0.0.1", candidates: Iterable[int] = ()) -> set[int]:
    """Return the processes that hold the listening socket of *host*:*port*.

    Args:
        port: TCP port.
        host: An IP address, not a name.
        candidates: Processes to examine first. If they hold all listening sockets of the
            port, no other process is examined.

    Returns:
        Empty if there is no such socket, or if its owner belongs to another user.

    Raises:
        OSError: if *host* is no IP address.
    """
    wanted, candidates = _accepting(host), tuple(candidates)
    for table in _TCP_TABLES:  # one by one: reading the second takes a millisecond
        inodes = _listeners(table, port, wanted)
        found = _holders(inodes, candidates)
        if inodes and inodes == set[int]().union(*found.values()):
            return set(found)
    inodes = listener_inodes(port, host)
    return set(_holders(inodes, procfs.all_pids())) if inodes else set()


def listening_addresses(pid: int) -> tuple[str, ...]:
    """Return the TCP addresses on which *pid* and its descendants listen, as in a URL.

    Empty if that cannot be determined.
    """
    addresses: dict[int, str] = {}
    for table in _TCP_TABLES:
        with suppress(OSError, ValueError, IndexError), Path(table).open(encoding="ascii") as lines:
            next(lines, None)  # the headline
            for fields in map(str.split, lines):
                if fields[3] == _TCP_LISTEN:
                    addresses[int(fields[9])] = _written(fields[1])
    pids = {pid, *procfs.descendants(pid), *procfs.session_members((pid,))}
    held = _holders(set(addresses), pids).values()
    return tuple(sorted({addresses[inode] for inode in set[int]().union(*held)}))


def _written(address: str) -> str:
    """Return an address and port of /proc/net/tcp as in a URL."""
    host, _, port = address.partition(":")
    packed = _address(host)
    if len(packed) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, packed)}:{int(port, 16)}"
    return f"[{socket.inet_ntop(socket.AF_INET6, packed)}]:{int(port, 16)}"


def _accepting(host: str) -> set[bytes]:
    """Return the addresses on which a socket gets connections to *host*, in network order."""
    if ":" in host:
        return {socket.inet_pton(socket.AF_INET6, host), bytes(16)}
    # An IPv6 socket accepts IPv4 connections: on ::, or on the mapped address.
    address = socket.inet_pton(socket.AF_INET, host)
    return {address, bytes(4), bytes(10) + b"\xff\xff" + address, bytes(16)}


def _listeners(table: str, port: int, wanted: set[bytes], *, all_lines: bool = False) -> set[int]:
    """Return the sockets in *table* that listen on *port* of an address in *wanted*.

    Linux lists listeners first, and thousands of connections after them: those are read
    only with *all_lines*, in case a sandbox orders its table differently.
    """
    found: set[int] = set()
    try:
        with open(table, encoding="ascii") as lines:  # noqa: PTH123 -- quicker than pathlib
            next(lines, None)  # the headline
            for line in lines:
                fields = line.split()
                if fields[3] != _TCP_LISTEN:
                    if all_lines:
                        continue
                    break
                address, _, port_hex = fields[1].partition(":")
                if int(port_hex, 16) == port and _address(address) in wanted:
                    found.add(int(fields[9]))
    except FileNotFoundError:  # a kernel without IPv6
        pass
    return found


def _holders(inodes: set[int], pids: Iterable[int]) -> dict[int, set[int]]:
    """Return those of *pids* that hold any of the sockets *inodes*, each with these sockets."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found = {}
    for pid in pids if links else ():
        if held := {links[link] for link in _open_files(pid) if link in links}:
            found[pid] = held
    return found


def _open_files(pid: int) -> Iterator[str]:
    """Yield the targets of the file descriptors of *pid*, e.g. ``socket:[123]``."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- quicker than pathlib
    except OSError:  # gone, or of another user
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")  # noqa: PTH115 -- quicker than pathlib
        except OSError:
            continue


def _address(text: str) -> bytes:
    """Return an address of /proc/net/tcp (32-bit words in host order) in network order."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)
