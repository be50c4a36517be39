"""Changes of bodies: overrides of request parameters, and notices that are taken out. Pure.

Only the top level of a JSON object is decoded. What is not changed goes to the backend as
the client wrote it, number for number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec

from ...errors.requests import RequestError
from ..apis.notices import MARK
from ..config.overrides import RequestOverrides
from .json_scan import (
    MAX_FIELDS,
    SEARCHED_BYTES,
    WINDOW_BYTES,
    FieldScanner,
    change,
    too_complex_error,
)
from .multipart import FormScanner, boundary_of
from .tolerated_json import strict_form, why_malformed

#: The mark of a notice as JSON has it: as it is, or as an escape.
_MARKS: Final = (MARK.encode(), b"\\u%04x" % ord(MARK))

#: The last byte of the mark as it is.
_MARK_BYTE: Final = _MARKS[0][-1:]

#: A notice inside a JSON string, with the line break behind it. Its sentence names a few models.
_NOTICE: Final = re.compile(
    rb"(?<!\\)(?:%b)(?:[^\"\\]|\\.){0,8192}?(?:%b)(?:\\n)?"
    % ((b"|".join(map(re.escape, _MARKS)),) * 2),
    re.DOTALL,
)

#: Most notices that are taken out of one body, so that the work has a bound.
MAX_NOTICES: Final = 4096

#: JSON that may contain messages.
_JSON: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+[{\[]")

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

#: Bytes before an object that some decoder of JSON skips: blanks, and the marks and zeros of
#: every form of Unicode.
_BLANKS: Final = re.compile(rb"[\s\0\xef\xbb\xbf\xff\xfe]*+")

_CHARSET: Final = re.compile(rb";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)

#: Character sets in which names of parameters are written as in UTF-8.
_LIKE_UTF8: Final = frozenset((b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1"))


def can_be_changed(
    body: bytes | bytearray,
    fields: Iterable[tuple[bytes, bytes]],
    scanner: FormScanner | FieldScanner | None,
) -> bool:
    """Return whether *body* is a JSON object, whatever its media type says; backends may ignore it.

    Other bodies (forms, arrays, files) are passed on as they are.

    Args:
        body: The whole request body, which is not empty.
        fields: The header fields of the request. All of a name count: backends differ in which.
        scanner: Has scanned the body already.

    Raises:
        RequestError: if a backend may read an object in it that cannot be read here.
    """
    types = _checked_types(fields)
    found = _BLANKS.match(body, 0, WINDOW_BYTES)
    start = 0 if found is None else found.end()
    if start == WINDOW_BYTES:
        raise RequestError(f"the body begins with {WINDOW_BYTES} blanks")
    if body[start : start + 1] != b"{":
        return False
    if any(boundary_of(value) is not None for value in types):
        raise RequestError("the body is said to be a form, but begins like a JSON object")
    if isinstance(scanner, FieldScanner):
        if scanner.is_too_complex:
            raise too_complex_error()
        if scanner.is_malformed:
            raise RequestError("the body is not valid JSON: it is no object, or is cut off")
    return True


def _checked_types(fields: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Return all values of Content-Type.

    Raises:
        RequestError: if a body with these *fields* is compressed, or not in UTF-8.
    """
    types: list[bytes] = []
    for name, value in fields:
        if name == b"content-type":
            types.append(value)
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            raise RequestError(
                "the body is compressed, so the parameters that this model overrides cannot be "
                "seen: send it uncompressed"
            )
    charsets = (charset for value in types for charset in _CHARSET.findall(value))
    if any(charset.lower() not in _LIKE_UTF8 for charset in charsets):
        raise RequestError("the parameters that this model overrides are read as UTF-8 only")
    return types


def with_overrides(overrides: RequestOverrides, body: bytes | bytearray) -> bytes | None:
    """Return *body*, which is small, with *overrides*.

    Returns:
        The new body; None if *body* is JSON that only some decoders accept, so that it is to be
        changed as a large one is.

    Raises:
        RequestError: if it is not a JSON object, or has too many fields.
    """
    try:
        fields, is_strict = _decoded(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {why_malformed(exc)}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    if len(fields) > MAX_FIELDS:
        raise too_complex_error()
    return msgspec.json.encode(overrides.applied_to(fields)) if is_strict else None


def _decoded(body: bytes | bytearray) -> tuple[dict[str, msgspec.Raw], bool]:
    """Return the fields of *body*, and whether a strict decoder reads it."""
    try:
        return _decode(body), True
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode(strict_form(body, ascii_only=True)), False


def override_in_place(
    overrides: RequestOverrides, body: bytearray, scanner: FieldScanner
) -> Iterator[None]:
    """Apply *overrides* to *body*, which is large, in place; each step is a short one.

    Args:
        overrides: The changes.
        body: A JSON object.
        scanner: Has found all of its fields that the overrides touch.

    Raises:
        RequestError: if the object is followed by anything else.
    """
    return change(body, scanner, *overrides.changes({field.name for field in scanner.fields}))


def notices_in(body: bytes | bytearray) -> Iterator[tuple[int, int] | None]:
    """Yield the ends of each notice of a router in *body*; None for a step without one.

    Clients keep notices as thoughts of the model (`reasoning_content`, `thinking`), and send
    them back with the history, where the model would read them. Each step takes a few
    milliseconds at most.

    Args:
        body: The whole body of a request; one that is not JSON has no notices.
    """
    if _JSON.match(body, 0, SEARCHED_BYTES) is None:
        return
    at = 0
    for _ in range(MAX_NOTICES + len(body) // SEARCHED_BYTES + 1):
        end = at + SEARCHED_BYTES
        marks = [
            found
            for mark, rare in ((_MARKS[0], _MARK_BYTE), (_MARKS[1], b"\\"))
            # A single byte is found ten times as fast as several.
            if body.find(rare, at, end + len(mark)) >= 0
            and (found := body.find(mark, at, end + len(mark))) >= 0
        ]
        if not marks:
            at = end
            if at >= len(body):
                return
            yield None
        elif (notice := _NOTICE.match(body, min(marks))) is not None:
            at = notice.end()
            yield notice.span()
        else:
            at = min(marks) + 1
            yield None


def cut_out(body: bytes | bytearray, spans: Sequence[tuple[int, int]]) -> bytes | bytearray:
    """Return *body* without *spans*, which are in order; the same object if there are none."""
    if not spans:
        return body
    begins = (0, *(end for _, end in spans))
    ends = (*(begin for begin, _ in spans), len(body))
    view = memoryview(body)
    kept = (view[begin:end] for begin, end in zip(begins, ends, strict=True))
    return bytearray().join(kept) if isinstance(body, bytearray) else b"".join(kept)


def without_notices(body: bytes) -> bytes:
    """Return *body*, which is small, without notices of a router; see `notices_in`."""
    # Nearly all bodies end here.
    if _MARK_BYTE not in body and _MARKS[1] not in body:
        return body
    return bytes(cut_out(body, [span for span in notices_in(body) if span is not None]))
