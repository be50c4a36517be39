"""The notification protocol: one datagram of ``NAME=value`` lines to systemd's socket.

Source: sd_notify(3), sd_watchdog_enabled(3), systemd 252.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

import attrs
import trio

#: Longest message that systemd reads, in bytes (``NOTIFY_BUFFER_MAX``).
MAX_MESSAGE_BYTES: Final = 4096

#: Seconds until a message that systemd does not read is given up.
SEND_TIMEOUT_S: Final = 5.0


@attrs.frozen
class Notifier:
    """Sends notifications to one socket.

    Attributes:
        address: The socket's address, in the form of the socket module.
    """

    address: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Notifier | None:
        """Return a notifier for ``NOTIFY_SOCKET``, or None if that is not set.

        Raises:
            ValueError: if it is no address of a UNIX socket.
        """
        named = environ.get("NOTIFY_SOCKET")
        if not named:
            return None
        if named[0] not in "/@" or len(named) < 2:
            raise ValueError(f"NOTIFY_SOCKET={named!r} does not begin with '/' or '@'")
        return cls("\0" + named[1:] if named[0] == "@" else named)

    async def send(self, *fields: str) -> None:
        """Send *fields*, each ``NAME=value``, in one message; wait for room in the socket.

        Each message uses a new socket, because systemd may have replaced its own meanwhile.

        Raises:
            OSError: if it cannot be sent; TimeoutError after `SEND_TIMEOUT_S` seconds.
        """
        message = "\n".join(fields).encode()
        assert len(message) <= MAX_MESSAGE_BYTES, "systemd would truncate it"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            try:
                with trio.fail_after(SEND_TIMEOUT_S):
                    # Connected: only then writable means that systemd's socket has room.
                    sender.connect(self.address)
                    while True:
                        try:
                            sender.send(message, socket.MSG_NOSIGNAL)
                        except BlockingIOError:
                            await trio.lowlevel.wait_writable(sender)
                        else:
                            return
            except trio.TooSlowError:
                raise TimeoutError(f"not taken within {SEND_TIMEOUT_S:g} s") from None


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return the watchdog's interval for process *pid*, in seconds; None if it is off.

    Raises:
        ValueError: if a variable is invalid.
    """
    if (written := environ.get("WATCHDOG_USEC")) is None:
        return None
    if (watched := environ.get("WATCHDOG_PID")) is not None and int(watched) != pid:
        return None
    if (usec := int(written)) <= 0:
        raise ValueError(f"WATCHDOG_USEC={written!r} is not more than 0")
    return usec / 1e6
