"""Overrides of request parameters, applied to bodies. Pure.

Only the top level of a JSON object is decoded. What is not changed goes to the backend as
the client wrote it, number for number.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...errors.requests import RequestError
from ..config.overrides import RequestOverrides
from .json_scan import MAX_FIELDS, FieldScanner, change, too_complex_error

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def with_overrides(overrides: RequestOverrides, body: bytes | bytearray) -> bytes:
    """Return *body*, which is small, with *overrides*.

    Raises:
        RequestError: if it is not a JSON object, or has too many fields.
    """
    try:
        fields = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    if len(fields) > MAX_FIELDS:
        raise too_complex_error()
    return msgspec.json.encode(overrides.applied_to(fields))


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
