"""Names of models: ids, and the lookup of the names that clients use. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

import attrs

from .overrides import RequestOverrides

ModelId = NewType("ModelId", str)
"""The id of a model in the configuration; a name from a client is a plain `str`."""


@attrs.frozen(kw_only=True)
class ResolvedModel:
    """The model and the preset that a name refers to.

    Attributes:
        model: The model.
        preset: The preset at the end of the name; None for a plain name.
        overrides: Changes to requests; None for a plain name of a model without any.
    """

    model: ModelId
    preset: str | None = None
    overrides: RequestOverrides | None = None

    @property
    def name(self) -> str:
        """Return the canonical name: the id, with the preset if there is one."""
        return str(self.model) if self.preset is None else f"{self.model}:{self.preset}"


class Names:
    """All names of a configuration; those of the hub are case-insensitive.

    The hub ignores the case of the names of repositories and quantizations. All of them contain
    a ``/``. So a name with a ``/`` is also found in another case, unless several models match.

    Args:
        named: Pairs of a name and its model.

    Attributes:
        touched: The request fields that some overrides read or change.
        lookup_exact: Returns the model of a name in the case of the configuration, or None.
    """

    def __init__(self, named: Iterable[tuple[str, ResolvedModel]]) -> None:
        self._exact = dict(named)
        self.lookup_exact = self._exact.get  # used for every request: the method of dict itself
        self._folded: dict[str, ResolvedModel | None] | None = None
        overrides = (m.overrides for m in self._exact.values() if m.overrides is not None)
        self.touched = frozenset[str]().union(*(each.touched for each in overrides))

    def lookup(self, name: str) -> ResolvedModel | None:
        """Return the model of *name*, for names of the hub in any case; None if there is none."""
        found = self._exact.get(name)
        if found is None and "/" in name:
            if self._folded is None:
                self._folded = self._fold()
            return self._folded.get(name.casefold())
        return found

    def _fold(self) -> dict[str, ResolvedModel | None]:
        folded: dict[str, ResolvedModel | None] = {}
        for name, resolved in self._exact.items():
            if "/" in name and folded.setdefault(name.casefold(), resolved) is not resolved:
                folded[name.casefold()] = None
        return folded
