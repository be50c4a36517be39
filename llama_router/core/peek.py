"""The model that a body asks for, without changing or keeping the body. Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs
import msgspec

from ..errors import RequestError
from .skim import skim

#: Longest model name looked at, in bytes; no identifier on any hub comes near it.
MAX_NAME_BYTES: Final = 1024

#: Bodies above this are not decoded as a whole, if that can be avoided: decoding takes a
#: millisecond per megabyte.
SKIMMED_BYTES: Final = 256 * 1024

_SKIMMED: Final = frozenset((b"model", b"stream"))

_BOUNDARY = re.compile(
    rb'multipart/form-data\s*;.*?\bboundary=(?:"([^"]{1,200})"|([^\s;]{1,200}))', re.IGNORECASE
)
_FIELD_NAME = re.compile(
    rb'(?:^|\r\n)content-disposition:[^\r\n]*;\s*name=(?:"([^"\r\n]*)"|([^\s;]+))', re.IGNORECASE
)


@attrs.frozen
class Asked:
    """What a body asks for.

    Attributes:
        model: The name as the client wrote it.
        stream: Whether it wants an event stream.
        form: Whether it is a multipart form, not JSON.
    """

    model: str
    stream: bool
    form: bool = False


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


_decode = msgspec.json.Decoder(_Body).decode


def asked_by(
    body: bytes | bytearray | memoryview, content_type: bytes, *, default: str | None = None
) -> Asked:
    """Return the model that *body* names.

    Args:
        body: The whole request body.
        content_type: Value of its Content-Type field; empty if it had none.
        default: The model that is meant where none is named.

    Raises:
        RequestError: if the body is neither a JSON object nor a multipart form,
            or does not name a model.
    """
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        return _asked_by_json(body, default)
    return _asked_by_form(bytes(body), boundary[1] or boundary[2], default)


def _asked_by_json(body: bytes | bytearray | memoryview, default: str | None) -> Asked:
    if not len(body):
        raise RequestError('the body is empty; a JSON object that names a "model" is needed')
    if len(body) > SKIMMED_BYTES and not isinstance(body, memoryview):
        fields = skim(body, _SKIMMED)
        if fields is not None:
            body = b"{%b}" % b",".join(b'"%b":%b' % field for field in fields.items())
    try:
        asked = _decode(body)
    except msgspec.ValidationError as exc:
        raise RequestError(f"the body is not as expected: {exc}", param=_field_of(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    return Asked(_checked(asked.model or default), bool(asked.stream))


def _field_of(exc: msgspec.ValidationError) -> str | None:
    """Return the field that msgspec complains about, e.g. for ``... - at `$.model` ``."""
    found = re.search(r"`\$\.(\w+)", str(exc))
    return found[1] if found else None


def _asked_by_form(body: bytes, boundary: bytes, default: str | None) -> Asked:
    """Walk over the parts; stop as soon as both fields are known.

    Source: RFC 7578 and RFC 2046, section 5.1.1.
    """
    found: dict[bytes, bytes] = {}
    delimiter = b"--" + boundary
    at = body.find(delimiter)
    while at >= 0:
        head_at = at + len(delimiter)
        if body[head_at : head_at + 2] == b"--":
            break
        next_at = body.find(b"\r\n" + delimiter, head_at)
        if next_at < 0:
            raise RequestError("the multipart form is cut off: its last boundary is missing")
        head_end = body.find(b"\r\n\r\n", head_at, next_at + 2)
        if head_end >= 0:
            name = _FIELD_NAME.search(body, head_at, head_end)
            value_at = head_end + 4
            if name and next_at - value_at <= MAX_NAME_BYTES:
                found.setdefault(name[1] or name[2] or b"", body[value_at:next_at])
        at = next_at + 2
    model = found.get(b"model")
    try:
        name_text = None if model is None else model.decode()
    except UnicodeDecodeError:
        raise RequestError('the form field "model" is not UTF-8', param="model") from None
    stream = found.get(b"stream", b"").strip().lower() in (b"true", b"1")
    return Asked(_checked(name_text or default), stream, form=True)


def _checked(model: str | None) -> str:
    if not model:
        raise RequestError('no model is named: the field "model" is missing', param="model")
    if len(model) > MAX_NAME_BYTES:
        raise RequestError(f"the model name is over {MAX_NAME_BYTES} characters", param="model")
    return model
