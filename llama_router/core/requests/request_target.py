"""Finds the model that a body requests, without changing or keeping the body. Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs
import msgspec

from ...errors.requests import RequestError
from .json_scan import FieldScanner, too_complex_error
from .multipart import MAX_BOUNDARY_BYTES, FormScanner, boundary_of, is_form
from .target_fields import DECODER, TargetFields
from .tolerated_json import strict_form, why_malformed

#: Longest name of a model, in bytes; no name on any hub comes near it.
MAX_NAME_BYTES: Final = 1024

#: Bodies above this are scanned instead of decoded.
SCANNED_BYTES: Final = 256 * 1024

#: Bodies above this, and with more colons than that, are scanned as well where overrides may
#: apply: a decoder that returns their fields would need several milliseconds.
DENSE_BYTES: Final = 64 * 1024
DENSE_COLONS: Final = 8192

#: Fields of a JSON object that a `RequestTarget` is made of.
TARGET_FIELDS: Final = frozenset(("model", "stream"))

_FORM_FIELDS: Final = frozenset((b"model", b"stream"))


@attrs.frozen
class RequestTarget:
    """The model and the kind of answer that a body requests.

    Attributes:
        model: The name as the client wrote it.
        stream: The client wants an event stream.
        opaque: The body is not a JSON object, so nothing in it can be changed.
    """

    model: str
    stream: bool
    opaque: bool = False


#: Media type that curl gives everything that it sends with ``-d``, JSON above all.
_CURL_TYPE: Final = b"application/x-www-form-urlencoded"


_JSON: Final = b"application/json"


_decode: Final = DECODER.decode


#: Bytes that may precede an object: blanks, and a byte order mark.
_BEFORE_OBJECT: Final = b" \t\r\n\xef\xbb\xbf"

#: First bytes of data that gzip or Zstandard has compressed (RFC 1952 and RFC 8878).
_COMPRESSED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


def form_scanner(content_type: bytes) -> FormScanner | None:
    """Return a scanner for a body that is still arriving; None if it is not a multipart form.

    Args:
        content_type: Value of its Content-Type field; empty if it has none.
    """
    boundary = boundary_of(content_type)
    return None if boundary is None else FormScanner(boundary, _FORM_FIELDS)


def request_target(
    body: bytes | bytearray | memoryview,
    content_type: bytes,
    *,
    default: str | None = None,
    query_model: str | None = None,
    scanner: FormScanner | FieldScanner | None = None,
) -> RequestTarget:
    """Return what *body* requests.

    Args:
        body: The whole request body.
        content_type: Value of its Content-Type field; empty if it has none.
        default: The model of a request that names none. Its body need not be of a kind that can
            name one, either.
        query_model: The model that the query names. It counts where the body names none, and
            then the body need not be of a kind that can name one.
        scanner: Has scanned the body already, see `form_scanner` and `field_scanner`.

    Raises:
        RequestError: if the body is neither a JSON object nor a multipart form,
            or no model is named.
    """
    if scanner is None and content_type == _JSON and body[:1] == b"{":
        return _target_of_json(body, query_model or default)  # as nearly always
    form = form_scanner(content_type) if scanner is None else scanner
    if isinstance(form, FormScanner):
        return _target_of_form(body, form, query_model or default)
    if query_model is not None and not _can_name_model(body, content_type):
        return RequestTarget(checked_name(query_model), stream=False, opaque=True)
    if body[:1] != b"{" and _first_byte(body) != b"{":
        if is_form(content_type):
            raise RequestError(
                "Content-Type says multipart/form-data, but names no boundary of 1 to "
                f"{MAX_BOUNDARY_BYTES} characters"
            )
        if default is not None and not _can_name_model(body, content_type):
            return RequestTarget(checked_name(default), stream=False, opaque=True)
    if form is not None:
        return _target_of_json(_skeleton(form, body), query_model or default)
    return _target_of_json(body, query_model or default)


def needs_scan(body: bytes | bytearray, *, has_overrides: bool) -> bool:
    """Return whether a decoder would take too long for *body*, so that it must be scanned.

    Args:
        body: The whole request body.
        has_overrides: Overrides may apply, for which bodies are decoded field by field.
    """
    size = len(body)
    if size > SCANNED_BYTES:
        return True
    return has_overrides and size > DENSE_BYTES and body.count(b":") > DENSE_COLONS


def field_scanner(
    body: bytes | bytearray, content_type: bytes, names: frozenset[str]
) -> FieldScanner | None:
    """Return a scanner for a large body; None if it is a multipart form.

    Args:
        body: The whole request body.
        content_type: Value of its Content-Type field; empty if it has none.
        names: Names of the fields to find, `TARGET_FIELDS` among them.
    """
    return None if boundary_of(content_type) is not None else FieldScanner(body, names)


def _skeleton(scanner: FieldScanner, body: bytes | bytearray | memoryview) -> bytes:
    """Return a small object with the same target.

    Raises:
        RequestError: if *body* is not an object, or has too many parts.
    """
    if scanner.is_too_complex:
        raise too_complex_error()
    if scanner.is_malformed:
        raise _compressed_error(body) or RequestError(
            "the body is not valid JSON: it is no object, or is cut off"
        )
    fields = ((name, scanner.text_of(name)) for name in sorted(TARGET_FIELDS))
    return b"{%b}" % b",".join(b'"%b":%b' % (n.encode(), t) for n, t in fields if t is not None)


def _compressed_error(body: bytes | bytearray | memoryview) -> RequestError | None:
    """Return the error for a compressed *body*; None if it is not compressed."""
    if not bytes(body[:4]).startswith(_COMPRESSED):
        return None
    return RequestError(
        "the body is compressed, so the model that it names cannot be seen: send it uncompressed"
    )


def _first_byte(body: bytes | bytearray | memoryview) -> bytes:
    """Return the first byte of *body* that is no blank; empty if it begins with many."""
    return bytes(body[:64]).lstrip(_BEFORE_OBJECT)[:1]


def _can_name_model(body: bytes | bytearray | memoryview, content_type: bytes) -> bool:
    """Return whether *body* could name a model: it is a JSON object, perhaps a malformed one."""
    first, kind = _first_byte(body), content_type.lower()
    if kind.startswith(_CURL_TYPE):
        return first == b"{"
    if kind and b"json" not in kind:
        return False
    return first not in (b"", b"[")


def _target_of_json(body: bytes | bytearray | memoryview, default: str | None) -> RequestTarget:
    if not len(body):
        raise RequestError(
            "the body is empty, and no model is named: name it in a JSON object, or as ?model="
        )
    try:
        target = _decoded(body)
    except msgspec.ValidationError as exc:
        raise RequestError(f"the body is not as expected: {exc}", param=_field_of(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _compressed_error(body) or RequestError(
            f"the body is not valid JSON: {why_malformed(exc)}"
        ) from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    return RequestTarget(checked_name(target.model or default), bool(target.stream))


def _decoded(body: bytes | bytearray | memoryview) -> TargetFields:
    """Return the fields of *body*, which may be JSON that only some decoders accept."""
    try:
        return _decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode(strict_form(body))


def _field_of(exc: msgspec.ValidationError) -> str | None:
    """Return the field that msgspec names in *exc*, e.g. of ``... - at `$.model` ``."""
    found = re.search(r"`\$\.(\w+)", str(exc))
    return found[1] if found else None


def _target_of_form(
    body: bytes | bytearray | memoryview, form: FormScanner, default: str | None
) -> RequestTarget:
    while not form.scan(body, len(body)):
        pass  # the rest is little: large forms were scanned while they arrived
    form.finish()
    model = form.values.get(b"model", b"")
    if model is None:
        raise RequestError(f"the model name is over {MAX_NAME_BYTES} bytes", param="model")
    try:
        name = model.decode()
    except UnicodeDecodeError:
        raise RequestError('the form field "model" is not UTF-8', param="model") from None
    stream = (form.values.get(b"stream") or b"").strip().lower() in (b"true", b"1")
    return RequestTarget(checked_name(name or default), stream, opaque=True)


def checked_name(model: str | None) -> str:
    """Return the name *model* of a model.

    Raises:
        RequestError: if it is missing or too long.
    """
    if not model:
        raise RequestError('no model is named: the field "model" is missing', param="model")
    if len(model) > MAX_NAME_BYTES:
        raise RequestError(f"the model name is over {MAX_NAME_BYTES} characters", param="model")
    return model
