"""Reads processes from /proc: state, parent, session, children, markers. Ends none.

`treekill` kills with it, in any process; `process_tree` does so in the router. Standard library
only and cheap to import, because the guardian process (`guardian`) imports it. Every function
tolerates processes that end meanwhile. A zombie counts as gone: its memory, files and devices
are released already.

Linux only. Source: man pages proc(5), PR_SET_CHILD_SUBREAPER(2const).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in typing, which costs the guardian 1.5 MiB
if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Stat:
    """One process, as /proc/PID/stat describes it.

    Attributes:
        pid: Process id.
        ppid: Its parent.
        pgrp: Its process group.
        session: Its session: the pid of the process that called ``setsid``.
        start_time: Clock ticks since boot when it started; with *pid* it identifies a
            process for as long as the machine runs.
        gone: Whether it is only a zombie. False for a zombie leader with other threads
            that still run.
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
    """Return what /proc says of process *pid*; None if there is none, not even a zombie."""
    line = _read(f"/proc/{pid}/stat")
    return Stat(pid, line) if line else None


def start_time(pid: int) -> int | None:
    """Return the start time of *pid*, in clock ticks since boot; None if it is gone.

    A zombie still has a start time: its pid cannot be reused before it is reaped.
    """
    stat = read_stat(pid)
    return None if stat is None else stat.start_time


def state(pid: int) -> str | None:
    """Return the state letter of *pid* (``R``, ``S``, ``D``, ``Z``, ...); None if it is gone."""
    line = _read(f"/proc/{pid}/stat")
    return chr(line[line.rindex(b")") + 2]) if line else None


def alive(pid: int, started: int) -> bool:
    """Return whether the process *pid* that started at *started* runs and is no zombie."""
    stat = read_stat(pid)
    return stat is not None and stat.start_time == started and not stat.gone


def all_pids() -> list[int]:
    """Return every process id that this process can see."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]  # noqa: PTH208 -- pathlib costs the guardian memory


def snapshot() -> dict[int, Stat]:
    """Return every process by its pid, zombies included. Takes about 10 µs per process."""
    return {stat.pid: stat for pid in all_pids() if (stat := read_stat(pid)) is not None}


def session_members(sids: Iterable[int]) -> set[int]:
    """Return the live processes of the sessions *sids*."""
    wanted = frozenset(sids)
    return {pid for pid, stat in snapshot().items() if stat.session in wanted and not stat.gone}


def children(pid: int) -> set[int]:
    """Return the children of *pid*, zombies included.

    Where the kernel lists them, this costs one small file per thread of *pid*. That list
    may miss one while another child is just exiting: call this twice to be sure.
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

    A process that lost its parent is no longer a descendant, except of its subreaper.
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

    None while it is unreadable: in the middle of ``execve`` the old environment is gone and
    the new one does not exist yet. That lasts microseconds, or longer on a busy machine.
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
        # It is really empty, or execve was under way: reading again decides.
    else:
        return frozenset()
    found = set()
    for variable in data.split(b"\0"):
        name, _, value = variable.partition(b"=")
        if name in _MARKER_VARIABLES:
            found.add(os.fsdecode(value))
    return frozenset(found)


def marked(marker: str) -> set[int]:
    """Return the live processes that have *marker* in one of the two marker variables."""
    return {pid for pid in all_pids() if marker in (markers_of(pid) or ())}


def boot_id() -> str:
    """Return the id of this boot; start times are comparable within one boot only.

    Raises:
        OSError: if /proc is not mounted.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:  # noqa: PTH123 -- see all_pids
        return file.read().strip()


def adopt_orphans() -> bool:
    """Make this process a subreaper: orphaned descendants become its children.

    Processes that a backend leaves behind then do not become children of init. The caller
    has to reap them.

    Returns:
        False if the kernel refuses.
    """
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0


def adopts_orphans() -> bool:
    """Return whether orphaned descendants become children of this process."""
    import ctypes  # noqa: PLC0415 -- the guardian does not need it

    if os.getpid() == 1:
        return True
    flag = ctypes.c_int(0)
    return _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.addressof(flag)) == 0 and flag.value == 1


def _kernel_lists_children() -> bool:
    """Return whether this kernel has CONFIG_PROC_CHILDREN."""
    return _read("/proc/thread-self/children") is not None


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
