"""The owner of each conversation, for llama.cpp's resumable streams. Pure.

A client names its conversation in ``X-Conversation-Id``. llama-server then generates to the end
although the client leaves, stores the stream, and replays it at ``/v1/stream`` from any byte
offset. A request for a replay names the conversation but no model, so the router remembers which
backend has it.

Source: llama.cpp, tools/server/server-stream.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

import attrs

from ..core.apis.model_names import ModelNameRewriter
from ..core.config.names import ModelId
from ..core.scheduling import refusals
from ..errors.base import RouterError

T = TypeVar("T")

#: Separates the name of a conversation from that of a model, in clients that join both.
#: Source: llama.cpp, tools/server/server-stream.cpp (lookup).
SEPARATOR: Final = "::"

#: Conversations that are remembered, the latest ones.
MAX_KNOWN: Final = 1024

#: Longest name that is remembered, in characters.
MAX_NAME: Final = 1024

#: Most names in one lookup.
MAX_LOOKED_UP: Final = 10_000


@attrs.frozen
class Owner:
    """The backend that stores the stream of a conversation.

    Attributes:
        model: Its model.
        pid: Its process; the model's next process does not have the stream.
        said_bytes: Size of what the router sent before the backend's response (notices), in
            bytes. The client's byte offsets include it, the backend's do not.
        response_model: Name that replaces the model's in the response; None to leave it.
    """

    model: ModelId
    pid: int
    said_bytes: int = 0
    response_model: str | None = None


class WaitingStream:
    """A stream of a request that still waits for its backend.

    Its client may leave and come back, and others may read along: what is said to it is kept.

    Attributes:
        model: The model that it waits for.
        started_s: Time of the request, in seconds since the epoch.
        cut: Ends the request, with an error for its client.
        said: What the router sent so far.
        over: The wait is over, with a backend or with an error.
        failed: With an error, which is the last of what was said.
    """

    def __init__(
        self, model: ModelId, cut: Callable[[RouterError], None], *, started_s: float
    ) -> None:
        self.model = model
        self.started_s = started_s
        self.cut = cut
        self.said = bytearray()
        self.over = False
        self.failed = False
        self._listeners: set[Callable[[], None]] = set()

    def say(self, events: bytes) -> None:
        """Record *events* as sent."""
        self.said += events
        self._notify()

    def end(self, last_event: bytes = b"") -> None:
        """Record the end of the wait; *last_event* is its error, if it failed."""
        if self.over:
            return
        self.said += last_event
        self.over, self.failed = True, bool(last_event)
        self._notify()

    @contextmanager
    def listen(self, on_news: Callable[[], None]) -> Iterator[None]:
        """Call *on_news* within the block whenever something is said, and at the end."""
        self._listeners.add(on_news)
        try:
            yield
        finally:
            self._listeners.discard(on_news)

    def _notify(self) -> None:
        for on_news in tuple(self._listeners):
            on_news()


class Conversations:
    """Remembers the owners of the latest conversations, and those that wait for one."""

    def __init__(self, *, max_known: int = MAX_KNOWN) -> None:
        self._max_known = max_known
        self._waiting: dict[str, WaitingStream] = {}
        self._owners: dict[str, Owner] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._owners)

    def note(self, name: str, owner: Owner) -> None:
        """Record *owner* as that of the conversation *name*."""
        if len(name) > MAX_NAME:
            return
        self._owners.pop(name, None)
        self._owners[name] = owner
        if len(self._owners) > self._max_known:
            del self._owners[next(iter(self._owners))]

    def begin_wait(self, name: str, stream: WaitingStream) -> None:
        """Record that the conversation *name* waits for its backend, in *stream*.

        An earlier request of the conversation that still waits is ended: it has one stream only,
        as in llama-server.
        """
        earlier = self._waiting.get(name)
        self._waiting[name] = stream
        if earlier is not None and earlier is not stream:
            earlier.cut(refusals.replaced())

    def end_wait(self, name: str, stream: WaitingStream, last_event: bytes = b"") -> None:
        """Record that *stream* waits no more; see `WaitingStream.end`."""
        if self._waiting.get(name) is stream:
            del self._waiting[name]
        stream.end(last_event)

    def waiting(self, name: str) -> WaitingStream | None:
        """Return the stream in which the conversation *name* waits; None if it does not."""
        return self._waiting.get(name)

    def waiting_of(self, names: Iterable[str]) -> dict[str, WaitingStream]:
        """Return the streams of those *names* that wait, as `looked_up` does."""
        return _named(self._waiting, names)

    def forget(self, name: str) -> None:
        """Forget the conversation *name*; no effect if it is unknown."""
        self._owners.pop(name, None)

    def forget_gone(self, running: Mapping[ModelId, int]) -> None:
        """Forget the conversations of processes that no longer run.

        Args:
            running: The process of each ready model.
        """
        self._owners = {
            name: owner
            for name, owner in self._owners.items()
            if running.get(owner.model) == owner.pid
        }

    def owner(self, name: str) -> Owner | None:
        """Return the owner of the conversation *name*; None if it is unknown."""
        return self._owners.get(name)

    def looked_up(self, names: Iterable[str]) -> dict[str, Owner]:
        """Return the owners of the conversations with these *names*, by full name.

        A name also matches conversations with the name of a model appended (`SEPARATOR`).
        """
        return _named(self._owners, names)


def _named(known: Mapping[str, T], names: Iterable[str]) -> dict[str, T]:
    wanted = frozenset(names)
    return {
        name: each
        for name, each in known.items()
        if name in wanted or name.partition(SEPARATOR)[0] in wanted
    }


class Replay:
    """Adapts a backend's replay of a stream for a client that resumes it.

    Attributes:
        begin: Bytes to send before the replay.
        from_bytes: Offset from which the backend has to replay.
    """

    def __init__(self, owner: Owner, from_bytes: int) -> None:
        """Prepare one replay.

        Args:
            owner: The owner of the stream.
            from_bytes: Offset from which the client requests it.
        """
        missed_from_bytes, self.begin = resumed_at(owner.said_bytes, from_bytes)
        if owner.response_model is None:
            self.from_bytes, self._skip_bytes, self._renaming = missed_from_bytes, 0, None
        else:
            # The client's offset counts bytes with the replaced name, so the replay starts at 0,
            # the name is replaced again, and the bytes that the client has are skipped.
            self.from_bytes, self._skip_bytes = 0, missed_from_bytes
            self._renaming = ModelNameRewriter(owner.response_model, events=True)

    def feed(self, data: bytes) -> bytes:
        """Return the bytes for the client of *data*, a piece of the backend's replay."""
        if self._renaming is not None:
            data = self._renaming.feed(data)
        skipped_bytes = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped_bytes
        return data[skipped_bytes:]


def resumed_at(said_bytes: int, from_bytes: int) -> tuple[int, bytes]:
    """Return the offset for the backend's replay, and the bytes to send before the replay.

    The client's offset counts what the router sent before the backend's response. If a part of
    that is missing, a comment of the same length takes its place, so that offsets stay right
    if the client resumes again.

    Args:
        said_bytes: Bytes that the router sent before the backend's response.
        from_bytes: Offset from which the client requests the stream.
    """
    missing = said_bytes - from_bytes
    return max(0, -missing), _comment(missing) if missing > 0 else b""


def _comment(size_bytes: int) -> bytes:
    """Return a comment of that size, which readers of event streams skip."""
    if size_bytes < 3:
        return b"\n" * size_bytes
    return b":" + b"." * (size_bytes - 3) + b"\n\n"
