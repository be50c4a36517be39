"""What becomes of the parameters of a request on their way to its model. Pure.

Only the top level of a JSON object is taken apart; what is not changed goes up as the
client wrote it, number for number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import attrs
import msgspec

from ...errors.requests import RequestError
from ..requests.json_scan import MAX_FIELDS, Skim, change, too_many_parts

#: Fields that decide where a request goes and how it is answered; no setting may touch them.
PROTECTED: Final = frozenset({"model", "stream"})

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@attrs.frozen(kw_only=True)
class RequestOverrides:
    """What is done to each request that uses one name of a model, in this order.

    Attributes:
        drop: Parameters that are left out.
        defaults: Parameters for requests that do not have them.
        sets: Parameters that take the place of what the client sent.
        model: What the backend sees as the model's name; None for what the client sent.
    """

    drop: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    sets: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    model: str | None = None

    @property
    def touched(self) -> frozenset[str]:
        """Names of the fields that decide what `changes` returns."""
        names = self.drop | self.defaults.keys() | self.sets.keys()
        return names if self.model is None else names | {"model"}

    def changes(self, present: Collection[str]) -> tuple[set[str], dict[str, Any]]:
        """Return what is taken out of a request that has the fields *present*, and what is put in.

        A field that gets another value is in both.
        """
        kept = {name for name in present if name not in self.drop}
        put_in = {name: value for name, value in self.defaults.items() if name not in kept}
        put_in |= self.sets
        if self.model is not None:
            put_in["model"] = self.model
        return {name for name in present if name not in kept or name in put_in}, put_in

    def of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the *fields* of a request in this shape."""
        taken_out, put_in = self.changes(fields.keys())
        return {name: v for name, v in fields.items() if name not in taken_out} | put_in

    def apply(self, body: bytes | bytearray) -> bytes:
        """Return the JSON object *body* in this shape.

        Raises:
            msgspec.DecodeError: if it is no JSON object.
            RequestError: if it has too many fields.
        """
        fields = _decode(body)
        if len(fields) > MAX_FIELDS:
            raise too_many_parts()
        return msgspec.json.encode(self.of(fields))


def with_overrides(shape: RequestOverrides, body: bytes | bytearray) -> bytes:
    """Return *body*, which is small, in this *shape*.

    Raises:
        RequestError: if it is no JSON object, or has too many fields.
    """
    try:
        return shape.apply(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc


def bring_into_shape(shape: RequestOverrides, body: bytearray, skim: Skim) -> Iterator[None]:
    """Bring *body*, which is large, into this *shape*, where it is; each step is a short one.

    Args:
        shape: What becomes of it.
        body: A JSON object.
        skim: Noted all of its fields that the shape touches.

    Raises:
        RequestError: if something stands behind the object.
    """
    return change(body, skim, *shape.changes({field.name for field in skim.fields}))
