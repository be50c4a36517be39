"""A resumable request that goes on without its client, which left while it waited.

llama-server goes on with a stream whose client names its conversation, and so does the router
while the request still waits: a page that is loaded anew finds the stream by the name.
"""

from __future__ import annotations

import attrs
import trio

from ..backends.client import BackendExchange, Timeouts
from ..core.apis.dialect import StreamDialect
from ..core.apis.usage import HEAD_BYTES, TAIL_BYTES, usage_of
from ..core.config.names import ModelId
from ..dispatch.conversations import Conversations, Owner, WaitingStream
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.lease import Lease
from ..dispatch.request_log import Outcome, RequestLog
from ..dispatch.stream_wait import StreamWait
from ..errors.base import RouterError
from ..logs.events import log
from .backend_request import RequestBody


@attrs.define(eq=False, kw_only=True)
class DetachedRequest:
    """One such request. Use `run` once, as a task.

    Attributes:
        dispatcher: Grants its backend.
        conversations: Knows where the conversation is.
        name: The name of the conversation.
        record: What was said in its stream so far.
        lease: Its lease, which is handed over; it holds the model until the answer is complete.
        wait: Its wait.
        peer: Address of the client that left.
        dialect: The API of the stream.
        path: Path of the request, for its log.
        target: The request target at the backend.
        fields: Header fields for the backend.
        body: The body.
        response_model: Name that replaces the model's in the response; None to leave it.
    """

    dispatcher: Dispatcher
    conversations: Conversations
    name: str
    record: WaitingStream
    lease: Lease
    wait: StreamWait
    peer: str
    dialect: StreamDialect
    path: str
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: RequestBody
    response_model: str | None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _error: RouterError | None = attrs.field(default=None, init=False)

    def cancel(self, error: RouterError) -> None:
        """End the request with *error*."""
        self._error = error
        self._scope.cancel()

    async def run(self, model: ModelId) -> None:
        """Wait for *model*, and let its backend answer to the end. Raises no error."""
        now_s = trio.current_time()
        request_log = RequestLog("POST", self.path, began_s=now_s, peer=self.peer)
        request_log.model, request_log.lease = model, self.lease
        request_log.key, request_log.streamed = self.lease.caller, True
        self.dispatcher.activity.begin(request_log)
        try:
            with self.lease, self._scope:
                await self._serve(request_log)
                request_log.outcome = Outcome.OK
        except RouterError as exc:
            self._error = exc
        except Exception:
            log.exception("connection.crashed")
        finally:
            if self._error is not None:
                self.conversations.forget(self.name)
                self._note_failure(request_log, self._error)
            last_event = b"" if self._error is None else self.dialect.error(self._error)
            self.conversations.end_wait(self.name, self.record, last_event)
            self.body.release()
            request_log.write(now_s=trio.current_time())

    def _note_failure(self, request_log: RequestLog, error: RouterError) -> None:
        if request_log.status:
            request_log.error = error
        else:
            request_log.refuse(error)

    async def _serve(self, request_log: RequestLog) -> None:
        while events := await self.wait.next_lines():
            self.record.say(events)
        backend = await self.lease.granted()
        self.dispatcher.activity.granted(request_log)
        said_bytes = len(self.record.said)
        owner = Owner(backend.model, backend.pid, said_bytes, self.response_model)
        self.conversations.note(self.name, owner)  # from now on a stop is for the backend, too
        timeouts = Timeouts.of(self.dispatcher.config.router)
        with BackendExchange(backend, timeouts) as upstream:
            data = bytes(self.body.data or b"")
            target = self.target.decode("ascii")
            await upstream.request("POST", target, fields=self.fields, body=data)
            self.body.release()
            # Not earlier: the backend may have an older stream of that name.
            self.conversations.end_wait(self.name, self.record)
            request_log.status = upstream.status
            first = last = b""
            while data := await upstream.receive():
                request_log.first_body_s = upstream.first_body_s
                request_log.sent_bytes += len(data)
                first = first or data[:HEAD_BYTES]
                last = (last + data)[-TAIL_BYTES:]
                request_log.usage = usage_of(self.path, last, first)
