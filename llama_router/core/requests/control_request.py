"""A request to the router itself, as the data plane hands it to the control plane."""

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
        """Return the payload in *data*; what is behind the body is no part of it.

        Raises:
            RequestError: The framing is broken.
        """


@attrs.frozen(kw_only=True)
class ControlRequest:
    """The checked head of one request, and how its body ends.

    Attributes:
        method: As sent.
        target: The path with its query.
        version: ``1.0`` or ``1.1``.
        fields: All fields, names in lower case; ``host`` is that of the target if it has one.
        expects_continue: The client waits for ``100 Continue`` before it sends the body.
        body: Takes in what follows the head.
        received: What was received behind the head already.
    """

    method: bytes
    target: bytes
    version: str
    fields: Sequence[tuple[bytes, bytes]]
    expects_continue: bool
    body: BodyReader
    received: bytes
