"""One request for a model: checks it, waits for the backend, runs the exchange, logs it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Final

from ..backends.upstream import Upstream
from ..core.access.browsers import asks_for_page
from ..core.access.caller import UNRESTRICTED
from ..core.access.gate import Scope
from ..core.access.sessions import without_session
from ..core.apis.event_stream import is_complete
from ..core.apis.registry import APIS
from ..core.apis.usage import usage_of
from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.overrides import RequestOverrides
from ..core.requests.body_overrides import can_be_changed, override_in_place, with_overrides
from ..core.requests.json_scan import FieldScanner
from ..core.requests.request_target import RequestTarget, checked_name, request_target
from ..core.requests.routes import (
    HEALTH,
    ByBody,
    ByPath,
    ByQuery,
    ModelPath,
    Observe,
    allowed,
    may_load,
    split_model,
)
from ..core.requests.slots import acts_on_slots, takes_slot
from ..dispatch.conversations import MAX_NAME, Owner, WaitingStream
from ..dispatch.lease import Lease
from ..dispatch.request_log import Outcome, RequestLog
from ..dispatch.stream_wait import StreamWait
from ..errors.access import ApiKeyError
from ..errors.backends import UpstreamError
from ..errors.base import RouterError
from ..errors.requests import EndpointNotAllowedError, NoModelRunningError
from ..http1 import RequestHead, end_to_end_fields, with_cookies
from ..logs.request_ids import new_request_id
from .backend_request import BackendRequest, RequestBody
from .buffered_exchange import BufferedExchange
from .detached import DetachedRequest
from .exchange import Exchange, NotDeliveredError
from .gateway import Gateway
from .health import health_error
from .loop.fiber import FiberCancelledError, FiberTimeoutError
from .reader import BODY_TIMEOUT_S, Reader
from .router_responses import error_response, healthy_response, page_redirect, slash_redirect
from .sockets import ClientGoneError, ClientSocket
from .tunnel import HandshakeExchange
from .upload import StreamingUpload
from .waiting import EarlyStream, RequestWait, early_stream

#: The field in which a client names its conversation, so that its stream can be resumed.
CONVERSATION_FIELD: Final = b"x-conversation-id"

#: Fields that a request gets anew when it is sent without its client.
_REPLACED: Final = frozenset((b"accept-encoding", b"content-type"))
_ACCEPT_ENCODING: Final = frozenset((b"accept-encoding",))
#: Makes a browser ask its user; the password is the API key. Source: RFC 7617.
_ASK_FOR_PASSWORD: Final = (
    b"www-authenticate",
    b'Basic realm="llama-router: an API key as the password", charset="UTF-8"',
)

_AUTHORIZATION: Final = frozenset((b"authorization",))

#: First status of a failure of the backend.
_FIRST_FAILURE: Final = int(HTTPStatus.INTERNAL_SERVER_ERROR)

_READS: Final = frozenset((b"GET", b"HEAD"))

#: Routes without a key: the health of the router, which supervisors ask for.
_OPEN_ROUTES: Final = frozenset(Observe(None, path) for path in HEALTH)

_OPEN, _MODELS = Scope.OPEN, Scope.MODELS
_OK, _CLIENT_GONE = Outcome.OK, Outcome.CLIENT_GONE


class ModelRequest:
    """One request. Use `serve` once.

    Each request makes one, so this is a plain class with slots: its construction counts.
    """

    __slots__ = (
        "_body",
        "_caller",
        "_client",
        "_complete",
        "_cors_headers",
        "_early",
        "_gateway",
        "_head",
        "_log",
        "_path",
        "_reader",
        "_request_id",
        "_strip_headers",
        "_upgrade",
        "_upload",
    )

    def __init__(
        self, gateway: Gateway, client: ClientSocket, reader: Reader, head: RequestHead
    ) -> None:
        self._gateway = gateway
        self._client = client
        self._reader = reader
        self._head = head
        self._path = head.path.decode("ascii")  # a parsed path has no other bytes
        self._log = RequestLog(
            head.method.decode("ascii"),
            self._path,
            began_s=gateway.loop.clock(),
            peer=client.peer,
        )
        self._caller = UNRESTRICTED
        self._cors_headers: Sequence[tuple[bytes, bytes]] = ()
        self._strip_headers: frozenset[bytes] = frozenset()
        self._body: RequestBody | None = None
        self._upload: bytes | None = None  # the start of a body that is not kept in memory
        self._upgrade = False
        self._early: EarlyStream | None = None
        self._complete = False  # the client got the last event before it left
        self._request_id: str | None = None  # made when something needs it

    async def serve(self, destination: ByBody | ByQuery | ByPath | Observe) -> bool:
        """Serve the request; return whether the connection can be used for another one.

        Raises:
            ClientGoneError: if the client left.
        """
        gateway, head, log = self._gateway, self._head, self._log
        try:
            self._check_access(destination)
            router = gateway.dispatcher.config.router
            limit_bytes = router.max_body_mib * 1024 * 1024
            self._body = self._reader.take_body(head, limit_bytes)
            if self._body is None:
                await self._receive_body(destination, limit_bytes)
            elif head.upgrade:
                self._upgrade = not self._reader.buffer  # bytes after a handshake are HTTP
            if isinstance(destination, Observe):
                reusable = await self._observe(destination)
            elif place := gateway.gate.place_of_page(head.method, head.fields):
                reusable = await self._redirect(place)
            else:
                if router.capture_mib:
                    self._capture(router.capture_mib * 2**20)
                reusable = await self._serve_model(destination)
        except (RouterError, FiberCancelledError, NotDeliveredError) as exc:
            # An error may be kept, by the lease or as the last one of its model; the frames of its
            # traceback would keep this request and its connection.
            exc.__traceback__ = None
            error = exc if isinstance(exc, RouterError) else exc.error
            error.__traceback__ = None
            return await self._refuse(error)
        except ClientGoneError:
            log.outcome = _OK if self._complete else _CLIENT_GONE
            raise
        else:
            log.outcome = _OK
        finally:
            if self._body is not None:
                self._body.release()
            log.write(now_s=gateway.loop.clock())
        return reusable

    def _check_access(self, destination: ByBody | ByQuery | ByPath | Observe) -> None:
        """Take in the request, and refuse a sender that may not send it.

        Raises:
            AccessError: if it may not.
        """
        head, log, gate = self._head, self._log, self._gateway.gate
        self._cors_headers = gate.backend_fields(head.fields)
        observes = isinstance(destination, Observe)
        if not observes:  # the polls of monitoring would push all requests out
            self._gateway.dispatcher.activity.begin(log)
        scope = _OPEN if observes and destination in _OPEN_ROUTES else _MODELS
        self._caller = gate.check(scope, head.method, head.fields)
        log.key = self._caller.name
        if head.has_cookies:
            self._head = with_cookies(head, without_session)
        if not observes and head.method in _READS:
            gate.check_load(head.method, head.fields)
        self._strip_headers = gate.strip_headers

    async def _receive_body(
        self, destination: ByBody | ByQuery | ByPath | Observe, limit_bytes: int
    ) -> None:
        """Receive the rest of the body, unless it is passed on while it arrives."""
        head, reader, config = self._head, self._reader, self._gateway.dispatcher.config
        if isinstance(destination, ByPath) and not self._has_overrides(destination, config):
            self._upload, reader.buffer = reader.buffer[head.size :], b""
            return
        self._gateway.loop.bodies.limit_bytes = config.router.max_bodies_mib * 1024 * 1024
        self._body = await reader.receive_body(head, limit_bytes, config.touched)

    def _has_overrides(self, destination: ByPath, config: Config) -> bool:
        """Return whether the model that the path names changes requests of this caller."""
        resolved = config.resolve_request(self._named(destination, config)[0])
        if resolved is None or not self._caller.may_use(config.models[resolved.model]):
            return False
        return resolved.overrides is not None

    async def _serve_model(self, destination: ByBody | ByQuery | ByPath) -> bool:
        """Serve a request that starts its model; return as `serve` does."""
        dispatcher = self._gateway.dispatcher
        config = dispatcher.config
        stream: bool | None
        in_path: ModelPath | None = None
        response_model: str | None = None
        body = self._body
        if isinstance(destination, ByBody):
            assert body is not None, "only the body of a request by path is not kept"
            asked = self._parse_body(body, destination, config)
            name, stream = asked.model, asked.stream
            resolved = config.resolve_request(name)
            if resolved is not None and resolved.preset is not None:
                response_model = resolved.name
        else:
            name, stream, in_path = self._named(destination, config)
            resolved = config.resolve_request(name)
        model = None if resolved is None else resolved.model
        self._log.model = name if model is None else model
        self._log.streamed = stream is True
        target = self._checked_target(model, name, in_path, config)
        if target is None:
            return await self._redirect()
        if body is not None:
            if resolved is not None and resolved.overrides is not None:
                await self._apply_overrides(body, resolved.overrides)
            body.scan = None
        is_look = self._head.method in _READS and not self._upgrade
        if destination.autoload is False and is_look:
            backend = dispatcher.running(model or ModelId(name))
            return await self._run_exchange(backend, target, None)
        loads = self._may_load(config, model, requested=destination.autoload)
        # Without a model, the scheduler refuses the name, as it does for an id just removed.
        admitted, may_repeat = model or ModelId(name), loads
        while True:
            try:
                return await self._serve_leased(
                    admitted, name, target, response_model, stream=stream, may_load=loads
                )
            except NotDeliveredError:
                if not may_repeat:
                    raise
            may_repeat = False  # by the next backend, and not more often

    def _capture(self, limit_bytes: int) -> None:
        """Keep this request and its response in memory, for the admin API."""
        head, captures = self._head, self._gateway.dispatcher.captures
        body = None if self._body is None else self._body.data or b""
        capture = captures.begin(
            self._log.number,
            head.method.decode("ascii"),
            head.origin.decode("ascii"),
            head.fields,
            body,
            limit_bytes=limit_bytes,
        )
        if not self._upgrade:  # then there are frames, not one response
            self._client.tap(partial(captures.add, capture))

    def _may_load(self, config: Config, model: ModelId | None, *, requested: bool | None) -> bool:
        """Return whether *model* may be loaded for this request."""
        configured = model is None or config.models[model].autoload
        if requested is None or requested is configured:
            return configured
        may_change = self._gateway.gate.may_change(self._head.method, self._head.fields)
        return may_load(requested=requested, configured=configured, may_change=may_change)

    async def _serve_leased(
        self,
        model: ModelId,
        name: str,
        target: bytes,
        response_model: str | None,
        *,
        stream: bool | None,
        may_load: bool,
    ) -> bool:
        """Serve the request by the model's backend, once that is granted; return as `serve` does.

        Args:
            model: The model.
            name: Its name in the request.
            target: The request target at the backend.
            response_model: Name that replaces the model's in the response; None to leave it.
            stream: The request asks for a stream; None if that is not known.
            may_load: The model may be loaded for the request.

        Raises:
            NotDeliveredError: if that backend ended before it read the request.
        """
        with self._gateway.dispatcher.lease(
            model,
            caller=self._caller,
            address=self._client.peer,
            may_load=may_load,
            takes_slot=takes_slot(self._head.method, target, upgrade=self._upgrade),
        ) as lease:
            self._log.lease = lease
            lease.cut = self._cut
            backend = lease.granted_nowait()
            if self._early is None and (backend is None or self._keepalive_s):
                self._early = self._early_stream(response_model or name, stream=stream)
            if backend is None:
                backend = await self._wait(lease, model, target, response_model, stream=stream)
            if stream:
                self._record_conversation(backend, response_model)
            return await self._run_exchange(backend, target, response_model)

    def _cut(self, error: RouterError) -> None:
        """End the request, with *error* for its client."""
        if (lease := self._log.lease) is not None:
            self._gateway.loop.cancel(self._client.fiber, error, work=lease)

    def _parse_body(self, body: RequestBody, destination: ByBody, config: Config) -> RequestTarget:
        """Return the model and the options that the body requests."""
        return request_target(
            body.data or b"",
            self._head.get(b"content-type") or b"",
            default=self._caller.default_model(config),
            query_model=destination.model,
            scanner=body.scan,
        )

    async def _apply_overrides(self, body: RequestBody, overrides: RequestOverrides) -> None:
        """Apply the overrides of the model, or of its preset, to the body.

        Raises:
            RequestError: if a backend may read parameters in it that cannot be changed.
        """
        scan, fields = body.scan, self._head.fields
        if not body.data or not can_be_changed(body.data, fields, scan):
            return
        if not isinstance(scan, FieldScanner):
            changed = with_overrides(overrides, body.data)
            if changed is not None:
                body.data = changed
                return
            body.data = bytearray(body.data)
            scan = await self._reader.scan_fields(body.data, b"", overrides.touched)
            can_be_changed(body.data, fields, scan)
        assert isinstance(scan, FieldScanner), "only the scan of a form is another one"
        assert isinstance(body.data, bytearray), "only a body that came in pieces is scanned"
        for _ in override_in_place(overrides, body.data, scan):
            await self._reader.yield_turn()

    def _named(
        self, destination: ByQuery | ByPath, config: Config
    ) -> tuple[str, bool | None, ModelPath | None]:
        """Return the model's name, whether a stream is requested, and the path after the name."""
        if isinstance(destination, ByQuery):
            return checked_name(destination.model), False, None
        in_path = split_model(destination.tail, partial(self._caller.find, config))
        return in_path.model, None, in_path

    def _checked_target(
        self, model: ModelId | None, name: str, in_path: ModelPath | None, config: Config
    ) -> bytes | None:
        """Check access to the model; return the request target at its backend.

        A path that is not among the model's ``proxy_endpoints`` needs permission for changes.

        Returns:
            The target; None if the path ends with the model's name, without a slash.

        Raises:
            AccessError: if the client may not use the model, or lacks that permission.
            EndpointNotAllowedError: if the path is not among the model's ``proxy_endpoints``.
        """
        head, caller = self._head, self._caller
        if model is None:
            if caller.models is not None:
                raise caller.unknown(name, config)
            return head.origin
        spec = config.models[model]
        if caller.models is not None:
            caller.check_model(spec, name, config)
        if spec.spawn.keep_cache:
            self._check_slots(head.path if in_path is None else in_path.path, model)
        if in_path is None:
            _check_allowed(head.path, spec.spawn.proxy_endpoints, model)
            return head.origin
        path = in_path.path
        if not path:
            return None
        gate = self._gateway.gate
        if not allowed(path, spec.spawn.proxy_endpoints) and not gate.changes_are_open:
            gate.check(Scope.CHANGES, head.method, head.fields)
            self._strip_headers |= _AUTHORIZATION  # it may be the admin token
        return path + b"?" + head.query if head.query else path

    def _check_slots(self, path: bytes, model: ModelId) -> None:
        """Refuse what would change the slots of a model whose prompt cache is kept.

        With the folder for it, llama-server serves such requests, and they would read and write
        what the router keeps there of other clients.

        Raises:
            EndpointNotAllowedError: if the request does that.
        """
        if acts_on_slots(self._head.method, path):
            raise EndpointNotAllowedError(
                f"slots of model {str(model)!r} are saved and restored by the router only, "
                "because it has keep_cache = true"
            )

    async def _redirect(self, origin: bytes | None = None) -> bool:
        """Redirect to the same path, with a slash at its end or at *origin*.

        A page has links that are relative to the slash; for *origin* see `Gate.place_of_page`.
        Returns as `serve` does.
        """
        self._log.status = int(HTTPStatus.TEMPORARY_REDIRECT)
        reusable = self._is_reusable()
        head, fields, close = self._head, self._cors_headers, not reusable
        if origin is None:
            await self._send(slash_redirect(head, fields, close=close))
        else:
            await self._send(page_redirect(head, origin, fields, close=close))
        return reusable

    async def _send(self, response: bytes) -> None:
        self._client.fiber.expire_in(BODY_TIMEOUT_S)
        await self._client.send(response)
        self._client.fiber.deadline_s = math.inf

    def _early_stream(self, name: str, *, stream: bool | None) -> EarlyStream | None:
        """Return the response that may begin before the backend's, if the request allows that."""
        return early_stream(
            self._client,
            self._head,
            model_name=name,
            stream=None if self._upgrade else stream,
            add_headers=self._early_fields(),
            close=not self._head.keep_alive or self._gateway.draining.is_set(),
        )

    async def _wait(
        self,
        lease: Lease,
        model: ModelId,
        target: bytes,
        response_model: str | None,
        *,
        stream: bool | None,
    ) -> Upstream:
        """Wait for the backend; the exchange continues a response that begins meanwhile.

        A resumable stream goes on to wait without its client. The arguments are those of
        `_serve_leased`.
        """
        gateway, early = self._gateway, self._early
        wait = RequestWait(
            loop=gateway.loop,
            dispatcher=gateway.dispatcher,
            client=self._client,
            head=self._head,
            caller=self._caller,
            early=early,
        )
        name = self._conversation
        if not stream or not name or early is None or self._body is None:
            return await wait.run(lease, model)
        assert lease.cut is not None, "set before each wait"
        record = early.record = early.record or WaitingStream(
            model, lease.cut, started_s=early.dialect.info.created_s
        )
        record.cut = lease.cut
        gateway.conversations.begin_wait(name, record)
        try:
            return await wait.run(lease, model)
        except ClientGoneError:
            self._detach(wait, lease, model, target, response_model)
            raise
        except (RouterError, FiberCancelledError) as exc:
            error = exc if isinstance(exc, RouterError) else exc.error
            gateway.conversations.end_wait(name, record, early.dialect.error(error))
            raise

    def _detach(
        self,
        wait: RequestWait,
        lease: Lease,
        model: ModelId,
        target: bytes,
        response_model: str | None,
    ) -> None:
        """Let the request go on without its client; see `DetachedRequest`."""
        gateway, early, body, name = self._gateway, self._early, self._body, self._conversation
        assert early is not None, "it waits in a stream"
        assert early.record is not None, "the stream is resumable"
        assert body is not None, "the body was received before the wait"
        assert gateway.tasks is not None, "the gateway is served"
        assert wait.reporter is not None, "the wait has begun"
        assert name is not None, "the stream is resumable"
        detached = DetachedRequest(
            dispatcher=gateway.dispatcher,
            conversations=gateway.conversations,
            name=name,
            record=early.record,
            lease=lease,
            wait=StreamWait(gateway.dispatcher, lease, model, wait.reporter, self._caller),
            peer=self._client.peer,
            dialect=early.dialect,
            path=self._head.path.decode("ascii", "replace"),
            target=target,
            fields=end_to_end_fields(self._head, self._strip_headers | _REPLACED),
            body=body,
            response_model=response_model,
        )
        self._body = None
        early.record.cut = lease.cut = detached.cancel
        lease.hand_over()
        gateway.tasks.start_soon(detached.run, model)

    @property
    def _conversation(self) -> str | None:
        """Name of the conversation that the stream belongs to; None if it has none."""
        name = self._head.get(CONVERSATION_FIELD)
        return name.decode("latin-1") if name and len(name) <= MAX_NAME else None

    @property
    def _keepalive_s(self) -> float:
        """Time between two keepalives while the backend is silent, in seconds; 0 for none.

        A resumable stream has none: its client counts bytes, and the backend does not know them.
        """
        keepalive_s = self._gateway.dispatcher.config.router.stream_keepalive_s
        return keepalive_s if keepalive_s and self._conversation is None else 0.0

    def _record_conversation(self, backend: Upstream, response_model: str | None) -> None:
        """Record the owner of this stream, for a client that leaves and returns."""
        name, early = self._conversation, self._early
        if name is None:
            return
        early_bytes = 0 if early is None else early.events_bytes
        owner = Owner(backend.model, backend.pid, early_bytes, response_model)
        self._gateway.conversations.note(name, owner)
        if early is not None and early.record is not None:
            self._gateway.conversations.end_wait(name, early.record)

    async def _observe(self, destination: Observe) -> bool:
        """Serve a request that never starts a model; return as `serve` does."""
        dispatcher, caller, name = self._gateway.dispatcher, self._caller, destination.model
        model: ModelId | None = None
        if name is not None:
            checked_name(name)
            model = dispatcher.config.resolve(name) or ModelId(name)
            if caller.models is not None:
                spec = dispatcher.config.models.get(model)
                if spec is None:
                    raise caller.unknown(name, dispatcher.config)
                caller.check_model(spec, name, dispatcher.config)
        path = destination.path.encode()
        if destination in _OPEN_ROUTES:
            found = self._backend_with_health(path)
            if found is None:
                return await self._answer_health()
            backend, path = found
        else:
            backend = self._running(model, destination)
            _check_allowed(path, backend.spec.spawn.proxy_endpoints, backend.model)
        self._log.model = backend.model
        query = self._head.query
        return await self._run_exchange(backend, path + b"?" + query if query else path, None)

    def _running(self, model: ModelId | None, destination: Observe) -> Upstream:
        """Return the running backend that *destination* means.

        Raises:
            RouterError: if there is none.
        """
        try:
            return self._gateway.dispatcher.running(model, self._caller.may_use)
        except NoModelRunningError as exc:
            is_props = model is None and destination.path == "/props"
            raise (health_error(self._gateway) if is_props else None) or exc from None

    def _backend_with_health(self, path: bytes) -> tuple[Upstream, bytes] | None:
        """Return the backend that was started last, and its path for *path*.

        None if no model runs, or the path is not among its ``proxy_endpoints``.
        """
        try:
            backend = self._gateway.dispatcher.running(None)
        except NoModelRunningError:
            return None
        spawn = backend.spec.spawn
        if not allowed(path, spawn.proxy_endpoints):
            return None
        own = spawn.health_endpoint
        return backend, path if own == HEALTH[0] else own.encode()

    async def _answer_health(self) -> bool:
        """Answer for the router, because no model does; return as `serve` does.

        Raises:
            RouterError: if the router is not ready.
        """
        if (error := health_error(self._gateway)) is not None:
            raise error
        reusable = self._is_reusable()
        await self._send(healthy_response(self._head, self._cors_headers, close=not reusable))
        self._log.status = int(HTTPStatus.OK)
        return reusable

    async def _run_exchange(
        self, backend: Upstream, target: bytes, response_model: str | None
    ) -> bool:
        """Send the request to *backend*, and its response to the client; return as `serve` does.

        Args:
            backend: The backend.
            target: The request target there.
            response_model: Name that replaces the model's in the response; None to leave it.
        """
        exchange = self._exchange(target, response_model)
        if (lease := self._log.lease) is not None:
            lease.moved_bytes = exchange.moved_bytes
            self._gateway.dispatcher.activity.granted(self._log)
        try:
            await exchange.run(backend)
        except BaseException as exc:
            self._log_exchange(exchange)
            if isinstance(exc, ClientGoneError):
                self._complete = is_complete(exchange.last(), self._path)
            if isinstance(exc, UpstreamError):
                self._gateway.dispatcher.note_outcome(backend, status=0, error=exc)
            raise
        self._log_exchange(exchange)
        status, error = exchange.status, exchange.error
        if backend.cache is not None and status == HTTPStatus.OK and backend.cache.awaits_answer:
            backend.cache.note_answer(exchange.last())
        if error is not None or backend.failures or status >= _FIRST_FAILURE:
            self._gateway.dispatcher.note_outcome(backend, status=status, error=error)
        return exchange.reusable

    def _exchange(self, target: bytes, response_model: str | None) -> Exchange:
        router = self._gateway.dispatcher.config.router
        strip_headers, keepalive_s = self._strip_headers, self._keepalive_s
        early = self._early
        if response_model is not None or (early is not None and (early.begun or keepalive_s)):
            # A compressed response can neither be changed nor be inserted into a stream.
            strip_headers |= _ACCEPT_ENCODING
        request = BackendRequest(
            self._head,
            target,
            self._body or RequestBody(),
            strip_headers,
            self._cors_headers,
            router.connection_timeout_s,
            router.read_timeout_s,
            self._gateway.draining.is_set(),
            self._upgrade,
            response_model,
            self._id_field(),
            early,
            self._log.lease,
            keepalive_s,
        )
        loop, client = self._gateway.loop, self._client
        if self._upload is not None:
            return StreamingUpload(loop, client, request, self._upload)
        return (HandshakeExchange if self._upgrade else BufferedExchange)(loop, client, request)

    def _id_field(self) -> tuple[bytes, bytes] | None:
        """Return the field with the request id; None if the API has none.

        Only the paths of an API have it: any other response is passed on as it is.
        """
        api = APIS.api_with_path(self._path)
        if api is None or (name := api.request_id_header) is None:
            return None
        self._log.request_id = request_id = self._id()
        return name, request_id.encode()

    def _id(self) -> str:
        """Return the id of the request, which most responses and all errors name."""
        if self._request_id is None:
            self._request_id = new_request_id()
        return self._request_id

    def _early_fields(self) -> Sequence[tuple[bytes, bytes]]:
        """Return the fields to add to a response that begins before its backend's."""
        field = self._id_field()
        return self._cors_headers if field is None else (*self._cors_headers, field)

    def _log_exchange(self, exchange: Exchange) -> None:
        log = self._log
        log.status = exchange.status
        log.first_body_s = exchange.first_body_s
        log.sent_bytes = exchange.sent_bytes
        log.usage = usage_of(self._path, exchange.last(), exchange.first())
        log.error = exchange.error

    async def _refuse(self, error: RouterError) -> bool:
        """Respond with *error*; return as `serve` does."""
        reusable = self._is_reusable()
        request_id = self._id()
        self._log.refuse(error, request_id)
        early = self._early
        if early is not None and early.begun:
            await early.end(error)
            return reusable and not early.closes
        headers = self._cors_headers
        close = not reusable
        await send_refusal(self._client, self._head, error, request_id, headers, close=close)
        return reusable

    def _is_reusable(self) -> bool:
        """Return whether the connection can be used again after a response of the router."""
        is_read = self._body is not None
        return is_read and self._head.keep_alive and not self._gateway.draining.is_set()


async def send_refusal(
    client: ClientSocket,
    head: RequestHead | None,
    error: RouterError,
    request_id: str,
    add_headers: Sequence[tuple[bytes, bytes]],
    *,
    close: bool,
) -> None:
    """Send *error* in the format of the API that was requested.

    Args:
        client: The client's connection.
        head: The request's head; None if it could not be read.
        error: The error.
        request_id: The id of the request in the log.
        add_headers: Fields to add.
        close: The connection ends with this response.

    Raises:
        ClientGoneError: if an abandoned send makes it impossible.
    """
    if client.mid_send:
        raise ClientGoneError
    client.fiber.expire_in(BODY_TIMEOUT_S)
    if (
        isinstance(error, ApiKeyError)
        and head is not None
        and asks_for_page(head.method, head.fields)
    ):
        add_headers = (*add_headers, _ASK_FOR_PASSWORD)
    with contextlib.suppress(ClientGoneError, FiberTimeoutError):
        await client.send(error_response(head, error, request_id, add_headers, close=close))
    client.fiber.deadline_s = math.inf


def _check_allowed(path: bytes, endpoints: tuple[str, ...], model: str) -> None:
    if not allowed(path, endpoints):
        raise EndpointNotAllowedError(
            f"the path {path.decode('ascii', 'replace')!r} is not among the proxy_endpoints of "
            f"model {str(model)!r}: {', '.join(endpoints)}; add it there, or use "
            f"/upstream/{model}{path.decode('ascii', 'replace')}"
        )
