"""A ready backend as the relay sees it: a process of this router, or a service that was there."""

from __future__ import annotations

from typing import Protocol

import attrs
import trio

from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..errors.backends import BackendError, UpstreamError
from ..errors.base import RouterError


class KeptConnection(Protocol):
    """A connection between two exchanges."""

    def close(self) -> None:
        """Close it; safe to call twice. Must not raise."""


class PromptCache(Protocol):
    """The prompt cache of a backend, which outlives its process."""

    @property
    def awaits_answer(self) -> bool:
        """True while the end of an answer is wanted as a proof."""

    def note_answer(self, tail: bytes) -> None:
        """Take note of the end of a successful answer. Must not block."""

    async def save(self, *, idle_only: bool) -> None:
        """Save it; return within the time that the settings allow. May be called again.

        Args:
            idle_only: Only what no request uses now: it is saved before others have ended.
        """


@attrs.define(eq=False)
class Upstream:
    """What the relay needs to know of a ready backend, and the persistent connections to it.

    Attributes:
        model: The model that it serves.
        spec: Its settings; a reload replaces those that need no new process.
        host: The address that it listens on.
        port: The port that it listens on.
        pid: Its process id; 0 if it is no process of this router.
        spawned_s: Clock time of its spawn, in seconds.
        ready_s: Clock time at which it became ready, in seconds.
        gone: Set when no further request may begin on it.
        error: The reason for that, if it failed; set before *gone* is.
        failures: Requests in a row that it failed.
        sleeping: It has freed its memory and loads its model again for the next request, as
            llama-server does with ``--sleep-idle-seconds``.
        cache: Its prompt cache, if that is saved before a stop.
        authority: Its host and port, as in a URL.
        prefix: Path in front of that of each request; empty for none.
        own_fields: Header fields that each request to it has.
        strips: Names, in lower case, of the fields of clients that it does not get.
        title: What errors call it.
    """

    model: ModelId
    spec: ModelSpec
    host: str
    port: int
    pid: int = attrs.field(default=0, kw_only=True)
    spawned_s: float = attrs.field(kw_only=True)
    ready_s: float = attrs.field(kw_only=True)
    prefix: bytes = attrs.field(default=b"", kw_only=True)
    own_fields: tuple[tuple[bytes, bytes], ...] = attrs.field(default=(), repr=False, kw_only=True)
    strips: frozenset[bytes] = attrs.field(default=frozenset(), kw_only=True)
    gone: trio.Event = attrs.field(factory=trio.Event, kw_only=True)
    error: BackendError | None = attrs.field(default=None, kw_only=True)
    failures: int = attrs.field(default=0, kw_only=True)
    sleeping: bool = attrs.field(default=False, kw_only=True)
    cache: PromptCache | None = attrs.field(default=None, kw_only=True)
    authority: bytes = attrs.field(kw_only=True)
    title: str = attrs.field(kw_only=True)
    _kept: list[KeptConnection] = attrs.field(factory=list, init=False)

    @authority.default
    def _default_authority(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()

    @title.default
    def _default_title(self) -> str:
        return f"the backend of model {str(self.model)!r}"

    def take_connection(self) -> KeptConnection | None:
        """Return the most recently kept connection or None; the backend may have closed it."""
        return self._kept.pop() if self._kept else None

    def keep_connection(self, connection: KeptConnection) -> None:
        """Keep *connection*, on which an exchange ended cleanly, for the next one."""
        if self.gone.is_set():
            connection.close()
        else:
            self._kept.append(connection)

    async def error_for(self, symptom: str) -> RouterError:
        """Return why an exchange with it failed: its own end, if that is known; else *symptom*."""
        if self.error is not None:
            return self.error
        return UpstreamError(f"{self.title} failed: {symptom}")

    def end(self, error: BackendError | None) -> None:
        """Let no further request begin on it, and close the kept connections to it."""
        if self.gone.is_set():
            return
        self.error = error
        self.gone.set()
        while self._kept:
            self._kept.pop().close()
