"""When is a backend ready? Its own word where it gives one, else a raw health probe."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from .child_protocol import ChildState

#: Longest time for one probe, in seconds: a health check that hangs must not
#: defeat the deadline of the start, nor hide that the backend answers later.
PROBE_TIMEOUT_S: Final = 1.0

#: Pause between two probes, in seconds. A probe costs some 40 microseconds.
POLL_S: Final = 0.002

#: The same after the first second of waiting: then a few milliseconds are nothing.
POLL_LATER_S: Final = 0.005

#: The same for a backend that announces itself; only in case it does not, after all.
POLL_ANNOUNCING_S: Final = 0.1

#: Bytes of an answer looked at; a status line is far shorter.
_STATUS_BYTES: Final = 512


@attrs.define(eq=False)
class ReadinessState:
    """How far a starting backend is; written by the reader of its output.

    Attributes:
        announces: Whether it speaks llama-server's child protocol.
        progress: How much is loaded, 0 to 1, if it says so.
        seen: What the last probe saw, in words for an error or a log line.
    """

    announces: bool
    progress: float | None = None
    seen: str = "it has not been probed yet"
    _announced: trio.Event = attrs.field(factory=trio.Event)

    def note(self, state: ChildState) -> None:
        """Take in one line of the child protocol."""
        if state.progress is not None:
            self.progress = state.progress
        if state.state == "ready":
            self._announced.set()

    async def pause(self, waited_s: float) -> None:
        """Wait until the next probe makes sense."""
        if self._announced.is_set() or not self.announces:
            await trio.sleep(POLL_S if waited_s < 1 else POLL_LATER_S)
            return
        with trio.move_on_after(POLL_ANNOUNCING_S):
            await self._announced.wait()


async def wait_ready(
    host: str,
    port: int,
    path: str,
    loading: ReadinessState,
    *,
    is_ours: Callable[[], Awaitable[str | None]],
) -> str | None:
    """Return once *path* answered 200 and the answer came from our own process.

    Takes no time-out: the caller sets the deadline.

    Args:
        host: Address of the backend.
        port: Its port.
        path: Its health endpoint.
        loading: Told what each probe saw.
        is_ours: Says who else holds the port, in words; None if the backend does. May raise
            OSError if it cannot tell: the next look may.

    Returns:
        None; or who else holds the port, if that was seen twice in a row.
    """
    begun_s = trio.current_time()
    while True:
        before = loading.seen
        loading.seen = await probe(host, port, path)
        if loading.seen == "200":
            try:
                stranger = await is_ours()
            except OSError as exc:
                loading.seen = f"who answers on port {port} cannot be found out: {exc.strerror}"
            else:
                if stranger is None:
                    return None
                loading.seen = stranger
                if stranger == before:
                    return stranger
        await loading.pause(trio.current_time() - begun_s)


async def probe(host: str, port: int, path: str) -> str:
    """Ask once; return the status as digits, or what went wrong in words."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
            connection.setblocking(False)
            with trio.fail_after(PROBE_TIMEOUT_S):
                return await _ask(connection, host, port, path)
    except trio.TooSlowError:
        return f"no answer within {PROBE_TIMEOUT_S:g} s"
    except OSError as exc:  # also if no socket can be had: too many files are open
        return exc.strerror or str(exc)


async def _ask(connection: socket.socket, host: str, port: int, path: str) -> str:
    if (error := connection.connect_ex((host, port))) not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
    await trio.lowlevel.wait_writable(connection)
    if error := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(error, os.strerror(error))
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
    connection.send(request.encode())
    answer = b""
    while b"\r\n" not in answer and len(answer) < _STATUS_BYTES:
        await trio.lowlevel.wait_readable(connection)
        with contextlib.suppress(BlockingIOError):
            data = connection.recv(_STATUS_BYTES)
            if not data:
                break
            answer += data
    version, _, rest = answer.partition(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not rest[:3].isdigit():
        return f"not an HTTP answer: {answer[:60]!r}" if answer else "closed without an answer"
    return rest[:3].decode()
