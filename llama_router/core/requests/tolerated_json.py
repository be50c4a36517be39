r"""JSON that some decoders accept and others refuse, in a form that a strict decoder reads. Pure.

Half a character as an escape (``"\ud83d"``), control characters in a string, ``NaN``,
``Infinity``, a byte order mark, a comma behind the last element: clients send them, and backends
differ in what they accept. The router reads the name of the model, and leaves the decision on the
rest to the backend.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"

#: Half of a character outside of the Basic Multilingual Plane, or either half of a whole one.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

#: Numbers that JSON does not have, behind what may precede a number, and one of the same length.
_NUMBERS: Final = tuple(
    (before + number, before + b"0".ljust(len(number)))
    for number in (b"NaN", b"Infinity", b"-Infinity")
    for before in (b":", b",", b"[", b" ")
)

#: What may be a comma behind the last element of an object or array, or is inside a string.
_LAST_COMMA: Final = re.compile(rb",[ \t\r\n]*+[}\]]")

#: A string; and text in which every string has its end.
_STRING: Final = re.compile(rb'"(?>(?:[^"\\]++|\\.)*)"', re.DOTALL)
_OUTSIDE: Final = re.compile(rb'(?>(?:[^"]++|"(?>(?:[^"\\]++|\\.)*)")*)', re.DOTALL)

#: Most commas of that kind that are looked at in one body, so that the work has a bound.
_MAX_LAST_COMMAS: Final = 4096

#: Bytes that control characters become. Zeros stay: they are of another form of Unicode.
_BLANK_CONTROLS: Final = bytes((*(0,), *(32 for _ in range(1, 32)), *range(32, 256)))

#: The same, and a letter for every byte that is not ASCII.
_ASCII: Final = bytes((*_BLANK_CONTROLS[:128], *(ord("x") for _ in range(128))))


def strict_form(body: bytes | bytearray | memoryview, *, ascii_only: bool = False) -> bytes:
    """Return *body*, of the same length, with strict JSON in place of what only some accept.

    Args:
        body: Text that a strict decoder refuses.
        ascii_only: Replace characters outside of ASCII, too: they may not be UTF-8.
    """
    text = bytes(body)
    if text.startswith(_BYTE_ORDER_MARK):
        text = b"   " + text[3:]
    text = text.translate(_ASCII if ascii_only else _BLANK_CONTROLS)
    if b"\\u" in text:
        text = _SURROGATE.sub(rb"\\ufffd", text)
    if b"NaN" in text or b"Infinity" in text:
        # Also in a string, where only the length counts.
        for number, plain in _NUMBERS:
            text = text.replace(number, plain)
    return _without_last_commas(text)


def _without_last_commas(text: bytes) -> bytes:
    """Return *text* with a blank for each comma behind the last element of an object or array."""
    changed, at = bytearray(text), 0
    for _ in range(_MAX_LAST_COMMAS):
        if (found := _LAST_COMMA.search(text, at)) is None:
            break
        comma = found.start()
        before = _OUTSIDE.match(text, at, comma)
        quote = at if before is None else before.end()
        if quote == comma:
            changed[comma] = ord(" ")
            at = comma + 1
        elif (string := _STRING.match(text, quote)) is not None:
            at = string.end()
        else:
            break
    return bytes(changed)


def why_malformed(error: msgspec.DecodeError | UnicodeDecodeError) -> str:
    """Return the reason for which a decoder refused a body, in words for its sender."""
    reason = str(error)
    if "truncated" in reason:
        return "it is cut off"
    if isinstance(error, UnicodeDecodeError) or "UTF-8" in reason:
        return "a string in it is not UTF-8"
    return reason.removeprefix("JSON is malformed: ")
