"""A request that the data plane hands to the control plane, as a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import attrs


class BodyReader(Protocol):
    """Finds the end of one request's body, sans-IO.

    Attributes:
        done: The body is complete.
    """

    done: bool

    def feed(self, data: bytes) -> bytes:
        """Return the payload in *data*, without bytes behind the body.

        Raises:
            RequestError: if the framing is malformed.
        """


@attrs.frozen(kw_only=True)
class ControlRequest:
    """The checked head of one request, and the reader of its body.

    Attributes:
        method: As sent.
        target: The path with its query.
        version: ``1.0`` or ``1.1``.
        fields: All fields, names in lower case; ``host`` is that of the target if it has one.
        expects_continue: The client waits for ``100 Continue`` before it sends the body.
        body: Reader of the bytes behind the head.
        received: Bytes behind the head that were received already.
    """

    method: bytes
    target: bytes
    version: str
    fields: Sequence[tuple[bytes, bytes]]
    expects_continue: bool
    body: BodyReader
    received: bytes
