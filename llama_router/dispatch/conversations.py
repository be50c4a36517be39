"""Which backend keeps which conversation: llama.cpp's resumable streams. Pure.

A client names its conversation in ``X-Conversation-Id``. llama-server then goes on when the
client leaves, keeps what it says, and replays it at ``/v1/stream`` from any byte on. Who asks
there does not say which model that was: the router remembers.

Source: llama.cpp, tools/server/server-stream.cpp.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from ..core.apis.model_names import ModelNameRewriter
from ..core.config.names import ModelId

#: Between the name of a conversation and that of a model, if its client puts both in one.
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
    """Who keeps a conversation.

    Attributes:
        model: The model that answers in it.
        pid: The process; what another one keeps is something else.
        said_bytes: What the router itself put before the backend's answer, in bytes. Clients
            count them, and the backend does not know of them.
        response_model: Name that replaces the model's in the response; None to leave it.
    """

    model: ModelId
    pid: int
    said_bytes: int = 0
    response_model: str | None = None


class Conversations:
    """Remembers the owners of the latest conversations."""

    def __init__(self, *, max_known: int = MAX_KNOWN) -> None:
        self._max_known = max_known
        self._owners: dict[str, Owner] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._owners)

    def note(self, name: str, owner: Owner) -> None:
        """Remember that *owner* answers in the conversation *name* now."""
        if len(name) > MAX_NAME:
            return
        self._owners.pop(name, None)
        self._owners[name] = owner
        if len(self._owners) > self._max_known:
            del self._owners[next(iter(self._owners))]

    def forget(self, name: str) -> None:
        """Forget the conversation *name*, if it is known."""
        self._owners.pop(name, None)

    def forget_gone(self, running: Mapping[ModelId, int]) -> None:
        """Forget what processes kept that run no more.

        Args:
            running: The process of each ready model.
        """
        self._owners = {
            name: owner
            for name, owner in self._owners.items()
            if running.get(owner.model) == owner.pid
        }

    def owner(self, name: str) -> Owner | None:
        """Return who keeps the conversation *name*, if that is known."""
        return self._owners.get(name)

    def looked_up(self, names: Iterable[str]) -> dict[str, Owner]:
        """Return the conversations that are meant by *names*, and who keeps them.

        A name means the conversation that is called so, and all whose names have that of a
        model behind it.
        """
        wanted = frozenset(names)
        return {
            name: owner
            for name, owner in self._owners.items()
            if name in wanted or name.partition(SEPARATOR)[0] in wanted
        }


class Replay:
    """What becomes of a stream that is replayed for a client that comes back.

    Attributes:
        begin: What the client gets first.
        from_bytes: From which byte on the backend has to replay.
    """

    def __init__(self, owner: Owner, from_bytes: int) -> None:
        """Replay what *owner* keeps.

        Args:
            owner: Who keeps the stream.
            from_bytes: From which byte on the client wants it.
        """
        missed_from_bytes, self.begin = resumed_at(owner.said_bytes, from_bytes)
        if owner.response_model is None:
            self.from_bytes, self._skip_bytes, self._renaming = missed_from_bytes, 0, None
        else:
            # The client counts bytes among which the name is another, so it has to be
            # replaced once more from the beginning on.
            self.from_bytes, self._skip_bytes = 0, missed_from_bytes
            self._renaming = ModelNameRewriter(owner.response_model, events=True)

    def feed(self, data: bytes) -> bytes:
        """Return what the client gets of *data*, a piece of the backend's answer."""
        if self._renaming is not None:
            data = self._renaming.feed(data)
        skipped_bytes = min(self._skip_bytes, len(data))
        self._skip_bytes -= skipped_bytes
        return data[skipped_bytes:]


def resumed_at(said_bytes: int, from_bytes: int) -> tuple[int, bytes]:
    """Return from which byte on the backend has to replay, and what to put before that.

    A client counts the bytes of the stream as the router sent it. The bytes that the router
    had put before the backend's are made up for by a comment of the same length, so that
    the count stays right if the client has to come again.

    Args:
        said_bytes: How many the router had put there.
        from_bytes: From which byte on the client wants the stream.
    """
    missing = said_bytes - from_bytes
    return max(0, -missing), _comment(missing) if missing > 0 else b""


def _comment(size_bytes: int) -> bytes:
    """Return a comment of that size, which readers of event streams skip."""
    if size_bytes < 3:
        return b"\n" * size_bytes
    return b":" + b"." * (size_bytes - 3) + b"\n\n"
