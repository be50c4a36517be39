"""Messages of the Model Context Protocol: what is read, refused and answered."""

import base64
import json
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.mcp import messages
from llama_router.core.mcp.messages import (
    Call,
    FaultyMessageError,
    Server,
    read_message,
    refuse,
)

NEW = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientCapabilities": {},
}
SERVER = Server(version="1.2", instructions="Use it.")


def message(method: str = "ping", id_: Any = 1, **params: Any) -> bytes:
    """Return a request; without an id a notification."""
    document = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(document if id_ is None else {**document, "id": id_}).encode()


def fields(method: str = "ping", name: str | None = None, version: str = NEW) -> dict[str, str]:
    """Return the header fields of a request without a handshake."""
    found = {"mcp-protocol-version": version, "mcp-method": method}
    return found if name is None else {**found, "mcp-name": name}


def fault(body: bytes, headers: dict[str, str]) -> FaultyMessageError:
    """Return the error that *body* gets."""
    with pytest.raises(FaultyMessageError) as caught:
        read_message(body, headers)
    return caught.value


def test_a_request_after_a_handshake() -> None:
    """Its version is that of the header field, and may be missing."""
    called = read_message(message("tools/list"), {"mcp-protocol-version": "2025-06-18"})
    assert called == Call(1, "tools/list", {}, "2025-06-18")
    assert not called.stateless
    assert read_message(message("tools/list"), {}) == Call(1, "tools/list", {}, None)


def test_a_request_without_a_handshake() -> None:
    """Its version is in the body, and the header fields say the same."""
    body = message("tools/call", "x", _meta=META, name="load_model")
    called = read_message(body, fields("tools/call", "load_model"))
    assert called is not None
    assert (called.id, called.version, called.stateless) == ("x", NEW, True)


def test_a_name_may_be_encoded() -> None:
    """A name that a header field cannot hold comes as base64."""
    encoded = base64.b64encode("mödel".encode()).decode()
    body = message("tools/call", _meta=META, name="mödel")
    assert read_message(body, fields("tools/call", f"=?base64?{encoded}?="))
    assert fault(body, fields("tools/call", "=?base64?!?=")).code == messages.HEADER_MISMATCH


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"mcp-protocol-version": NEW},
        fields("tools/list", "a"),
        fields("tools/call"),
        fields("tools/call", "b"),
        fields("tools/call", "a", "2025-11-25"),
    ],
)
def test_header_fields_must_agree_with_the_body(headers) -> None:
    """Else a proxy that decides by them could be led around."""
    body = message("tools/call", _meta=META, name="a")
    assert fault(body, headers).code == messages.HEADER_MISMATCH


@pytest.mark.parametrize("missing", META)
def test_the_envelope_must_be_complete(missing) -> None:
    """The error names the key that is missing."""
    meta = {key: value for key, value in META.items() if key != missing}
    error = fault(message("ping", _meta=meta), fields())
    assert error.code == messages.INVALID_PARAMS
    assert missing in str(error)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (message("ping"), {"mcp-protocol-version": "1999-01-01"}),
        (message("ping", None), {"mcp-protocol-version": "1999-01-01"}),
        (
            message(
                "ping", _meta={**META, "io.modelcontextprotocol/protocolVersion": "2030-01-01"}
            ),
            fields(version="2030-01-01"),
        ),
    ],
)
def test_an_unknown_version_is_told_the_known_ones(body, headers) -> None:
    """With status 400, so that a client can choose another one."""
    error = fault(body, headers)
    assert error.code == messages.UNSUPPORTED_VERSION
    answer = refuse(error, stateless=False)
    assert answer.status == HTTPStatus.BAD_REQUEST
    assert NEW in json.loads(answer.body)["error"]["data"]["supported"]


def test_initialize_may_name_any_version() -> None:
    """The answer has that version if it is known, else the newest one with a handshake."""
    for wanted, chosen in (("2025-06-18", "2025-06-18"), ("2099-01-01", "2025-11-25")):
        call = read_message(
            message("initialize", protocolVersion=wanted), {"mcp-protocol-version": wanted}
        )
        assert call is not None
        assert SERVER.greet(call)["protocolVersion"] == chosen


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", messages.PARSE_ERROR),
        (b"", messages.PARSE_ERROR),
        (b"[" * 100_000, messages.PARSE_ERROR),
        (b"[]", messages.INVALID_REQUEST),
        (b"1", messages.INVALID_REQUEST),
        (b"{}", messages.INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "method": "ping", "id": 1}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": 1, "id": 1}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": "ping", "id": null}', messages.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": "ping", "id": 1, "params": []}', messages.INVALID_REQUEST),
    ],
)
def test_what_is_no_message(body, code) -> None:
    """Each gets an error with status 400."""
    error = fault(body, {})
    assert error.code == code
    assert refuse(error, stateless=False).status == HTTPStatus.BAD_REQUEST


def test_notifications_and_answers_get_no_answer() -> None:
    """The server has nothing to say to either."""
    assert read_message(message("notifications/initialized", None), {}) is None
    assert read_message(b'{"jsonrpc": "2.0", "id": 1, "result": {}}', {}) is None


def test_an_answer_says_what_its_version_asks_for() -> None:
    """Without a handshake: the kind of result, the server, and how long lists may be kept."""
    old = json.loads(SERVER.answer(Call(1, "ping", {}, None), {"a": 1}, kept=True).body)
    assert old == {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}}
    new = json.loads(SERVER.answer(Call(1, "ping", {}, NEW), {"a": 1}, kept=True).body)["result"]
    assert new["resultType"] == "complete"
    assert new["cacheScope"] == "private"
    assert new["ttlMs"] > 0
    assert new["_meta"]["io.modelcontextprotocol/serverInfo"]["version"] == "1.2"


def test_the_status_of_an_unknown_method_depends_on_the_version() -> None:
    """Clients of older versions read the error from a 200."""
    error = FaultyMessageError(messages.METHOD_NOT_FOUND, "no", id_=1)
    assert refuse(error, stateless=True).status == HTTPStatus.NOT_FOUND
    assert refuse(error, stateless=False).status == HTTPStatus.OK


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(list(fields("a", "b"))), st.text()))
def test_any_bytes_are_a_message_or_refused(body, headers) -> None:
    """Nothing else is raised."""
    with suppress(FaultyMessageError):
        read_message(body, headers)
