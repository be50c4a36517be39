"""The model that a body asks for, without changing or keeping the body. Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs
import msgspec

from ...errors.requests import RequestError
from .json_scan import Skim, too_many_parts
from .multipart import FormSearch, boundary_of

#: Longest model name looked at, in bytes; no identifier on any hub comes near it.
MAX_NAME_BYTES: Final = 1024

#: Bodies above this are not decoded, but skimmed.
SKIMMED_BYTES: Final = 256 * 1024

#: Bodies above this, and with more colons than that, are skimmed as well where requests are
#: taken apart: a decoder that returns their fields would need several milliseconds.
DENSE_BYTES: Final = 64 * 1024
DENSE_COLONS: Final = 8192

#: Fields that say what is asked for.
ASKED: Final = frozenset(("model", "stream"))

_IN_FORMS: Final = frozenset((b"model", b"stream"))


@attrs.frozen
class Asked:
    """What a body asks for.

    Attributes:
        model: The name as the client wrote it.
        stream: Whether it wants an event stream.
        opaque: Whether it is anything but a JSON object, so that nothing in it can be changed.
    """

    model: str
    stream: bool
    opaque: bool = False


#: What curl says of everything that it is given with ``-d``, JSON above all.
_SAID_BY_CURL: Final = b"application/x-www-form-urlencoded"


class _Body(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None


_decode = msgspec.json.Decoder(_Body).decode


#: How data begin that gzip or Zstandard has compressed (RFC 1952 and RFC 8878).
_PACKED: Final = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


def form_search(content_type: bytes) -> FormSearch | None:
    """Return what looks into a body while it arrives; None if it is no multipart form.

    Args:
        content_type: Value of its Content-Type field; empty if it had none.
    """
    boundary = boundary_of(content_type)
    return None if boundary is None else FormSearch(boundary, _IN_FORMS)


def asked_by(
    body: bytes | bytearray | memoryview,
    content_type: bytes,
    *,
    default: str | None = None,
    named: str | None = None,
    seen: FormSearch | Skim | None = None,
) -> Asked:
    """Return the model that *body* names.

    Args:
        body: The whole request body.
        content_type: Value of its Content-Type field; empty if it had none.
        default: The model that is meant where none is named.
        named: The model that the request names otherwise; counts where the body names
            none, which then need not be one that could.
        seen: What has looked into the body already, see `form_search` and `skim_of`.

    Raises:
        RequestError: if the body is neither a JSON object nor a multipart form,
            or no model is named.
    """
    form = form_search(content_type) if seen is None else seen
    if isinstance(form, FormSearch):
        return _asked_by_form(body, form, named or default)
    if named is not None and not _names_models(body, content_type):
        return Asked(_checked(named), stream=False, opaque=True)
    if form is not None:
        return _asked_by_json(_skeleton(form, body), named or default)
    return _asked_by_json(body, named or default)


def is_skimmed(body: bytes | bytearray, *, is_taken_apart: bool) -> bool:
    """Say whether a decoder would take so long for *body* that it is to be skimmed.

    Args:
        body: The whole request body.
        is_taken_apart: Whether requests may be decoded field by field, to be shaped.
    """
    size = len(body)
    if size > SKIMMED_BYTES:
        return True
    return is_taken_apart and size > DENSE_BYTES and body.count(b":") > DENSE_COLONS


def skim_of(body: bytes | bytearray, content_type: bytes, names: frozenset[str]) -> Skim | None:
    """Return what is to look into a large body, step by step; None if it is a form.

    Args:
        body: The whole request body.
        content_type: Value of its Content-Type field; empty if it had none.
        names: Names of the fields that matter, `ASKED` among them.
    """
    return None if boundary_of(content_type) is not None else Skim(body, names)


def _skeleton(skim: Skim, body: bytes | bytearray | memoryview) -> bytes:
    """Return a small object that asks for the same.

    Raises:
        RequestError: if it is none, or has too many parts.
    """
    if skim.lost:
        raise too_many_parts()
    if skim.broken:
        raise _packed_error(body) or RequestError(
            "the body is not valid JSON: it is no object, or is cut off"
        )
    fields = ((name, skim.text_of(name)) for name in sorted(ASKED))
    return b"{%b}" % b",".join(b'"%b":%b' % (n.encode(), t) for n, t in fields if t is not None)


def _packed_error(body: bytes | bytearray | memoryview) -> RequestError | None:
    """Return what to raise if *body* is compressed."""
    if not bytes(body[:4]).startswith(_PACKED):
        return None
    return RequestError(
        "the body is compressed, so the model that it names cannot be seen: send it uncompressed"
    )


def _names_models(body: bytes | bytearray | memoryview, content_type: bytes) -> bool:
    """Say whether *body* could name a model: a JSON object, even a broken one."""
    first, kind = bytes(body[:64]).lstrip()[:1], content_type.lower()
    if kind.startswith(_SAID_BY_CURL):
        return first == b"{"
    if kind and b"json" not in kind:
        return False
    return first not in (b"", b"[")


def _asked_by_json(body: bytes | bytearray | memoryview, default: str | None) -> Asked:
    if not len(body):
        raise RequestError('the body is empty; a JSON object that names a "model" is needed')
    try:
        asked = _decode(body)
    except msgspec.ValidationError as exc:
        raise RequestError(f"the body is not as expected: {exc}", param=_field_of(exc)) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise _packed_error(body) or RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    return Asked(_checked(asked.model or default), bool(asked.stream))


def _field_of(exc: msgspec.ValidationError) -> str | None:
    """Return the field that msgspec complains about, e.g. for ``... - at `$.model` ``."""
    found = re.search(r"`\$\.(\w+)", str(exc))
    return found[1] if found else None


def _asked_by_form(
    body: bytes | bytearray | memoryview, form: FormSearch, default: str | None
) -> Asked:
    while not form.look(body, len(body)):
        pass  # what is here already is little
    form.finish()
    model = form.values.get(b"model", b"")
    if model is None:
        raise RequestError(f"the model name is over {MAX_NAME_BYTES} bytes", param="model")
    try:
        name = model.decode()
    except UnicodeDecodeError:
        raise RequestError('the form field "model" is not UTF-8', param="model") from None
    stream = (form.values.get(b"stream") or b"").strip().lower() in (b"true", b"1")
    return Asked(_checked(name or default), stream, opaque=True)


def _checked(model: str | None) -> str:
    if not model:
        raise RequestError('no model is named: the field "model" is missing', param="model")
    if len(model) > MAX_NAME_BYTES:
        raise RequestError(f"the model name is over {MAX_NAME_BYTES} characters", param="model")
    return model
