"""Top-level fields of a large JSON object, without decoding it. Pure.

A request with pictures in it has megabytes of base64 in a few strings. Decoding all of it
to find one name takes milliseconds, in which every other connection waits; stepping from
quotation mark to quotation mark takes a tenth of that.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

#: Strings and brackets looked at before it is given up: decoding is faster with so many.
MAX_TOKENS: Final = 2000

_TOP: Final = re.compile(rb'[",{}\[\]]')
_DEEPER: Final = re.compile(rb'["{}\[\]]')
_OPENING: Final = re.compile(rb"[ \t\r\n]*\{")
_COLON: Final = re.compile(rb"[ \t\r\n]*:[ \t\r\n]*")
_SCALAR: Final = re.compile(rb"[A-Za-z0-9+\-.]+")
_BACKSLASH: Final = ord("\\")


def skim(body: bytes | bytearray, names: Collection[bytes]) -> dict[bytes, bytes] | None:
    """Return the values of the top-level fields *names*, each as its JSON text.

    The last mention counts, as for every decoder. Whether the rest is valid JSON is not
    looked at.

    Args:
        body: A JSON object.
        names: Names of fields, as they are written without an escape.

    Returns:
        What there is of *names*; None if this cannot tell, so that the whole must be
        decoded: it is no object, is cut off, has too many parts, or one of the values is
        neither a string nor a plain word.
    """
    opening = _OPENING.match(body)
    at, depth, key_follows = opening.end() if opening else len(body), 1, True
    found: dict[bytes, bytes] = {}
    for _ in range(MAX_TOKENS):
        token = (_TOP if depth == 1 else _DEEPER).search(body, at)
        if token is None:
            return None
        at = token.end()
        match token[0]:
            case b'"':
                end = _string_end(body, at)
                if end < 0 or (key_follows and not _note(body, at, end, names, found)):
                    return None
                at, key_follows = end, False
            case b",":
                key_follows = True
            case b"{" | b"[":
                depth, key_follows = depth + 1, False
            case _:
                depth -= 1
                if not depth:
                    return found
    return None


def _note(
    body: bytes | bytearray,
    at: int,
    end: int,
    names: Collection[bytes],
    found: dict[bytes, bytes],
) -> bool:
    """Note the value of the key in ``body[at : end - 1]``; False if only a decoder can tell."""
    key = bytes(body[at : end - 1])
    if b"\\" in key:
        return False
    if key in names:
        value = _value(body, end)
        if value is None:
            return False
        found[key] = value
    return True


def _string_end(body: bytes | bytearray, at: int) -> int:
    """Return the offset behind the string whose content begins at *at*, or -1."""
    end = body.find(b'"', at)
    while end >= 0:
        first = end
        while first > at and body[first - 1] == _BACKSLASH:
            first -= 1
        if (end - first) % 2 == 0:
            return end + 1
        end = body.find(b'"', end + 1)
    return -1


def _value(body: bytes | bytearray, at: int) -> bytes | None:
    """Return the text of the value behind the key that ends at *at*; None if it is no scalar."""
    colon = _COLON.match(body, at)
    if colon is None:
        return None
    at = colon.end()
    if body[at : at + 1] == b'"':
        end = _string_end(body, at + 1)
        return bytes(body[at:end]) if end >= 0 else None
    scalar = _SCALAR.match(body, at)
    return scalar[0] if scalar else None
