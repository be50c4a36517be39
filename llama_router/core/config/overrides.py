"""Overrides of request parameters, as a value. Pure; `requests.body_overrides` applies them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs

#: Fields that decide about the model and the form of the answer; no setting may override them.
PROTECTED: Final = frozenset({"model", "stream"})


@attrs.frozen(kw_only=True)
class RequestOverrides:
    """Changes of each request that uses one name of a model, in this order.

    Attributes:
        drop: Parameters that are left out.
        defaults: Parameters for requests without them.
        sets: Parameters that replace those of the client.
        model: Name of the model for the backend; None for the one that the client sent.
    """

    drop: frozenset[str] = frozenset()
    defaults: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    sets: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    model: str | None = None

    @property
    def touched(self) -> frozenset[str]:
        """Names of the fields on which the result of `changes` depends."""
        names = self.drop.union(self.defaults, self.sets)
        return names if self.model is None else names | {"model"}

    def changes(self, present: Collection[str]) -> tuple[set[str], dict[str, Any]]:
        """Return the fields to remove from a request with the fields *present*, and those to add.

        A field that gets another value is in both.
        """
        kept = {name for name in present if name not in self.drop}
        added = {name: value for name, value in self.defaults.items() if name not in kept}
        added |= self.sets
        if self.model is not None:
            added["model"] = self.model
        return {name for name in present if name not in kept or name in added}, added

    def applied_to(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the *fields* of a request with these overrides."""
        removed, added = self.changes(fields.keys())
        return {name: v for name, v in fields.items() if name not in removed} | added
