"""Scan of a large JSON object: its top-level fields, found and changed without decoding. Pure.

A request with pictures in it has megabytes of base64 in a few strings. A decoder takes
milliseconds for it, in which no other connection is served, and a thread would not help: the
decoder does not release the interpreter. Stepping from quotation mark to quotation mark takes
a tenth of that. It can also stop anywhere, so that a body of a million small parts takes
long, but delays no other connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import attrs
import msgspec

from ...errors.requests import RequestError

#: Cost of one call of `FieldScanner.step`, where a token costs 1: a millisecond or two.
STEP_COST: Final = 1000

#: Length of one search, in bytes.
WINDOW_BYTES: Final = 16 * 1024

#: Bytes that cost as much as a token, where the pattern reads each of them.
_BYTES_PER_TOKEN: Final = 32

#: Bytes in which one call searches a quotation mark, and bytes that one step blanks: either
#: takes a fraction of a millisecond.
SEARCHED_BYTES: Final = 1024 * 1024
BLANKED_BYTES: Final = 256 * 1024

#: Most fields, and levels of nesting, of a body. No request has so many.
MAX_FIELDS: Final = 1024
MAX_DEPTH: Final = 500

#: Longest value that is decoded, in bytes, blanks around it included.
MAX_VALUE_BYTES: Final = 8192

#: Longest key that is decoded, in bytes.
_MAX_KEY_BYTES: Final = 1024

#: Content of a string up to its end, by whole escapes.
_INSIDE: Final = rb'[^"\\]*+(?>(?:\\.[^"\\]*+)*)'
_STRING_INSIDE: Final = re.compile(_INSIDE, re.DOTALL)


def _flat(levels: int) -> bytes:
    """Return a pattern for JSON text with at most so many *levels* of brackets inside."""
    inner = rb'[^"{}\[\]]++|"' + _INSIDE + rb'"'
    for _ in range(levels):
        inner = rb"%b|\{(?>(?:%b)*)\}|\[(?>(?:%b)*)\]" % (inner, inner, inner)
    return rb"(?>(?:%b)*)" % inner


#: Below the top level: text up to a bracket with more levels inside.
_FLAT: Final = re.compile(_flat(3), re.DOTALL)
_TOKEN: Final = re.compile(rb'[",{}\[\]]')
_OPENING: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*+\{")
_BLANK_RUN: Final = re.compile(rb"[ \t\r\n]*+")
_QUOTE: Final = ord('"')
_BLANK: Final = ord(" ")


@attrs.frozen
class Field:
    """One top-level field.

    Attributes:
        name: Its name, decoded.
        index: Number of fields before it.
        start: Offset of its key's quotation mark.
        colon: Offset behind its key.
        end: Offset behind its value: of the comma, or of the brace that ends the object.
        comma: Offset of the comma before it; -1 if it is the first.
    """

    name: str
    index: int
    start: int
    colon: int
    end: int
    comma: int


class FieldScanner:
    """Finds top-level fields of a JSON object by name.

    It does not check that the rest is valid JSON.

    Args:
        body: The object.
        names: Names of the fields to find.

    Attributes:
        fields: The fields found, in order; a name may occur twice.
        count: Number of all fields.
        closing: Offset of the brace that ends the object; -1 until that is found.
        ends_with_comma: A comma stands before that brace.
        is_malformed: The body is not an object, or the object has no end.
        is_too_complex: It has too many fields or levels; see `too_complex_error`.
    """

    def __init__(self, body: bytes | bytearray, names: Collection[str]) -> None:
        self._body = body
        self._names = names
        opening = _OPENING.match(body, 0, WINDOW_BYTES)
        self.is_malformed = opening is None
        self.is_too_complex = False
        self._at = 0 if opening is None else opening.end()
        self._depth = 1
        self._in_string = False
        self._quote = self._backslash = -1  # offsets of the next ones, once they are found
        self._unquoted = self._unescaped = 0  # there is none before these offsets
        self._key_at: int | None = None  # offset of the key that is being read
        self._key_follows = True
        self._open_field: tuple[str, int, int] | None = None  # name, start, colon
        self._comma = -1
        self.fields: list[Field] = []
        self.count = 0
        self.closing = -1
        self.ends_with_comma = False

    def step(self) -> bool:
        """Scan on at a cost of about `STEP_COST`; return whether the scan is complete."""
        budget = STEP_COST
        while budget > 0:
            if self.closing >= 0 or self.is_malformed or self.is_too_complex:
                return True
            before = self._at
            if self._in_string:
                read_bytes = self._skip_string()
            elif self._depth > 1:
                self._skip_nested()
                read_bytes = self._at - before
            else:
                self._take_token()
                read_bytes = self._at - before
            budget -= 1 + read_bytes // _BYTES_PER_TOKEN
        return False

    def text_of(self, name: str) -> bytes | None:
        """Return the JSON text of the last field *name*, which decoders use; None if there is none.

        Raises:
            RequestError: if it is longer than any sensible value.
        """
        for field in reversed(self.fields):
            if field.name == name:
                end = min(field.end, field.colon + MAX_VALUE_BYTES)
                blanks = _BLANK_RUN.match(self._body, end, end + SEARCHED_BYTES)
                if blanks is None or blanks.end() < field.end:
                    raise RequestError(
                        f"the value of {name!r} is over {MAX_VALUE_BYTES} bytes", param=name
                    )
                text = bytes(self._body[field.colon : end])
                return text.lstrip(b" \t\r\n").removeprefix(b":").strip(b" \t\r\n")
        return None

    # -- steps --------------------------------------------------------------------------------

    def _take_token(self) -> None:
        token = self._search()
        match token:
            case b'"':
                self._in_string = True
                if self._key_follows:
                    self._key_at, self._key_follows = self._at - 1, False
            case b",":
                self._end_field(self._at - 1)
                self._comma, self._key_follows = self._at - 1, True
            case b"{" | b"[":
                self._depth = 2
            case b"}" | b"]":
                self._end_field(self._at - 1)
                self.closing = self._at - 1
                self.ends_with_comma = self._key_follows and self.count > 0
            case _:
                pass  # nothing in this window

    def _skip_nested(self) -> None:
        flat = _FLAT.match(self._body, self._at, self._at + WINDOW_BYTES)
        if flat is not None:
            self._at = flat.end()
        match self._search():
            case b'"':
                self._in_string = True
            case b"{" | b"[":
                self._depth += 1
                self.is_too_complex = self._depth > MAX_DEPTH
            case b"}" | b"]":
                self._depth -= 1
            case _:
                pass  # a comma, or nothing in this window

    def _search(self) -> bytes | None:
        """Advance past the next token and return it; None if there is none in this window."""
        token = _TOKEN.search(self._body, self._at, self._at + WINDOW_BYTES)
        if token is not None:
            self._at = token.end()
            return token[0]
        self._at += WINDOW_BYTES
        self.is_malformed = self._at >= len(self._body)
        return None

    def _skip_string(self) -> int:
        """Advance in a string, to its end if that is near; return the bytes read one by one."""
        at, body = self._at, self._body
        if self._quote < at:
            far = max(at, self._unquoted) + SEARCHED_BYTES
            self._quote = body.find(b'"', max(at, self._unquoted), far)
            if self._quote < 0:
                self._unquoted = far
                self.is_malformed = far >= len(body)
                # A search of that length is enough for one step.
                return 0 if self.is_malformed else STEP_COST * _BYTES_PER_TOKEN
        if self._backslash < at:
            far = min(self._quote, max(at, self._unescaped) + SEARCHED_BYTES)
            found = body.find(b"\\", max(at, self._unescaped), far)
            if found < 0 and far < self._quote:
                self._unescaped = far
                return STEP_COST * _BYTES_PER_TOKEN
            self._backslash = self._quote if found < 0 else found
        if self._backslash >= self._quote:
            self._end_string(self._quote + 1)
            return 0  # a search costs next to nothing
        at = self._backslash
        inside = _STRING_INSIDE.match(body, at, at + WINDOW_BYTES)
        end = at if inside is None else inside.end()
        if end == at:
            self.is_malformed = True  # the body ends with half an escape
        elif end < len(body) and body[end] == _QUOTE:
            self._end_string(end + 1)
        else:
            self._at = end  # the string goes on behind this window
        return end - at

    def _end_string(self, at: int) -> None:
        self._at, self._in_string = at, False
        if self._key_at is not None:
            self._begin_field(self._key_at, at)
            self._key_at = None

    # -- fields -------------------------------------------------------------------------------

    def _begin_field(self, start: int, colon: int) -> None:
        self.count += 1
        self.is_too_complex = self.count > MAX_FIELDS
        name = self._decoded_key(start, colon)
        if name in self._names:
            self._open_field = (name, start, colon)

    def _decoded_key(self, start: int, colon: int) -> str:
        if colon - start > _MAX_KEY_BYTES:
            return ""
        try:
            return msgspec.json.decode(bytes(self._body[start:colon]), type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""

    def _end_field(self, end: int) -> None:
        if self._open_field is not None:
            name, start, colon = self._open_field
            self.fields.append(Field(name, self.count - 1, start, colon, end, self._comma))
            self._open_field = None


def change(
    body: bytearray, scanner: FieldScanner, removed: Collection[str], added: Mapping[str, Any]
) -> Iterator[None]:
    """Change the top-level fields of *body* in place, without moving the rest of it.

    Removed fields become blanks, and added ones go to the end. Each step of the iterator
    takes a fraction of a millisecond; after the last one the body is complete.

    Args:
        body: A JSON object.
        scanner: Has scanned it, for all of the fields that are *removed*.
        removed: Names of fields; all fields of that name go.
        added: Names and values of new fields.

    Raises:
        RequestError: if the object is followed by anything else.
    """
    gone = [field for field in scanner.fields if field.name in removed]
    for number, field in enumerate(gone):
        yield from _blank(body, field.start, field.end)
        if field.index > number:  # a field before it stays, so the comma between them goes
            body[field.comma] = _BLANK
        elif field.end < scanner.closing:
            body[field.end] = _BLANK
    if added:
        is_first = scanner.count == len(gone) or scanner.ends_with_comma
        separator = b"" if is_first else b","
        _append(body, scanner.closing, separator + msgspec.json.encode(added)[1:-1] + b"}")


def _append(body: bytearray, closing: int, end: bytes) -> None:
    """Replace the brace at *closing* by *end*.

    It overwrites blanks behind the object: to move millions of them would take long.
    """
    behind = body[closing + 1 : closing + len(end)]
    if behind.strip(b" \t\r\n"):
        raise RequestError("the body is not valid JSON: something stands behind the object")
    body[closing : closing + 1 + len(behind)] = end


def _blank(body: bytearray, start: int, end: int) -> Iterator[None]:
    for at in range(start, end, BLANKED_BYTES):
        size = min(BLANKED_BYTES, end - at)
        body[at : at + size] = b" " * size
        if size == BLANKED_BYTES:
            yield


def too_complex_error() -> RequestError:
    """Return the error for a body that would take too long to process."""
    return RequestError(
        f"the body has more than {MAX_FIELDS} fields, or is nested over {MAX_DEPTH} levels deep"
    )
