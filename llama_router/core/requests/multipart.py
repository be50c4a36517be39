"""Scan of a multipart form while it arrives: small fields are found, files skipped. Pure.

Sources: RFC 7578; RFC 2046, section 5.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum, auto
from itertools import islice
from typing import Final

from ...errors.requests import RequestError

#: Longest value of a field that is kept, in bytes.
MAX_VALUE_BYTES: Final = 4096

#: Longest head of one part, in bytes: a few short lines.
MAX_HEAD_BYTES: Final = 16 * 1024

#: Most parts of one form. Forms of OpenAI's API have about ten fields and sixteen files.
MAX_PARTS: Final = 1024

#: Most parameters of a part's disposition: it has a name, and maybe one or two for a file.
MAX_PARAMETERS: Final = 16

#: Most places in the content that only resemble a delimiter. Real content has none.
MAX_NEAR_DELIMITERS: Final = 1024

#: Longest boundary, in bytes. RFC 2046 allows 70.
MAX_BOUNDARY_BYTES: Final = 200

#: Longest media type that is searched for a boundary, in bytes.
MAX_MEDIA_TYPE_BYTES: Final = 4096

#: Delimiters and heads in one call of `FormScanner.scan`: a millisecond or two at most.
STEPS: Final = 128

_BOUNDARY = re.compile(
    rb'multipart/form-data\s*+;.*?\bboundary=(?:"([^"]{1,%d})"|([^\s;"]{1,%d})(?![^\s;"]))'
    % (MAX_BOUNDARY_BYTES, MAX_BOUNDARY_BYTES),
    re.IGNORECASE,
)
_FORM = re.compile(rb"\s*+multipart/form-data\s*+(?:;|\Z)", re.IGNORECASE)
_PADDING = re.compile(rb"[ \t]*+")
_HEAD = re.compile(rb"(?>(?:\r\n[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[^\r\n]*+)*)")
_DISPOSITION = re.compile(rb"\r\ncontent-disposition:[ \t]*+form-data([^\r\n]*+)", re.IGNORECASE)
_PARAMETER = re.compile(rb';[ \t]*+([^\s=;"]++)=(?:"((?>(?:[^"\\]|\\.)*))"|([^\s;"]*+))')


class _Place(Enum):
    """Position of the scan in the form."""

    CONTENT = auto()  # before the next delimiter, also the first one
    HEAD = auto()  # behind a delimiter; the part's head is not complete yet
    END = auto()  # behind the last delimiter


def boundary_of(content_type: bytes) -> bytes | None:
    """Return the boundary in *content_type*; None if that is not of a multipart form."""
    found = _BOUNDARY.match(content_type, 0, MAX_MEDIA_TYPE_BYTES)
    return None if found is None else found[1] or found[2]


def is_form(content_type: bytes) -> bool:
    """Return whether *content_type* is that of a multipart form, also without a boundary."""
    return _FORM.match(content_type, 0, MAX_MEDIA_TYPE_BYTES) is not None


class FormScanner:
    """Finds fields in a form that may still be arriving.

    It keeps offsets, not bytes: each byte is read once, whatever pieces the form arrives in.

    Args:
        boundary: The boundary between the parts.
        names: Names of the fields to find.

    Attributes:
        values: Values by name; None for a value that is too long.
    """

    def __init__(self, boundary: bytes, names: Collection[bytes]) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._names = names
        self._place = _Place.CONTENT
        self._at = 0  # everything before this offset was scanned
        self._parts = 0
        self._near_delimiters = 0
        self._field: bytes | None = None  # name of the field with a value that is being read
        self._value_at = 0
        self.values: dict[bytes, bytes | None] = {}

    def scan(self, body: bytes | bytearray | memoryview, size_bytes: int) -> bool:
        """Scan what is new in the first *size_bytes* of *body*; return whether that is complete.

        If it is not, other connections may be served before the next call.

        Raises:
            RequestError: if it is not a form, has too many parts, or gives one of the fields
                two values.
        """
        if isinstance(body, memoryview):
            body = bytes(body)
        for _ in range(STEPS):
            if self._place is _Place.END:
                return True
            find = self._find_delimiter if self._place is _Place.CONTENT else self._read_head
            if not find(body, size_bytes):
                return True
        return False

    def finish(self) -> None:
        """Check that the form is complete.

        Raises:
            RequestError: if the last delimiter is missing.
        """
        if self._place is not _Place.END:
            raise RequestError("the multipart form is cut off: its last boundary is missing")

    def _find_delimiter(self, body: bytes | bytearray, size: int) -> bool:
        """Skip content up to the next delimiter; return whether that has arrived."""
        delimiter = self._delimiter
        if not self._at:
            # The first one may have no line end before it.
            if size < len(delimiter):
                return False
            found = -2 if body.startswith(delimiter[2:]) else body.find(delimiter, 0, size)
        else:
            found = body.find(delimiter, self._at, size)
        if found == -1:
            self._at = max(self._at, size - len(delimiter) + 1)
            return False
        behind = found + len(delimiter)
        padding = _PADDING.match(body, behind, size)
        line_end = behind if padding is None else padding.end()
        if size - line_end < 2:
            if line_end - behind > MAX_HEAD_BYTES:
                raise RequestError("the multipart form is malformed behind a boundary")
            self._at = max(found, 0)
            return False
        if body[behind : behind + 2] == b"--":
            self._place = _Place.END
        elif body[line_end : line_end + 2] == b"\r\n":
            self._place = _Place.HEAD
        else:
            self._near_delimiters += 1
            if self._near_delimiters > MAX_NEAR_DELIMITERS:
                raise RequestError("the multipart form is malformed behind its boundaries")
            self._at = max(found, 0) + 1  # content that only resembles a delimiter
            return True
        self._end_field(body, found)
        self._at = line_end
        return True

    def _end_field(self, body: bytes | bytearray, end: int) -> None:
        """Store the value that ends at *end*, if a field is being read."""
        field, self._field = self._field, None
        if field is None:
            return
        is_long = end - self._value_at > MAX_VALUE_BYTES
        value = None if is_long else bytes(body[self._value_at : end])
        if field in self.values and self.values[field] != value:
            raise RequestError(
                f"the form has two different values of {field.decode()!r}", param=field.decode()
            )
        self.values[field] = value

    def _read_head(self, body: bytes | bytearray, size: int) -> bool:
        """Read the head of a part; return whether it is complete."""
        end = body.find(b"\r\n\r\n", self._at, min(size, self._at + MAX_HEAD_BYTES))
        if end < 0:
            if size - self._at >= MAX_HEAD_BYTES:
                raise RequestError("a part of the multipart form has a head without end")
            return False
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise RequestError(f"the multipart form has more than {MAX_PARTS} parts")
        if _HEAD.fullmatch(body, self._at, end) is None:
            raise RequestError("a part of the multipart form has a malformed head")
        name = _name_in(body, self._at, end)
        self._field = name if name in self._names else None
        self._value_at = end + 4
        self._at = end + 2  # an empty part may have no line of its own
        self._place = _Place.CONTENT
        return True


def _name_in(body: bytes | bytearray, start: int, end: int) -> bytes | None:
    """Return the name in the head of a part; None for a file, or without a name."""
    disposition = _DISPOSITION.search(body, start, end)
    if disposition is None:
        return None
    found = list(islice(_PARAMETER.finditer(disposition[1]), MAX_PARAMETERS + 1))
    if len(found) > MAX_PARAMETERS:
        raise RequestError(f"a part of the multipart form has over {MAX_PARAMETERS} parameters")
    parameters = {each[1].lower(): each[2] or each[3] or b"" for each in found}
    if b"filename" in parameters or b"filename*" in parameters:
        return None
    return parameters.get(b"name")
