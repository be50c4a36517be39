"""The names of models: ids, and what those that clients use stand for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NewType

import attrs

from .overrides import RequestOverrides

ModelId = NewType("ModelId", str)
"""The name that the configuration gives a model; what a client says is a plain `str`."""


@attrs.frozen(kw_only=True)
class ResolvedModel:
    """What one name of a model stands for.

    Attributes:
        model: The model.
        preset: The preset of it that the name ends with; None for a plain name.
        overrides: Changes of requests; None for a plain name without any.
    """

    model: ModelId
    preset: str | None = None
    overrides: RequestOverrides | None = None

    @property
    def name(self) -> str:
        """The name without aliases: the model's id, and the preset if it is one."""
        return str(self.model) if self.preset is None else f"{self.model}:{self.preset}"


class Names:
    """All names of a configuration: as they are written, and those of the hub in any case.

    On the hub, upper and lower case make no difference, neither in the name of a repository
    nor in that of a quantization. So a name with a ``/`` in it, as all of them have, is also
    found by another spelling, unless that could mean something else, too.

    Args:
        named: Each name and what it stands for.

    Attributes:
        touched: Names of the fields on which the overrides of some name depend.
    """

    def __init__(self, named: Iterable[tuple[str, ResolvedModel]]) -> None:
        self._exact = dict(named)
        self.lookup = self._exact.get  # for every request: one look-up, and no call of ours
        self._folded: dict[str, ResolvedModel | None] | None = None
        overrides = (m.overrides for m in self._exact.values() if m.overrides is not None)
        self.touched = frozenset[str]().union(*(each.touched for each in overrides))

    def find(self, name: str) -> ResolvedModel | None:
        """Return what *name* stands for; None if nobody has it."""
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
