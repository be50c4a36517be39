"""Types of the admin API's JSON: what the types of all subjects share.

The types of bodies and answers check, encode and document the JSON.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, description="A model's name or alias.")]


class StrictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Base of request bodies; an unknown field is an error."""


class Empty(StrictBody):
    """An empty object, or no body at all."""


class Error(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorAnswer(msgspec.Struct):
    """The body of every error."""

    error: Error


def to_dict(value: msgspec.Struct) -> dict[str, Any]:
    """Return *value* as the dictionary that its JSON decodes to."""
    converted = msgspec.to_builtins(value)
    assert isinstance(converted, dict)
    return converted
