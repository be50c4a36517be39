"""Top-level fields of a large JSON object: found and changed without decoding it. Pure.

A request with pictures in it has megabytes of base64 in a few strings. A decoder takes
milliseconds for it, in which every other connection waits, and no thread would help: it
never lets go of the interpreter. Stepping from quotation mark to quotation mark takes a
tenth of that; and it can stop anywhere, so that a body of a million little parts takes long,
but holds nobody up.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import attrs
import msgspec

from ...errors.requests import RequestError

#: What one call of `Skim.go_on` may cost: a token costs 1. That is a millisecond or two.
STEP: Final = 1000

#: Bytes that one search may look at.
WINDOW_BYTES: Final = 16 * 1024

#: Bytes that cost as much as a token, where each of them is looked at.
_BYTES_PER_TOKEN: Final = 32

#: Bytes in which a quotation mark is looked for at once, and that are blanked at once: either
#: is a fraction of a millisecond.
FAR_BYTES: Final = 1024 * 1024
BLANKED_BYTES: Final = 256 * 1024

#: Fields, and levels of nesting, beyond which a body is refused: no request has so many.
MAX_FIELDS: Final = 1024
MAX_DEPTH: Final = 500

#: Longest key in which escapes are looked into, in bytes.
_MAX_KEY_BYTES: Final = 1024

#: What a string has before its end, by whole escapes.
_INSIDE: Final = rb'[^"\\]*+(?>(?:\\.[^"\\]*+)*)'
_STRING_INSIDE: Final = re.compile(_INSIDE, re.DOTALL)


def _flat(levels: int) -> bytes:
    """Return a pattern for what has at most so many levels of brackets inside."""
    inner = rb'[^"{}\[\]]++|"' + _INSIDE + rb'"'
    for _ in range(levels):
        inner = rb"%b|\{(?>(?:%b)*)\}|\[(?>(?:%b)*)\]" % (inner, inner, inner)
    return rb"(?>(?:%b)*)" % inner


#: Below the top level: anything up to a bracket that has more levels inside.
_FLAT: Final = re.compile(_flat(3), re.DOTALL)
_TOKEN: Final = re.compile(rb'[",{}\[\]]')
_OPENING: Final = re.compile(rb"[ \t\r\n]*+\{")
_QUOTE: Final = ord('"')
_BLANK: Final = ord(" ")
_BLANKS: Final = b" " * BLANKED_BYTES


@attrs.frozen
class Field:
    """One top-level field.

    Attributes:
        name: Its name, decoded.
        index: How many fields precede it.
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


class Skim:
    """Finds some of the top-level fields of a JSON object.

    Whether the rest is valid JSON is not looked at.

    Args:
        body: The object.
        names: Names of the fields to note.

    Attributes:
        fields: Those that were found, in order; a name may be there twice.
        count: How many fields there are in all.
        closing: Offset of the brace that ends the object; -1 until that is found.
        broken: It is no object, or has no end.
        lost: It has too many fields or levels; see `too_many_parts`.
    """

    def __init__(self, body: bytes | bytearray, names: Collection[str]) -> None:
        self._body = body
        self._names = names
        opening = _OPENING.match(body, 0, WINDOW_BYTES)
        self.broken = opening is None
        self.lost = False
        self._at = 0 if opening is None else opening.end()
        self._depth = 1
        self._in_string = False
        self._quote = self._backslash = -1  # the next ones, as far as they are known
        self._unquoted = self._unescaped = 0  # up to there was found none
        self._key_at: int | None = None  # where the key begins that is read now
        self._key_follows = True
        self._noting: tuple[str, int, int] | None = None  # name, start, colon
        self._comma = -1
        self.fields: list[Field] = []
        self.count = 0
        self.closing = -1

    def go_on(self) -> bool:
        """Go on, at a cost of about `STEP`; return whether all is said."""
        budget = STEP
        while budget > 0:
            if self.closing >= 0 or self.broken or self.lost:
                return True
            before = self._at
            if self._in_string:
                looked_at = self._skip_string()
            elif self._depth > 1:
                self._skip_nested()
                looked_at = self._at - before
            else:
                self._take_token()
                looked_at = self._at - before
            budget -= 1 + looked_at // _BYTES_PER_TOKEN
        return False

    def text_of(self, name: str) -> bytes | None:
        """Return the JSON text of the last field *name*, as every decoder would; None without one.

        Text that is longer than any sensible value is cut off.
        """
        for field in reversed(self.fields):
            if field.name == name:
                text = bytes(self._body[field.colon : min(field.end, field.colon + 8192)])
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
                self.lost = self._depth > MAX_DEPTH
            case b"}" | b"]":
                self._depth -= 1
            case _:
                pass  # a comma, or nothing in this window

    def _search(self) -> bytes | None:
        """Go behind the next token; return it, or None if there is none in this window."""
        token = _TOKEN.search(self._body, self._at, self._at + WINDOW_BYTES)
        if token is not None:
            self._at = token.end()
            return token[0]
        self._at += WINDOW_BYTES
        self.broken = self._at >= len(self._body)
        return None

    def _skip_string(self) -> int:
        """Go on in a string, to its end if that is near; return how many bytes that took to see."""
        at, body = self._at, self._body
        if self._quote < at:
            far = max(at, self._unquoted) + FAR_BYTES
            self._quote = body.find(b'"', max(at, self._unquoted), far)
            if self._quote < 0:
                self._unquoted = far
                self.broken = far >= len(body)
                return 0 if self.broken else STEP * _BYTES_PER_TOKEN  # enough for this step
        if self._backslash < at:
            far = min(self._quote, max(at, self._unescaped) + FAR_BYTES)
            found = body.find(b"\\", max(at, self._unescaped), far)
            if found < 0 and far < self._quote:
                self._unescaped = far
                return STEP * _BYTES_PER_TOKEN
            self._backslash = self._quote if found < 0 else found
        if self._backslash >= self._quote:
            self._end_string(self._quote + 1)
            return 0  # finding takes next to nothing
        at = self._backslash
        inside = _STRING_INSIDE.match(body, at, at + WINDOW_BYTES)
        end = at if inside is None else inside.end()
        if end == at:
            self.broken = True  # it ends with half an escape
        elif end < len(body) and body[end] == _QUOTE:
            self._end_string(end + 1)
        else:
            self._at = end  # there is more of it behind this window
        return end - at

    def _end_string(self, at: int) -> None:
        self._at, self._in_string = at, False
        if self._key_at is not None:
            self._note(self._key_at, at)
            self._key_at = None

    # -- fields -------------------------------------------------------------------------------

    def _note(self, start: int, colon: int) -> None:
        self.count += 1
        self.lost = self.count > MAX_FIELDS
        name = self._decoded(start, colon)
        if name in self._names:
            self._noting = (name, start, colon)

    def _decoded(self, start: int, colon: int) -> str:
        if colon - start > _MAX_KEY_BYTES:
            return ""
        try:
            return msgspec.json.decode(bytes(self._body[start:colon]), type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return ""

    def _end_field(self, end: int) -> None:
        if self._noting is not None:
            name, start, colon = self._noting
            self.fields.append(Field(name, self.count - 1, start, colon, end, self._comma))
            self._noting = None


def change(
    body: bytearray, skim: Skim, taken_out: Collection[str], put_in: Mapping[str, Any]
) -> Iterator[None]:
    """Change the top-level fields of *body*, in place and without moving the rest of it.

    What is taken out becomes blanks, and what is put in goes to the end. Each step of the
    iterator takes a fraction of a millisecond; after the last one all is done.

    Args:
        body: A JSON object.
        skim: What was found in it; whatever is taken out must have been noted.
        taken_out: Names of fields that go; all of that name.
        put_in: Names and values of those that come.

    Raises:
        RequestError: if something stands behind the object.
    """
    gone = [field for field in skim.fields if field.name in taken_out]
    for number, field in enumerate(gone):
        yield from _blank(body, field.start, field.end)
        if field.index > number:  # one before it stays: it leaves with the comma behind that
            body[field.comma] = _BLANK
        elif field.end < skim.closing:
            body[field.end] = _BLANK
    if put_in:
        separator = b"," if skim.count > len(gone) else b""
        _put(body, skim.closing, separator + msgspec.json.encode(put_in)[1:-1] + b"}")


def _put(body: bytearray, closing: int, end: bytes) -> None:
    """Let the object whose brace is at *closing* end with *end*.

    Blanks behind it make room: to move millions of them would take long.
    """
    behind = body[closing + 1 : closing + len(end)]
    if behind.strip(b" \t\r\n"):
        raise RequestError("the body is not valid JSON: something stands behind the object")
    body[closing : closing + 1 + len(behind)] = end


def _blank(body: bytearray, start: int, end: int) -> Iterator[None]:
    for at in range(start, end, BLANKED_BYTES):
        size = min(BLANKED_BYTES, end - at)
        body[at : at + size] = _BLANKS[:size]
        if size == BLANKED_BYTES:
            yield


def too_many_parts() -> RequestError:
    """Return why a body is refused that would take too long to take apart."""
    return RequestError(
        f"the body has more than {MAX_FIELDS} fields, or is nested over {MAX_DEPTH} levels deep"
    )
