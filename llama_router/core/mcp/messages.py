"""Messages of the Model Context Protocol over streamable HTTP, one per request. Pure.

The router keeps no session. It speaks two kinds of the protocol:

- From 2026-07-28, each request says its version and the client's abilities in ``params._meta``,
  and repeats version, method and name in header fields, which must agree with the body.
- Before, a client says hello with ``initialize``; the answer chooses the version, and later
  requests repeat it in a header field.

Sources: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports and
https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import attrs
import msgspec

#: Versions without a handshake, newest first.
STATELESS: Final = ("2026-07-28",)

#: Versions with one, newest first.
WITH_HANDSHAKE: Final = ("2025-11-25", "2025-06-18", "2025-03-26")

_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_ABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"

#: Methods with a name, and the parameter that the field ``Mcp-Name`` repeats.
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}

_BASE64_VALUE: Final = re.compile(r"=\?base64\?(.*)\?=")

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020
UNSUPPORTED_VERSION: Final = -32022

#: The status of an answer with an error, for versions without a handshake; else it is 200.
_STATUSES: Final = {
    PARSE_ERROR: HTTPStatus.BAD_REQUEST,
    INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    INVALID_PARAMS: HTTPStatus.BAD_REQUEST,
    HEADER_MISMATCH: HTTPStatus.BAD_REQUEST,
    UNSUPPORTED_VERSION: HTTPStatus.BAD_REQUEST,
    METHOD_NOT_FOUND: HTTPStatus.NOT_FOUND,
}

#: How long clients may keep lists and pages, in milliseconds; they change with the version only.
_KEEP_MS: Final = 60_000

Fields = Mapping[str, str]
"""Header fields, names in lower case."""


class FaultyMessageError(Exception):
    """A message that is answered with an error of the protocol.

    Args:
        code: The code of JSON-RPC, or of the protocol.
        message: One sentence for the client's developer.
        id_: The id of the request, if it could be read.
        data: Further facts.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        id_: int | str | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.id = id_
        self.data = data


@attrs.frozen
class Call:
    """A request of a client, which expects an answer.

    Attributes:
        id: Its id, which the answer repeats.
        method: The method.
        params: Its parameters.
        version: The version of the protocol; None if the client has not said one.
    """

    id: int | str
    method: str
    params: Mapping[str, Any]
    version: str | None

    @property
    def stateless(self) -> bool:
        """Return whether the request stands for itself, without a handshake before."""
        return self.version in STATELESS


class _Message(msgspec.Struct):
    method: str
    jsonrpc: str = ""
    id: int | str | msgspec.UnsetType = msgspec.UNSET
    params: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


def read_message(body: bytes, fields: Fields) -> Call | None:
    """Return the request in *body*; None for a notification, which gets no answer.

    Raises:
        FaultyMessageError: if it is neither, or contradicts its header fields.
    """
    message = _decoded_message(body)
    if message is None:
        return None
    params = {} if message.params is msgspec.UNSET else message.params
    said = fields.get("mcp-protocol-version")
    if message.id is msgspec.UNSET:
        _check_known(said, None)
        return None
    meta = params.get("_meta")
    version = meta.get(_VERSION_KEY) if isinstance(meta, dict) else None
    if version is None and said not in STATELESS:
        if message.method != "initialize":
            _check_known(said, message.id)
        return Call(message.id, message.method, params, said)
    _check_envelope(meta, message.id)
    if not isinstance(version, str):
        raise FaultyMessageError(INVALID_PARAMS, f"{_VERSION_KEY} must be text", id_=message.id)
    _check_agreement(fields, version, message.method, params, message.id)
    if version not in STATELESS:
        raise _unsupported(version, message.id)
    return Call(message.id, message.method, params, version)


def _decoded_message(body: bytes) -> _Message | None:
    """Return the message in *body*; None for an answer: the server has asked for nothing.

    Raises:
        FaultyMessageError: if it is no message.
    """
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise FaultyMessageError(PARSE_ERROR, "the body is not JSON") from None
    if isinstance(document, list):
        raise FaultyMessageError(INVALID_REQUEST, "a body has one message; batches are not known")
    if isinstance(document, dict) and "method" not in document and "id" in document:
        return None
    try:
        message = msgspec.convert(document, _Message)
    except msgspec.ValidationError as exc:
        raise FaultyMessageError(INVALID_REQUEST, f"this is no message: {exc}") from None
    if message.jsonrpc != "2.0":
        raise FaultyMessageError(INVALID_REQUEST, "'jsonrpc' must be \"2.0\"")
    return message


def _check_envelope(meta: object, id_: int | str) -> None:
    missing = [
        key
        for key in (_VERSION_KEY, _ABILITIES_KEY)
        if not isinstance(meta, dict) or key not in meta
    ]
    if missing:
        raise FaultyMessageError(
            INVALID_PARAMS, f"params._meta needs {' and '.join(missing)}", id_=id_
        )


def _check_agreement(
    fields: Fields, version: str, method: str, params: Mapping[str, Any], id_: int | str
) -> None:
    """Refuse a request whose header fields say something else than its body.

    A proxy that decides by the fields would otherwise be led around.
    """
    repeated = {"mcp-protocol-version": version, "mcp-method": method}
    if (key := _NAMED.get(method)) is not None and isinstance(params.get(key), str):
        repeated["mcp-name"] = params[key]
    for field, value in repeated.items():
        if _decoded(fields.get(field)) != value:
            raise FaultyMessageError(
                HEADER_MISMATCH,
                f"the header field {field!r} must be there, and say what the body says",
                id_=id_,
            )


def _decoded(value: str | None) -> str | None:
    """Return the value of a header field; None if it is missing or not what it should be."""
    encoded = None if value is None else _BASE64_VALUE.fullmatch(value)
    if encoded is None:
        return value
    try:
        return base64.b64decode(encoded[1], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _check_known(version: str | None, id_: int | str | None) -> None:
    if version is not None and version not in (*STATELESS, *WITH_HANDSHAKE):
        raise _unsupported(version, id_)


def _unsupported(version: str, id_: int | str | None) -> FaultyMessageError:
    return FaultyMessageError(
        UNSUPPORTED_VERSION,
        "this version of the protocol is not supported",
        id_=id_,
        data={"supported": [*STATELESS, *WITH_HANDSHAKE], "requested": version},
    )


@attrs.frozen
class Answer:
    """An answer as it is sent.

    Attributes:
        status: Status of HTTP.
        body: The message.
    """

    status: HTTPStatus
    body: bytes


@attrs.frozen(kw_only=True)
class Server:
    """What the server says of itself.

    Attributes:
        version: Version of the program.
        instructions: What it is for, for the model that uses it.
    """

    version: str
    instructions: str

    def greet(self, call: Call) -> dict[str, Any]:
        """Return the result of ``initialize``: the client's version, or the newest one known."""
        wanted = call.params.get("protocolVersion")
        return {
            "protocolVersion": wanted if wanted in WITH_HANDSHAKE else WITH_HANDSHAKE[0],
            **self._about(),
            "serverInfo": self._info(),
        }

    def discover(self) -> dict[str, Any]:
        """Return the result of ``server/discover``."""
        return {"supportedVersions": [*STATELESS, *WITH_HANDSHAKE], **self._about()}

    def answer(self, call: Call, result: Mapping[str, Any], *, kept: bool = False) -> Answer:
        """Return the answer to *call*.

        Args:
            call: The request.
            result: The result of its method.
            kept: Whether clients may keep the result for a while.
        """
        content = dict(result)
        if call.stateless:
            content |= {"resultType": "complete", "_meta": {_SERVER_KEY: self._info()}}
            if kept:
                content |= {"ttlMs": _KEEP_MS, "cacheScope": "private"}
        return _encoded(HTTPStatus.OK, {"id": call.id, "result": content})

    def _about(self) -> dict[str, Any]:
        return {"capabilities": {"tools": {}, "resources": {}}, "instructions": self.instructions}

    def _info(self) -> dict[str, Any]:
        return {"name": "llama-router", "version": self.version}


def refuse(error: FaultyMessageError, *, stateless: bool) -> Answer:
    """Return the answer with *error*.

    Args:
        error: The error.
        stateless: Whether the request has a version without a handshake.
    """
    about: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.data is not None:
        about["data"] = error.data
    always = error.id is None or error.code == UNSUPPORTED_VERSION
    status = _STATUSES.get(error.code) if stateless or always else None
    return _encoded(status or HTTPStatus.OK, {"id": error.id, "error": about})


def _encoded(status: HTTPStatus, message: Mapping[str, Any]) -> Answer:
    return Answer(status, msgspec.json.encode({"jsonrpc": "2.0", **message}))
