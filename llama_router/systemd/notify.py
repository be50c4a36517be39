"""The notification protocol: one datagram of ``NAME=value`` lines to a socket of systemd's.

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

#: Seconds that one message may wait for systemd to take it.
SEND_TIMEOUT_S: Final = 5.0


@attrs.frozen
class Notifier:
    """Where to send notifications.

    Attributes:
        address: Of the socket, in the form that the socket module wants.
    """

    address: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Notifier | None:
        """Return what ``NOTIFY_SOCKET`` names, or None if nobody wants to be notified.

        Raises:
            ValueError: if it names something else than a UNIX socket.
        """
        named = environ.get("NOTIFY_SOCKET")
        if not named:
            return None
        if named[0] not in "/@" or len(named) < 2:
            raise ValueError(f"NOTIFY_SOCKET={named!r} does not begin with '/' or '@'")
        return cls("\0" + named[1:] if named[0] == "@" else named)

    async def send(self, *fields: str) -> None:
        """Send *fields*, each ``NAME=value``, in one message; wait until it is taken.

        A new socket for each message: systemd may have replaced its own meanwhile.

        Raises:
            OSError: if it cannot be sent; TimeoutError after `SEND_TIMEOUT_S` seconds.
        """
        message = "\n".join(fields).encode()
        assert len(message) <= MAX_MESSAGE_BYTES, "systemd would cut it"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            try:
                with trio.fail_after(SEND_TIMEOUT_S):
                    # Connected, because only then writable means that there is room over there.
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
    """Return how often, in seconds, systemd wants a sign of life of process *pid* at least.

    Returns:
        None if it does not watch this process.

    Raises:
        ValueError: if the variables make no sense.
    """
    if (written := environ.get("WATCHDOG_USEC")) is None:
        return None
    if (watched := environ.get("WATCHDOG_PID")) is not None and int(watched) != pid:
        return None
    if (usec := int(written)) <= 0:
        raise ValueError(f"WATCHDOG_USEC={written!r} is not more than 0")
    return usec / 1e6
