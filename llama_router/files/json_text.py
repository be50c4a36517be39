"""JSON with names of files, which need not be UTF-8. Pure.

Python has each byte of a name that is not UTF-8 as half a character (a surrogate), and strict
encoders and decoders of JSON refuse it.
"""

from __future__ import annotations

import json
from typing import TypeVar

import msgspec

T = TypeVar("T")


def encode_shown(value: object) -> bytes:
    """Return *value* as JSON for other programs, with a question mark for each such byte."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace")


def encode_kept(value: object) -> bytes:
    """Return *value* as JSON for `decode_kept`, which returns each such byte."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def decode_kept(data: bytes, kind: type[T]) -> T:
    """Return the value of *data*, which `encode_kept` has made.

    Raises:
        msgspec.MsgspecError: if it is nothing of the sort.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as exc:
        if b"\\ud" not in data:
            raise
        try:
            return msgspec.convert(json.loads(data), kind)
        except ValueError:
            raise exc from None
