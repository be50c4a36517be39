"""Header fields of both directions: parsing, lengths, and hop-by-hop names."""

from __future__ import annotations

import re
from typing import Final, TypeAlias, cast

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in the order of the message: lower-cased name, trimmed value."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest head that is read. llama-server itself stops at 8 KiB per line."""

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]"  # HTAB, SP, visible ASCII, obs-text

# Possessive quantifiers keep every pattern of this package linear. They follow single
# characters only: behind groups, CPython before 3.11.5 gets them wrong (its issue 106052).
_FIELD: Final = re.compile(TOKEN + rb"++:" + VALUE + rb"*+")
FIELD_LINE: Final = re.compile(_FIELD.pattern + rb"\r\n")

#: Parsed field lines: those of one client or backend are nearly the same in each message.
_PARSED: Final[dict[bytes, tuple[bytes, bytes]]] = {}

#: Most lines in it, and bytes of one, so that they cannot fill the memory.
_MAX_PARSED: Final = 2048
_MAX_PARSED_BYTES: Final = 128

#: The names of fields with secrets, in lower case. What is parsed of them does not stay in memory
#: for longer than their connection.
SECRET: Final = frozenset(
    (
        *(b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"),
        *(b"x-admin-token", b"x-api-key", b"api-key"),
    )
)

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


class SentHead:
    """The beginning of the head that was sent on for a head, for the next one that repeats it.

    Attributes:
        start: Its lines, without those that depend on more than the head; empty before.
        made_for: What *start* depends on besides the head.
        names: The names of the fields of the head; None if they were not asked for.
    """

    __slots__ = ("made_for", "names", "start")

    def __init__(self) -> None:
        self.start = b""
        self.made_for: object = None
        self.names: frozenset[bytes] | None = None


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
    if end <= start:
        return [], []
    lines = bytes(data[start : end - 2]).split(b"\r\n")
    fields: list[tuple[bytes, bytes] | None] = [*map(_PARSED.get, lines)]
    if None in fields:
        fields = [field or _parse_field(line) for field, line in zip(fields, lines, strict=True)]
        if None in fields:
            return None
    return cast("Fields", fields), lines


def _parse_field(line: bytes) -> tuple[bytes, bytes] | None:
    """Return the field in *line*, which has no line end; None if it is none."""
    if _FIELD.fullmatch(line) is None:
        return None
    name, _, value = line.partition(b":")
    field = name.lower(), value.strip(b" \t")
    if len(line) <= _MAX_PARSED_BYTES and field[0] not in SECRET:
        if len(_PARSED) >= _MAX_PARSED:
            _PARSED.clear()
        _PARSED[line] = field
    return field


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
