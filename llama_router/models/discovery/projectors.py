"""Finds the projectors of models among the files of one collection. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from . import naming
from .found import FoundFile, Header


class ProjectorMatcher:
    """Finds the projectors of the models of one collection."""

    def __init__(
        self, projectors: Sequence[FoundFile], models: Iterable[FoundFile], *, in_repo: bool
    ) -> None:
        self._projectors = projectors
        self._in_repo = in_repo
        self._used: set[str] = set()
        self._families: dict[str, set[str]] = defaultdict(set)
        if projectors:
            for model in models:
                self._families[self._folder(model)].add(naming.family_of(model.name))
        # A projector with the name of a model beside it serves no other model.
        self._reserved = {
            projector.path
            for projector in projectors
            if any(
                naming.are_related(naming.family_of(projector.name), family)
                for family in self._families[self._folder(projector)]
            )
        }

    def _folder(self, file: FoundFile) -> str:
        """Return the folder of which the files belong together: that of a repository is one."""
        return "" if self._in_repo else file.folder

    def best(self, file: FoundFile, header: Header) -> FoundFile | None:
        """Return the projector that belongs to the chat model *file*."""
        family = naming.family_of(file.name)
        fitting = [
            (self._rank(file, family, projector), projector)
            for projector in self._projectors
            if self._folder(projector) == self._folder(file)
            and _fits(header, projector.header)
            and self._may_serve(projector, file, header)
        ]
        if not fitting:
            return None
        best = min(fitting, key=lambda pair: pair[0])[1]
        self._used.add(best.path)
        return best

    def _may_serve(self, projector: FoundFile, file: FoundFile, header: Header) -> bool:
        """Return whether the names allow that *projector* belongs to *file*.

        In a repository any projector may, unless it has the name of another model there. In a
        folder one with a name belongs to the models of that name only.
        """
        name, family = naming.family_of(projector.name), naming.family_of(file.name)
        if naming.are_related(name, family):
            return True
        if projector.path in self._reserved:
            return False
        if self._in_repo or not name:
            return True
        own_name = naming.family_of(header.name or "")
        projector_name = "" if projector.header is None else projector.header.name
        return naming.are_related(naming.family_of(projector_name or ""), own_name) or (
            not family and len(self._families[self._folder(file)]) == 1
        )

    def misnamed(
        self, models: Iterable[tuple[FoundFile, Header]]
    ) -> Iterator[tuple[FoundFile, FoundFile]]:
        """Yield each unused projector with one of *models* that only its name keeps it from."""
        models = list(models)
        for projector in self._projectors:
            if projector.path in self._used or not _has_width_of(projector):
                continue
            for file, header in models:
                if self._folder(file) == self._folder(projector) and _fits(
                    header, projector.header
                ):
                    yield projector, file
                    break

    @staticmethod
    def _rank(file: FoundFile, family: str, projector: FoundFile) -> tuple[object, ...]:
        """Return a key that is smallest for the best projector of *file*.

        It compares the folder, then the family, then the precision.
        """
        folder = f"{projector.folder}/" if projector.folder else ""
        quant = naming.quant_of(projector.name)
        if quant is None and projector.header is not None:
            quant = projector.header.quant
        preferred = naming.PROJECTOR_QUANTS
        return (
            not f"{file.folder}/".startswith(folder),
            -len(folder),
            *_distance(naming.family_of(projector.name), family),
            preferred.index(quant) if quant in preferred else len(preferred),
            projector.relative_path,
        )


def _fits(model: Header, projector: Header | None) -> bool:
    """Return whether the widths agree, as far as they are known.

    Projectors without a type were written by older converters, which stored the width of the
    vision model instead.
    """
    if projector is None or projector.type != "mmproj":
        return True
    widths = (model.embedding_length, projector.projection_dim)
    return None in widths or widths[0] == widths[1]


def _has_width_of(projector: FoundFile) -> bool:
    header = projector.header
    return header is not None and header.type == "mmproj" and header.projection_dim is not None


def _distance(one: str, other: str) -> tuple[bool, int]:
    """Return a key that is smaller the more of two families is the same."""
    related = naming.are_related(one, other)
    return (not related, abs(len(one) - len(other)) if related else 0)
