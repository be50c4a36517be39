"""What /proc says about processes: who is alive, who belongs to whom, who listens.

Standard library only and cheap to import, because the guardian (`guardian.py`) is made
of it. Every function tolerates processes that vanish while it looks. A zombie counts as
gone: its memory, files and devices are already released.

Linux only. Source: man pages proc(5), PR_SET_CHILD_SUBREAPER(2const).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in typing, which costs the guardian 1.5 MiB
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Environment variable that every process of one router's backends carries.
INSTANCE_VARIABLE = "LLAMA_ROUTER_INSTANCE"

#: Environment variable that every process of one backend carries.
BACKEND_VARIABLE = "LLAMA_ROUTER_BACKEND"

_MARKER_VARIABLES = {INSTANCE_VARIABLE.encode(), BACKEND_VARIABLE.encode()}

#: Positions in /proc/PID/stat behind the name: size of the address space, and where the
#: environment ends in it.
_VSIZE = 20
_ENV_END = 48

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37

#: The ``st`` column of a listening socket in /proc/net/tcp.
_TCP_LISTEN = "0A"

_TCP_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


class Stat:
    """One process, as /proc/PID/stat describes it.

    Attributes:
        pid: Process id.
        ppid: Its parent.
        pgrp: Its process group.
        session: Its session: the pid of the process that called ``setsid``.
        start_time: Clock ticks since boot when it started; with *pid* it names a
            process for as long as the machine runs.
        gone: Whether it is only a zombie. False for a zombie leader whose other
            threads still run.
    """

    __slots__ = ("gone", "pgrp", "pid", "ppid", "session", "start_time")

    def __init__(self, pid: int, line: bytes) -> None:
        # The second field, the program's name in parentheses, may itself contain
        # spaces and parentheses; nothing after it does.
        fields = line[line.rindex(b")") + 2 :].split()
        self.pid = pid
        self.ppid = int(fields[1])
        self.pgrp = int(fields[2])
        self.session = int(fields[3])
        self.start_time = int(fields[19])
        threads = int(fields[17])
        self.gone = fields[0] in b"ZXx" and threads <= 1


def read_stat(pid: int) -> Stat | None:
    """Describe process *pid*; None if there is none, not even a zombie."""
    line = _read(f"/proc/{pid}/stat")
    return Stat(pid, line) if line else None


def start_time(pid: int) -> int | None:
    """Return when *pid* started, in clock ticks since boot; None if it is gone.

    A zombie still has a start time: its pid cannot be reused before it is reaped.
    """
    stat = read_stat(pid)
    return None if stat is None else stat.start_time


def state(pid: int) -> str | None:
    """Return the state letter of *pid* (``R``, ``S``, ``D``, ``Z``, ...); None if it is gone."""
    line = _read(f"/proc/{pid}/stat")
    return chr(line[line.rindex(b")") + 2]) if line else None


def alive(pid: int, started: int) -> bool:
    """Tell whether the process *pid* that started at *started* runs and is no zombie."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == started and not stat.gone


def all_pids() -> list[int]:
    """Return every process id that this process can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 -- pathlib costs the guardian memory


def snapshot() -> dict[int, Stat]:
    """Describe every process, zombies included. Takes about 10 µs per process."""
    return {stat.pid: stat for pid in all_pids() if (stat := read_stat(pid)) is not None}


def session_members(sids: Iterable[int]) -> set[int]:
    """Return the live processes whose session is one of *sids*."""
    wanted = frozenset(sids)
    return {pid for pid, stat in snapshot().items() if stat.session in wanted and not stat.gone}


def children(pid: int) -> set[int]:
    """Return the children of *pid*, zombies included.

    Where the kernel lists them, this costs one small file per thread of *pid*. That list
    may miss one while another child is just exiting: to be sure, look twice.
    """
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 -- see all_pids
    except OSError:
        return set()
    found: set[int] = set()
    for thread in threads:
        content = _read(f"/proc/{pid}/task/{thread}/children")
        if content is None and not _kernel_lists_children():
            return {stat.pid for stat in snapshot().values() if stat.ppid == pid}
        found.update(map(int, (content or b"").split()))
    return found


def descendants(pid: int) -> set[int]:
    """Return the live children of *pid*, their children, and so on; without *pid* itself.

    A process whose parent died is no longer a descendant, except of its subreaper.
    """
    found: set[int] = set()
    ahead = [pid]
    while ahead:
        fresh = children(ahead.pop()) - found
        found |= fresh
        ahead += fresh
    return {each for each in found if (stat := read_stat(each)) is not None and not stat.gone}


def markers_of(pid: int) -> frozenset[str] | None:
    """Return the values of the two marker variables in the environment of *pid*.

    Empty if the environment may not be read, was overwritten by the program (as
    setproctitle does) or is that of a zombie.

    None while it cannot be known: in the middle of ``execve`` the old environment is gone
    and the new one not there yet. That takes microseconds, or as long as the machine is
    busy with something else.
    """
    for _ in range(2):
        data = _read(f"/proc/{pid}/environ")
        if data is None:
            return frozenset()
        if data:
            break
        fields = (_read(f"/proc/{pid}/stat") or b"").rpartition(b")")[2].split()
        if not fields or fields[_VSIZE] == b"0":  # gone, a zombie or a kernel thread
            return frozenset()
        if fields[_ENV_END] == b"0":
            return None
        # It is really empty; or that was the very moment, and reading again will tell.
    else:
        return frozenset()
    found = set()
    for variable in data.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name in _MARKER_VARIABLES:
            found.add(os.fsdecode(value))
    return frozenset(found)


def marked(marker: str) -> set[int]:
    """Return the live processes that carry *marker* as instance or as backend."""
    return {pid for pid in all_pids() if marker in (markers_of(pid) or ())}


def boot_id() -> str:
    """Return the id of this boot; start times of another boot mean nothing.

    Raises:
        OSError: if /proc is not mounted.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 -- see all_pids
        return file.read().strip()


def adopt_orphans() -> bool:
    """Make this process the parent of every descendant that loses its own.

    Then nothing that a backend leaves behind can hide under init. The caller has to reap
    what it adopts.

    Returns:
        Whether the kernel agreed.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def adopts_orphans() -> bool:
    """Tell whether orphaned descendants become children of this process."""
    import ctypes  # noqa: PLC0415 -- the guardian does not need it

    if os.getpid() == 1:
        return True
    flag = ctypes.c_int(0)
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(flag)) == 0 and flag.value == 1


def listener_inodes(port: int, host: str = "127.0.0.1") -> set[int]:
    """Return the sockets that listen on TCP *port* and would accept a connection to *host*.

    Empty means that nobody listens there.

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
        candidates: Processes to look at first. If nobody else can hold it, because all
            sockets there are are theirs, no other process is looked at.

    Returns:
        Empty if nobody listens, or if the owner belongs to another user.

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
    return set(_holders(inodes, all_pids())) if inodes else set()


def _accepting(host: str) -> set[bytes]:
    """Return the addresses on which a socket gets connections to *host*, in network order."""
    import socket  # noqa: PLC0415 -- the guardian does not need it

    if ":" in host:
        return {socket.inet_pton(socket.AF_INET6, host), bytes(16)}
    # An IPv6 socket accepts IPv4 connections: on ::, or on the mapped address.
    address = socket.inet_pton(socket.AF_INET, host)
    return {address, bytes(4), bytes(10) + b"\xff\xff" + address, bytes(16)}


def _listeners(table: str, port: int, wanted: set[bytes], *, all_lines: bool = False) -> set[int]:
    """Return the sockets in *table* that listen on *port* of an address in *wanted*.

    Linux lists listeners first, and thousands of connections after them: those are read
    only with *all_lines*, in case that a sandbox orders its table differently.
    """
    found: set[int] = set()
    try:
        with open(table, encoding="ascii") as lines:  # noqa: PTH123 -- see all_pids
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
    """Return those of *pids* that hold any of the sockets *inodes*, and which."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found = {}
    for pid in pids if links else ():
        if held := {links[link] for link in _open_files(pid) if link in links}:
            found[pid] = held
    return found


def _kernel_lists_children() -> bool:
    """Tell whether this kernel has CONFIG_PROC_CHILDREN."""
    return _read("/proc/thread-self/children") is not None


def _open_files(pid: int) -> Iterator[str]:
    """Yield what the file descriptors of *pid* point to, e.g. ``socket:[123]``."""
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- see all_pids
    except OSError:  # gone, or another user's
        return
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")  # noqa: PTH115 -- see all_pids
        except OSError:
            continue


def _address(text: str) -> bytes:
    """Turn /proc/net/tcp's address (32-bit words in the machine's order) into network order."""
    words = (int(text[at : at + 8], 16) for at in range(0, len(text), 8))
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)


def _prctl(option: int, argument: int) -> int:
    import ctypes  # noqa: PLC0415 -- the guardian does not need it

    prctl = ctypes.CDLL(None).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    result: int = prctl(option, argument, 0, 0, 0)
    return result


def _read(path: str) -> bytes | None:
    """Return the content of a file under /proc; None if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 -- see all_pids
            return file.read()
    except OSError:
        return None
