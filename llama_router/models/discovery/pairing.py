"""Which projector belongs to which model. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from . import naming
from .found import FoundFile
from .header import Header


class Pairing:
    """Finds the projectors of the models of one collection."""

    def __init__(
        self, projectors: Sequence[FoundFile], models: Iterable[FoundFile], *, in_repo: bool
    ) -> None:
        self._projectors = projectors
        self._in_repo = in_repo
        families: dict[str, set[str]] = defaultdict(set)
        if projectors:
            for model in models:
                families["" if in_repo else model.folder].add(naming.family_of(model.name))
        # Those with the name of a model beside them are for no other one.
        self._owned = {
            projector.path
            for projector in projectors
            if any(
                _related(naming.family_of(projector.name), family)
                for family in families["" if in_repo else projector.folder]
            )
        }

    def best(self, file: FoundFile, header: Header) -> FoundFile | None:
        """Return the projector that belongs to the chat model *file*."""
        family = naming.family_of(file.name)
        fitting = [
            (self._rank(file, family, projector), projector)
            for projector in self._projectors
            if (self._in_repo or projector.folder == file.folder)
            and _fits(header, projector.header)
            and (
                projector.path not in self._owned
                or _related(naming.family_of(projector.name), family)
            )
        ]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None

    @staticmethod
    def _rank(file: FoundFile, family: str, projector: FoundFile) -> tuple[object, ...]:
        """Return what is smallest for the best projector of *file*: near, akin, precise."""
        folder = f"{projector.folder}/" if projector.folder else ""
        quant = naming.quant_of(projector.name)
        if quant is None and projector.header is not None:
            quant = projector.header.quant
        preferred = naming.PROJECTOR_QUANTS
        return (
            not f"{file.folder}/".startswith(folder),
            -len(folder),
            not _related(naming.family_of(projector.name), family),
            preferred.index(quant) if quant in preferred else len(preferred),
            projector.inside,
        )


def _fits(model: Header, projector: Header | None) -> bool:
    """Say whether the widths agree, as far as they are known.

    Projectors without a type are from before the current converters, which wrote another
    width: that of the vision model.
    """
    if projector is None or projector.type != "mmproj":
        return True
    widths = (model.embedding_length, projector.projection_dim)
    return None in widths or widths[0] == widths[1]


def _related(one: str, other: str) -> bool:
    return bool(one and other) and (one in other or other in one)
