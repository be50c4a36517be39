"""The fields of a JSON body that say what it is for, and their decoder. Pure. Never compiled.

msgspec makes its classes from annotations in the body of a class, which mypyc evaluates at another
time.
"""

from __future__ import annotations

from typing import Final

import msgspec


class TargetFields(msgspec.Struct):
    """The model that a body names, and whether it asks for a stream; None where it does not say."""

    model: str | None = None
    stream: bool | None = None


DECODER: Final = msgspec.json.Decoder(TargetFields)
