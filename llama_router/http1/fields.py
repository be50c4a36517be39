"""Header fields of both directions: parsing, lengths, and hop-by-hop names."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in the order of the message: lower-cased name, trimmed value."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest head that is read. llama-server itself stops at 8 KiB per line."""

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]"  # HTAB, SP, visible ASCII, obs-text

# Possessive quantifiers keep every pattern of this package linear. They follow single
# characters only: behind groups, CPython before 3.11.5 gets them wrong (its issue 106052).
_FIELD_LINE: Final = TOKEN + rb"++:" + VALUE + rb"*+\r\n"
FIELD_LINE: Final = re.compile(_FIELD_LINE)
_FIELD_LINES: Final = re.compile(rb"(?:" + _FIELD_LINE + rb")*")

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that are never forwarded. Source: RFC 9110, section 7.6.1."""

NO_OPTIONS: Final[frozenset[bytes]] = frozenset()


def parse_fields(
    data: bytes | bytearray, start: int, end: int
) -> tuple[Fields, list[bytes]] | None:
    """Return the fields in ``data[start:end]``, and the line of each; None if a line is no field.

    The lines are as they came, without their ends: to be passed on with the sender's spelling.

    Args:
        data: A head.
        start: Where the first field line begins.
        end: Just after the line end of the last one.
    """
    if _FIELD_LINES.fullmatch(data, start, end) is None:
        return None
    # With valid lines, splitting is faster than groups of the pattern.
    lines = bytes(data[start : end - 2]).split(b"\r\n") if end > start else []
    fields: Fields = []
    for line in lines:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields, lines


def select(fields: Fields, names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return the values of those *fields* that are in *names*, by name."""
    selected: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in names:
            selected.setdefault(name, []).append(value)
    return selected


def connection_options(values: list[bytes] | None) -> frozenset[bytes]:
    """Return the lower-cased members of all ``Connection`` *values*."""
    if not values:
        return NO_OPTIONS
    members = b",".join(values).lower().split(b",")
    return frozenset(member.strip(b" \t") for member in members) - {b""}


def parse_length(value: bytes) -> int | None:
    """Return a ``Content-Length``, or None if *value* is not plain digits or absurdly long."""
    return int(value) if value.isdigit() and len(value) <= 18 else None
