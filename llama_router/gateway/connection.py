"""One client's connection: request after request, until one is not the data plane's.

Such a request is handed to the control plane, together with the connection and the
bytes already read; it does not come back.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from typing import Final

import structlog

from ..backends.backend import Backend
from ..core.access.gate import UNRESTRICTED, Scope
from ..core.config.config import Config
from ..core.config.names import ModelId, ResolvedModel
from ..core.config.overrides import RequestOverrides
from ..core.config.specs import ModelSpec
from ..core.requests.body_overrides import override_in_place, with_overrides
from ..core.requests.json_scan import FieldScanner
from ..core.requests.request_target import request_target
from ..core.requests.routes import (
    ByBody,
    ByPath,
    ByQuery,
    Control,
    ModelPath,
    Observe,
    allowed,
    route,
    split_model,
)
from ..dispatch.conversations import Owner
from ..dispatch.lease import Lease
from ..errors.base import RouterError
from ..errors.requests import EndpointNotAllowedError, RequestError
from ..http1 import RequestHead
from ..logs.request_ids import new_request_id
from .exchange import Exchange, Handshake
from .gateway import Gateway
from .loop.fiber import Fiber, FiberCutError, FiberTimeoutError
from .reader import BODY_TIMEOUT_S, Reader
from .request_log import RequestLog
from .router_responses import error_response, slash_redirect
from .sockets import Client, ClientGoneError
from .upload import StreamingUpload
from .waiting import Waiting

log = structlog.get_logger()

#: By this field a client names its conversation, so that its stream can be resumed.
CONVERSATION_FIELD: Final = b"x-conversation-id"


async def serve_connection(gateway: Gateway, connection: socket.socket, fiber: Fiber) -> None:
    """Serve one connection until one of the two sides ends it. Closes it.

    Args:
        gateway: What it shares with others.
        connection: Non-blocking.
        fiber: That it is served in.
    """
    try:
        client = Client(gateway.engine, connection, fiber)
    except OSError as exc:
        connection.close()
        log.warning("connection.dropped", reason=exc.strerror)
        return
    try:
        await _Connection(gateway, client).serve()
    except (ClientGoneError, FiberTimeoutError, FiberCutError, OSError):
        pass  # nobody is there to be told
    finally:
        client.close()


class _Connection:
    def __init__(self, gateway: Gateway, client: Client) -> None:
        self._gateway = gateway
        self._client = client
        self._fiber = client.fiber
        self._caller = UNRESTRICTED  # of the current request
        self._cors: Sequence[tuple[bytes, bytes]] = ()  # what its answer says to a browser
        self._reader = Reader(gateway.engine, client, gateway.idle, gateway.draining)

    async def serve(self) -> None:
        while True:
            try:
                head = await self._reader.receive_head()
            except RequestError as exc:
                await self._refuse_unread(exc)
                await self._client.linger()
                return
            if head is None:
                return
            asked_for = route(head.method, head.path, head.query)
            if isinstance(asked_for, Control):
                by_path = asked_for.only_preflight
                if by_path is None or head.get(b"access-control-request-method") is not None:
                    self._hand_over(head)
                    return
                asked_for = by_path
            if not await self._proxy(head, asked_for):
                await self._client.linger()
                return
            if self._reader.buffer:
                await self._fiber.spend()  # pipelined requests may be refused without a wait

    def _hand_over(self, head: RequestHead) -> None:
        received, self._reader.buffer = self._reader.buffer[head.size :], b""
        self._gateway.hand_over(self._client.release(), head, received)

    # -- proxied requests -----------------------------------------------------------------

    async def _proxy(
        self, head: RequestHead, asked_for: ByBody | ByQuery | ByPath | Observe
    ) -> bool:
        """Serve one request; return whether the connection can be used for another."""
        begun_s = self._gateway.engine.clock()
        body_received = False
        record = RequestLog(head)
        exchange = Exchange(self._gateway.engine, self._client, head)
        try:
            self._cors = self._gateway.gate.cors_fields(head.fields)
            self._caller = self._gateway.gate.check(Scope.MODELS, head.method, head.fields)
            exchange.withheld = self._gateway.gate.strip_headers
            exchange.extra = self._cors
            router = self._gateway.dispatcher.config.router
            limit_bytes = router.max_body_mib * 1024 * 1024
            reader = self._reader
            body_received, exchange.body = reader.take_body(head, limit_bytes)
            if not body_received:
                head.upgrade = False  # a handshake has no body: RFC 6455, section 4.1
                if isinstance(asked_for, ByPath):
                    exchange = self._passage(head, exchange)
                else:
                    self._gateway.engine.bodies.limit_bytes = router.max_bodies_mib * 1024 * 1024
                    touched = self._gateway.dispatcher.config.touched
                    exchange.on_answer = reader.let_go
                    exchange.body = await reader.receive_body(head, limit_bytes, touched)
                    body_received = True
            elif head.upgrade:
                exchange = self._handshake(head, exchange)
            if isinstance(asked_for, Observe):
                await self._observe(head, asked_for, exchange, record)
            else:
                await self._serve_model(head, asked_for, exchange, record)
        except (RouterError, FiberCutError) as raised:
            exc = raised.error if isinstance(raised, FiberCutError) else raised
            keep = body_received and head.keep_alive and not self._gateway.draining.is_set()
            if exchange.early is not None:
                record.refused(exc, None)
                await exchange.early.end(exc)
                return keep
            request_id = new_request_id()
            record.refused(exc, request_id)
            await self._refuse(head, exc, request_id, close=not keep)
            return keep
        except ClientGoneError:
            record.outcome = "client_gone"
            raise
        else:
            record.outcome = "ok"
        finally:
            self._reader.let_go()
            record.write(exchange, duration_s=self._gateway.engine.clock() - begun_s)
        return exchange.reusable

    def _passage(self, head: RequestHead, instead_of: Exchange) -> Exchange:
        """Return an exchange for a body that need not be here: nobody looks into it."""
        received, self._reader.buffer = self._reader.buffer[head.size :], b""
        passage = StreamingUpload(self._gateway.engine, self._client, head, received)
        passage.withheld, passage.extra = instead_of.withheld, instead_of.extra
        return passage

    def _handshake(self, head: RequestHead, instead_of: Exchange) -> Exchange:
        """Return an exchange for a request that offers another protocol."""
        if self._reader.buffer:
            head.upgrade = False  # what follows it already is HTTP
            return instead_of
        handshake = Handshake(self._gateway.engine, self._client, head)
        handshake.withheld, handshake.extra = instead_of.withheld, instead_of.extra
        handshake.body = instead_of.body
        return handshake

    async def _serve_model(
        self,
        head: RequestHead,
        asked_for: ByBody | ByQuery | ByPath,
        exchange: Exchange,
        record: RequestLog,
    ) -> None:
        dispatcher = self._gateway.dispatcher
        config = dispatcher.config
        stream: bool | None
        in_path: ModelPath | None = None
        if isinstance(asked_for, ByBody):
            body = exchange.body or b""
            target = request_target(
                body,
                head.get(b"content-type") or b"",
                default=config.router.default_model,
                query_model=asked_for.model,
                scanner=self._reader.scanner,
            )
            name, stream = target.model, target.stream
            resolved = config.resolve_request(name)
            if resolved is not None and resolved.overrides is not None:
                overridable = None if target.opaque else body
                await self._override(exchange, resolved, resolved.overrides, overridable)
            del body  # only the exchange holds it, and not longer than it must
            self._reader.scanner = None
        else:
            name, stream, in_path = self._named(asked_for, config)
            resolved = config.resolve_request(name)
        model = None if resolved is None else resolved.model
        record.model = name if model is None else model
        if model is not None:
            spec = config.models[model]
            self._caller.check_model(spec, name, config)
            if in_path is None:
                self._check_allowed(head.path, spec.spawn.proxy_endpoints, model)
            elif not await self._aim(in_path.path, spec, head, exchange):
                return
        elif self._caller.models is not None:
            raise self._caller.unknown(name, config)
        if isinstance(asked_for, ByBody) and not asked_for.autoload and model is not None:
            dispatcher.check_loaded(model)
        # Without a model, the scheduler refuses the name, as it does an id just removed.
        with dispatcher.lease(model or ModelId(name), caller=self._caller.name) as lease:
            lease.cut = partial(self._gateway.engine.cut, self._fiber)
            try:
                backend = lease.granted_nowait()
                if backend is None:
                    assert model is not None, "an unknown model is refused at once"
                    waiting = self._waiting(head, exchange.bears or name, stream=stream)
                    backend = await self._wait(waiting, lease, model, exchange)
                if stream:
                    self._note_conversation(head, backend, exchange)
                self._set_limits(exchange)
                await exchange.run(backend)
            finally:
                record.lease = lease

    async def _override(
        self,
        exchange: Exchange,
        resolved: ResolvedModel,
        overrides: RequestOverrides,
        body: bytes | bytearray | None,
    ) -> None:
        """Apply *overrides* to the request, and the name of a preset to the answer.

        Args:
            exchange: The exchange.
            resolved: The requested model.
            overrides: Its overrides.
            body: The body; None if nothing in it can be changed.
        """
        if body is not None:
            scanner = self._reader.scanner
            if not isinstance(scanner, FieldScanner):
                exchange.body = with_overrides(overrides, body)
            else:
                assert isinstance(body, bytearray), "only a body that came in pieces is scanned"
                for _ in override_in_place(overrides, body, scanner):
                    await self._reader.pass_on()
        if resolved.preset is not None:
            exchange.bear(resolved.name)

    def _named(
        self, asked_for: ByQuery | ByPath, config: Config
    ) -> tuple[str, bool | None, ModelPath | None]:
        """Return the model's name, whether a stream is wanted, and what stands behind the name."""
        if isinstance(asked_for, ByQuery):
            return asked_for.model, False, None
        in_path = split_model(asked_for.tail, partial(self._caller.find, config))
        return in_path.model, None, in_path

    @staticmethod
    async def _wait(waiting: Waiting, lease: Lease, model: ModelId, exchange: Exchange) -> Backend:
        """Wait for the backend; what its client got meanwhile is continued by *exchange*."""
        try:
            return await waiting.granted(lease, model)
        finally:
            exchange.continue_(waiting.early)

    def _note_conversation(self, head: RequestHead, backend: Backend, exchange: Exchange) -> None:
        """Note whom to ask for the rest of this stream, if its client leaves and comes back."""
        name = head.get(CONVERSATION_FIELD)
        if name:
            early_bytes = 0 if exchange.early is None else exchange.early.sent_bytes
            owner = Owner(backend.model, backend.pid, early_bytes, exchange.bears)
            self._gateway.conversations.note(name.decode("latin-1"), owner)

    async def _aim(
        self, path: bytes, spec: ModelSpec, head: RequestHead, exchange: Exchange
    ) -> bool:
        """Let *exchange* ask for *path*, which stands behind the name of the model *spec*.

        What is not among the model's ``proxy_endpoints`` is for those who may change models.

        Returns:
            False if there is none: the client was sent to the same path with a slash behind
            it, because what it will find there has links to what is below.

        Raises:
            AccessError: if that is the case, and the client is none of them.
        """
        if not path:
            await self._redirect(head, exchange)
            return False
        gate = self._gateway.gate
        if not allowed(path, spec.spawn.proxy_endpoints) and not gate.changes_are_open:
            gate.check(Scope.CHANGES, head.method, head.fields)
            exchange.withheld |= {b"authorization"}  # it may be the admin token
        exchange.target = path + b"?" + head.query if head.query else path
        return True

    async def _redirect(self, head: RequestHead, exchange: Exchange) -> None:
        """Send the client to the same path with a slash behind it."""
        exchange.status = HTTPStatus.TEMPORARY_REDIRECT
        body_is_here = not isinstance(exchange, StreamingUpload)
        exchange.reusable = body_is_here and head.keep_alive and not self._gateway.draining.is_set()
        self._fiber.expire_in(BODY_TIMEOUT_S)
        await self._client.send(slash_redirect(head, self._cors, close=not exchange.reusable))
        self._fiber.deadline_s = math.inf

    async def _observe(
        self,
        head: RequestHead,
        asked_for: Observe,
        exchange: Exchange,
        record: RequestLog,
    ) -> None:
        dispatcher, caller, name = self._gateway.dispatcher, self._caller, asked_for.model
        model: ModelId | None = None
        if name is not None:
            model = dispatcher.config.resolve(name) or ModelId(name)
            if caller.models is not None:
                spec = dispatcher.config.models.get(model)
                if spec is None:
                    raise caller.unknown(name, dispatcher.config)
                caller.check_model(spec, name, dispatcher.config)
        backend = dispatcher.running(model, caller.may_use)
        record.model = backend.model
        path = asked_for.path.encode()
        self._check_allowed(path, backend.spec.spawn.proxy_endpoints, backend.model)
        exchange.target = path + b"?" + head.query if head.query else path
        self._set_limits(exchange)
        await exchange.run(backend)

    @staticmethod
    def _check_allowed(path: bytes, endpoints: tuple[str, ...], model: str) -> None:
        if not allowed(path, endpoints):
            raise EndpointNotAllowedError(
                f"the path {path.decode('ascii', 'replace')!r} is not among the proxy_endpoints of "
                f"model {str(model)!r}: {', '.join(endpoints)}; add it there, or use "
                f"/upstream/{model}{path.decode('ascii', 'replace')}"
            )

    def _waiting(self, head: RequestHead, name: str, *, stream: bool | None) -> Waiting:
        return Waiting(
            engine=self._gateway.engine,
            dispatcher=self._gateway.dispatcher,
            client=self._client,
            head=head,
            name=name,
            caller=self._caller,
            stream=stream,
            fields=self._cors,
            close=not head.keep_alive or self._gateway.draining.is_set(),
        )

    def _set_limits(self, exchange: Exchange) -> None:
        router = self._gateway.dispatcher.config.router
        exchange.connection_timeout_s = router.connection_timeout_s
        exchange.read_timeout_s = router.read_timeout_s
        exchange.close = self._gateway.draining.is_set()

    async def _refuse_unread(self, error: RequestError) -> None:
        """Answer with an error to what could not be read: whose API it is for is not known."""
        request_id = new_request_id()
        log.info(
            "request.refused",
            code=error.code,
            status=int(error.status),
            reason=str(error),
            request_id=request_id,
        )
        await self._refuse(None, error, request_id, close=True)

    async def _refuse(
        self, head: RequestHead | None, error: RouterError, request_id: str, *, close: bool
    ) -> None:
        """Answer with an error, as the API that was asked for has it."""
        if self._client.torn:
            raise ClientGoneError
        self._fiber.expire_in(BODY_TIMEOUT_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(
                error_response(head, error, request_id, self._cors, close=close)
            )
        self._fiber.deadline_s = math.inf
