"""What becomes of the parameters of a request on their way to its model. Pure.

Only the top level of a JSON object is taken apart; what is not changed goes up as the
client wrote it, number for number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
import msgspec

from ..errors import RequestError

#: Fields that decide where a request goes and how it is answered; no setting may touch them.
PROTECTED: Final = frozenset({"model", "stream"})

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@attrs.frozen(kw_only=True)
class Shape:
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

    def apply(self, body: bytes | bytearray) -> bytes:
        """Return the JSON object *body* in this shape.

        Raises:
            msgspec.DecodeError: if it is no JSON object.
        """
        fields: dict[str, Any] = _decode(body)
        for name in self.drop:
            fields.pop(name, None)
        fields = {**self.defaults, **fields, **self.sets}
        if self.model is not None:
            fields["model"] = self.model
        return msgspec.json.encode(fields)


def shaped(shape: Shape, body: bytes | bytearray) -> bytes:
    """Return *body* in this *shape*.

    Raises:
        RequestError: if it is no JSON object.
    """
    try:
        return shape.apply(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
