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
FIELD_LINE: Final = re.compile(rb"^(" + TOKEN + rb"++):(" + VALUE + rb"*+)\r\n", re.MULTILINE)

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


def parse_fields(data: bytes | bytearray, start: int, end: int) -> Fields | None:
    """Return the fields in ``data[start:end]``, or None if a line in it is not a field.

    Args:
        data: A head. ``data[start - 1]`` is a line feed.
        start: Where the first field line begins.
        end: Just after the line end of the last one.
    """
    found = FIELD_LINE.findall(data, start, end)
    # A match starts after one line feed and contains exactly one. Equal numbers of both mean
    # that no line was skipped, and that nothing is between two matches.
    if len(found) != data.count(b"\n", start, end):
        return None
    return [(name.lower(), value.strip(b" \t")) for name, value in found]


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
