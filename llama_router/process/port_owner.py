"""Who answers on a backend's port: the backend, or somebody else?"""

from __future__ import annotations

from . import procfs


def anybody_on(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether anybody listens on *port*, as far as that can be found out now. Blocks."""
    try:
        return bool(procfs.listener_inodes(port, host))
    except OSError:  # too many files are open, for instance
        return False


def stranger_on(port: int, pid: int, host: str = "127.0.0.1") -> str | None:
    """Say who else than the family of *pid* listens on *port*; None if nobody does. Blocks.

    A port may be shared: then some connections go to the one, and some to the other.

    Args:
        port: TCP port.
        pid: The backend's process.
        host: Where it listens.

    Raises:
        OSError: if that cannot be found out now: too many files are open, for instance.
    """
    owners = procfs.listener_owner(port, host, (pid,))
    if owners == {pid}:
        return None
    strangers = owners - {pid} - procfs.descendants(pid) - procfs.session_members((pid,))
    if owners and not strangers:
        return None
    who = f"process {min(strangers)}" if strangers else "a process of another user"
    return (
        f"port {port} is answered by {who}, which does not belong to the backend (if it does, "
        "as with a container, set check_port_owner = false)"
    )
