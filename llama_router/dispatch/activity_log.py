"""The activity log: requests that are live, and the last ones that ended, as rows.

Every request passes here, so writers only move the `RequestLog` that there is anyway; readers
make rows of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

import msgspec
import trio

from ..core.config.names import ModelId
from .request_log import RequestLog

#: Ended requests that are kept.
KEPT: Final = 1000

#: Requests that are counted together, by those who count all of them.
BATCH: Final = 256

#: Longest path that is kept of an ended request, in characters.
_KEPT_PATH: Final = 256


class ActivityRow(msgspec.Struct, frozen=True, kw_only=True):
    """A request, as clients of the admin API see it. Figures not known yet are None.

    Attributes:
        id: Its number; later requests have higher ones.
        cancel_id: Its number for `Dispatcher.cancel`; None if it cannot be cancelled.
        model: The model; the requested name if there is no such model.
        client: Name of the API key; without one, the address of the client.
        key: Name of the API key, if there was one.
        method: Method of the request.
        path: Its path, without the query.
        state: ``queued``, ``loading``, ``running`` or ``done``.
        outcome: The end, see `request_log.Outcome`.
        code: Code of the error that refused or cut it.
        status: HTTP status of the response; 0 if there was none.
        began_at: Time of its arrival, in seconds since 1970.
        queue_s: Wait for other models, or for requests in front; so far, if it goes on.
        load_s: Wait while the model was loading; so far, if it goes on.
        ttft_s: Time from the arrival to the first byte of the backend.
        duration_s: Time from the arrival to the end; so far, if it goes on.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer.
        tokens_per_s: Tokens of the answer per second; see `tokens_per_s`.
        sent_bytes: Bytes of the response's body that the client got, or the backend sent so far.
        request_id: The id of the request in its response.
    """

    id: int
    cancel_id: int | None
    model: str | None
    client: str
    key: str | None
    method: str
    path: str
    state: str
    outcome: str | None
    code: str | None
    status: int
    began_at: float
    queue_s: float | None
    load_s: float | None
    ttft_s: float | None
    duration_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_per_s: float | None
    sent_bytes: int
    request_id: str | None


class ActivityLog:
    """The live requests, and the last `KEPT` that ended.

    Args:
        loading_since: Returns the clock time at which a model began to load, in seconds; None
            if it does not load.

    Attributes:
        last: Number of the last change: an arrival, a grant or an end. A record that changed
            bears it (`RequestLog.changed`), and that of its arrival is its `RequestLog.number`.
        live: Requests that have not ended.
        ended: The last ones that have, the latest at the end.
        ended_count: Number of requests that have ended since the router's start.
    """

    def __init__(self, loading_since: Callable[[ModelId], float | None] = lambda _: None) -> None:
        self._loading_since = loading_since
        self.last = 0
        self.live: set[RequestLog] = set()
        self.ended: deque[RequestLog] = deque(maxlen=KEPT)
        self.ended_count = 0
        self._readers: list[Callable[[], None]] = []
        self._news: trio.Event | None = None  # made by the first follower that waits
        self._on_end = self._end

    def listen(self, reader: Callable[[], None]) -> None:
        """Call *reader* whenever `BATCH` more requests have ended; it must not block.

        That is long before the first of them is pushed out.
        """
        self._readers.append(reader)

    def begin(self, record: RequestLog) -> None:
        """Take in *record*, whose request has arrived. It leaves by `RequestLog.write`."""
        self.last = record.number = record.changed = self.last + 1
        record.began_at = time.time()
        record.on_end = self._on_end
        self.live.add(record)
        if self._news is not None:
            self._wake()

    def granted(self, record: RequestLog) -> None:
        """Note that the request of *record*, if it is recorded here, got its backend."""
        if record.on_end is None:
            return
        self.last = record.changed = self.last + 1
        if self._news is not None:
            self._wake()

    def _end(self, record: RequestLog) -> None:
        self.last = record.changed = self.last + 1
        if len(record.path) > _KEPT_PATH:
            record.path = record.path[:_KEPT_PATH]
        self.live.discard(record)
        self.ended.append(record)
        self.ended_count += 1
        if not self.ended_count % BATCH:
            for reader in self._readers:
                reader()
        if self._news is not None:
            self._wake()

    def _wake(self) -> None:
        assert self._news is not None, "checked by callers, which save the call"
        self._news.set()
        self._news = None

    async def wait_after(self, number: int) -> None:
        """Wait until there is a change after *number*."""
        while self.last <= number:
            if self._news is None:
                self._news = trio.Event()
            await self._news.wait()

    def changed_after(self, number: int) -> list[RequestLog]:
        """Return the kept requests that changed after *number*, the first change first."""
        changed = [record for record in self.live if record.changed > number]
        for record in reversed(self.ended):
            if record.changed <= number:
                break
            changed.append(record)
        return sorted(changed, key=lambda record: record.changed)

    def ended_after(self, count: int) -> list[RequestLog]:
        """Return the kept requests that ended after the first *count* of all that ended."""
        missed = min(self.ended_count - count, len(self.ended))
        return list(islice(reversed(self.ended), missed))[::-1]

    def latest(self, count: int = KEPT) -> list[RequestLog]:
        """Return *count* requests, live ones first, and of both the latest arrival first."""
        live = sorted(self.live, key=lambda record: record.number, reverse=True)[:count]
        ended = sorted(self.ended, key=lambda record: record.number, reverse=True)
        return live + ended[: count - len(live)]

    def find(self, number: int) -> RequestLog | None:
        """Return the request with that *number*, if it is kept."""
        for records in (self.live, self.ended):
            for record in records:
                if record.number == number:
                    return record
        return None

    def row(self, record: RequestLog, *, now_s: float) -> ActivityRow:
        """Return *record* as it is at the clock time *now_s*, in seconds."""
        ended_s = record.ended_s
        if ended_s is not None:
            state, queue_s, load_s = "done", record.queue_s, record.load_s
        else:
            state, queue_s, load_s = self._progress(record, now_s)
        lease = record.lease
        refusal = record.error
        usage = record.usage
        return ActivityRow(
            id=record.number,
            cancel_id=None if lease is None or lease.over else lease.request,
            model=record.model,
            client=record.key or record.peer,
            key=record.key,
            method=record.method,
            path=record.path,
            state=state,
            outcome=None if ended_s is None else str(record.outcome),
            code=record.code if refusal is None else refusal.code,
            status=record.status,
            began_at=round(record.began_at, 3),
            queue_s=_rounded(queue_s),
            load_s=_rounded(load_s),
            ttft_s=_rounded(record.ttft_s),
            duration_s=round((now_s if ended_s is None else ended_s) - record.began_s, 4),
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            tokens_per_s=_rounded(tokens_per_s(record)),
            sent_bytes=record.sent_bytes if lease is None else lease.moved_bytes(),
            request_id=record.request_id,
        )

    def _progress(self, record: RequestLog, now_s: float) -> tuple[str, float | None, float | None]:
        """Return the state of a live request, and how long it queued and loaded."""
        lease = record.lease
        if lease is None:
            return "queued", None, None
        if lease.backend is not None:
            return "running", lease.queue_s, lease.load_s
        waited_s = now_s - lease.arrived_s
        since_s = self._loading_since(ModelId(record.model or ""))
        if since_s is None:
            return "queued", waited_s, 0.0
        load_s = min(waited_s, now_s - since_s)
        return "loading", waited_s - load_s, load_s


def tokens_per_s(record: RequestLog) -> float | None:
    """Return the rate of the answer's tokens; None if it is not known.

    That of a stream counts from its first token on. Any other answer comes as a whole, so its
    rate counts from the grant, and the prompt is included in it.
    """
    tokens, first_body_s = record.usage.completion_tokens, record.first_body_s
    if not tokens or first_body_s is None or record.ended_s is None:
        return None
    if record.streamed:
        tokens, since_s = tokens - 1, first_body_s
    else:
        since_s = record.granted_s
    took_s = record.ended_s - since_s
    return tokens / took_s if tokens and took_s > 0 else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
