"""Names for the models that were found: ids and aliases, each of them unique. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from . import naming
from .found import Doubt, FoundFile, FoundModel
from .header import Header
from .kinds import args_for, kind_of

#: What ``owner/repo`` without a quantization means, if it is there. Source: llama.cpp,
#: common/download.cpp.
DEFAULT_QUANTS: Final = ("Q4_K_M", "Q8_0")


@attrs.frozen(kw_only=True)
class Candidate:
    """A model without a name.

    Attributes:
        file: Its file, or the first of its parts.
        header: Of *file*.
        collection: Number of the collection that it is in.
        repo: ``owner/repo`` if it comes from the hub.
        quant: Its quantization, if that is known.
        mmproj: Its projector.
        size_bytes: Of all its parts.
    """

    file: FoundFile
    header: Header
    collection: int
    repo: str | None
    quant: str | None
    mmproj: str | None
    size_bytes: int


def doubt(file: FoundFile, reason: str) -> Doubt:
    """Return a doubt about *file*, whose name need not be text."""
    return Doubt(file.path.encode("utf-8", "backslashreplace").decode(), reason)


def name_models(
    candidates: Sequence[Candidate],
    taken: frozenset[str],
    known: Mapping[str, str],
    doubts: list[Doubt],
) -> Iterable[FoundModel]:
    """Give every candidate an id of its own, and the aliases that only it wants.

    Args:
        candidates: Most trusted first.
        taken: Names that no model may get.
        known: Path to id of models found earlier.
        doubts: Gets what is to be said about those that are called otherwise, or left out.
    """
    ids = _ids(candidates, taken, known, doubts)
    named = [(ids[c.file.path], c) for c in candidates if c.file.path in ids]
    defaults = _defaults(named)
    wanted = {model: _aliases(c, defaults.get(c.repo or "") == model) for model, c in named}
    claims = Counter(alias for aliases in wanted.values() for alias in aliases)
    for model, c in named:
        yield FoundModel(
            id=model,
            path=c.file.path,
            kind=kind_of(c.header),
            args=args_for(c.header, has_mmproj=c.mmproj is not None),
            header=c.header,
            aliases=tuple(
                alias
                for alias in wanted[model]
                if claims[alias] == 1 and alias not in wanted and alias not in taken
            ),
            mmproj=c.mmproj,
            quant=c.quant,
            size_bytes=c.size_bytes,
        )


def _ids(
    candidates: Sequence[Candidate],
    taken: frozenset[str],
    known: Mapping[str, str],
    doubts: list[Doubt],
) -> dict[str, str]:
    """Return the id of every candidate by its path; those that are twice are left out."""
    labels = Counter((c.collection, c.quant) for c in candidates)
    wishes: dict[str, list[Candidate]] = defaultdict(list)
    for c in candidates:
        wishes[_wish(c, unique=labels[c.collection, c.quant] == 1)].append(c)
    ids: dict[str, str] = {}
    used = set(taken)
    late: list[tuple[str, Candidate]] = []
    for wish, rivals in wishes.items():
        first: Candidate | None = rivals[0]
        others = rivals[1:]
        if rivals[0].repo is None and others:
            # Nobody comes first: the next scan may find them in another order.
            heirs = [c for c in rivals if known.get(c.file.path) == wish]
            first = heirs[0] if len(heirs) == 1 else None
            others = [c for c in rivals if c is not first]
        if first is not None and wish not in used:
            ids[first.file.path] = wish
            used.add(wish)
        elif first is not None:
            others = rivals
        for other in others:
            if other.repo is not None:
                doubts.append(
                    doubt(other.file, f"there is already a model {wish!r}; it is left out")
                )
            else:
                late.append((wish, other))
    used |= wishes.keys()
    wanted = Counter(name for wish, c in late for name in _longer(wish, c.file.path))
    for wish, c in late:
        names = _longer(wish, c.file.path)
        free = (name for name in names if wanted[name] == 1 and name not in used)
        model = next(free, f"{wish} ({c.file.path})")
        ids[c.file.path] = model
        used.add(model)
        said = f"another model is called {wish!r}; this one is called {model!r}"
        doubts.append(doubt(c.file, said))
    return ids


def _wish(c: Candidate, *, unique: bool) -> str:
    """Return the id of a model that has its name for itself."""
    if c.repo is None:
        return naming.stem_of(c.file.name)
    label = c.quant if c.quant is not None and unique else naming.stem_of(c.file.inside)
    return f"{c.repo}:{label}"


def _longer(wish: str, path: str) -> list[str]:
    """Return *wish* with one folder of *path* in front, with two, and so on."""
    folders = [folder for folder in path.split("/")[:-1] if folder]
    return ["/".join((*folders[-depth:], wish)) for depth in range(1, len(folders) + 1)]


def _defaults(named: Iterable[tuple[str, Candidate]]) -> dict[str, str]:
    """Return, for each repository, the id of the model that it means without a quantization."""
    best: dict[str, tuple[int, str]] = {}
    for model, c in named:
        if c.repo is None:
            continue
        rank = DEFAULT_QUANTS.index(c.quant) if c.quant in DEFAULT_QUANTS else len(DEFAULT_QUANTS)
        if c.repo not in best or rank < best[c.repo][0]:
            best[c.repo] = (rank, model)
    return {repo: model for repo, (_, model) in best.items()}


def _aliases(c: Candidate, is_default: bool) -> tuple[str, ...]:  # noqa: FBT001 -- private
    names = [c.file.name]
    if c.repo is not None:
        names.append(naming.stem_of(c.file.name))
        if is_default:
            names.append(c.repo)
    return tuple(dict.fromkeys(names))
