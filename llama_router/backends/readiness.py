"""Detection that a backend is ready: by its own report where it makes one, and by health probes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import trio

from .child_protocol import READY, ChildState

#: Seconds for one probe: a health check that hangs must neither exceed the deadline of the
#: start, nor hide that the backend answers a later probe.
PROBE_TIMEOUT_S: Final = 1.0

#: Pause between two probes, in seconds. A probe costs some 40 microseconds.
POLL_S: Final = 0.002

#: The same after the first second of waiting, where milliseconds no longer matter.
POLL_LATER_S: Final = 0.005

#: The same for a backend that reports its state, in case the report does not come.
POLL_ANNOUNCING_S: Final = 0.1

#: Statuses by which a backend says that it still loads.
_LOADING_STATUSES: Final = frozenset(("429", "503"))

#: The most bytes of a response that are read; a status line is far shorter.
_STATUS_BYTES: Final = 512


@attrs.define(eq=False)
class ReadinessState:
    """The state of a starting backend; updated from its output and by the probes.

    Attributes:
        announces: Whether it speaks llama-server's child protocol.
        progress: The loaded part, 0 to 1; None if it was not reported.
        last_probe: The result of the last probe, in words for an error or a log line.
    """

    announces: bool
    progress: float | None = None
    last_probe: str = "it has not been probed yet"
    _announced: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_refused(self) -> bool:
        """Whether the last probe got an answer by which no backend says that it still loads."""
        return self.last_probe.isdecimal() and self.last_probe not in _LOADING_STATUSES

    def update(self, state: ChildState) -> None:
        """Process one line of the child protocol."""
        if state.progress is not None:
            self.progress = state.progress
        if state.state == READY:
            self._announced.set()

    async def pause(self, waited_s: float) -> None:
        """Wait until the next probe is due: after a pause, or when the backend reports ready."""
        if self._announced.is_set() or not self.announces:
            await trio.sleep(POLL_S if waited_s < 1 else POLL_LATER_S)
            return
        with trio.move_on_after(POLL_ANNOUNCING_S):
            await self._announced.wait()


async def wait_ready(
    host: str,
    port: int,
    path: str,
    state: ReadinessState,
    *,
    find_foreign: Callable[[], Awaitable[str | None]],
) -> str | None:
    """Return once *path* answers 200 and the backend owns the listening socket.

    The caller sets the deadline.

    Args:
        host: Address of the backend.
        port: Its port.
        path: Its health endpoint.
        state: Receives the result of each probe.
        find_foreign: Returns a description of another process that listens on the port; None
            if only the backend does. May raise OSError if that cannot be determined yet.

    Returns:
        None; or the description of another process, if it was found twice in a row.
    """
    begun_s = trio.current_time()
    while True:
        before = state.last_probe
        state.last_probe = await probe(host, port, path)
        if state.last_probe == "200":
            try:
                foreign = await find_foreign()
            except OSError as exc:
                state.last_probe = f"the owner of port {port} cannot be determined: {exc.strerror}"
            else:
                if foreign is None:
                    return None
                state.last_probe = foreign
                if foreign == before:
                    return foreign
        await state.pause(trio.current_time() - begun_s)


async def probe(host: str, port: int, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Send one request; return the status as digits, or the failure in words."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
            connection.setblocking(False)
            with trio.fail_after(timeout_s):
                return await _exchange(connection, host, port, path)
    except trio.TooSlowError:
        return f"no answer within {timeout_s:g} s"
    except OSError as exc:  # also if no socket can be had: too many files are open
        return exc.strerror or str(exc)


async def _exchange(connection: socket.socket, host: str, port: int, path: str) -> str:
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
