"""Ids and aliases of found models: unique, and the same at the next scan. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import attrs

from . import naming
from .found import FoundFile, FoundModel, Header, ScanWarning, StoreEntry, args_for, kind_of


@attrs.frozen(kw_only=True)
class Candidate:
    """A model that has no id yet.

    Attributes:
        file: Its file, or the first of its parts.
        header: Of *file*.
        collection: Number of the collection that it is in.
        repo: ``owner/repo`` if it comes from the hub.
        quant: Its quantization, if that is known.
        args: Further arguments of llama-server: of its store, its draft, its adapters.
        mmproj: Its projector.
        size_bytes: Of all its parts.
        versions: Of all its parts, and of its projector.
    """

    file: FoundFile
    header: Header
    collection: int
    repo: str | None
    quant: str | None
    args: tuple[str, ...]
    mmproj: str | None
    size_bytes: int
    versions: tuple[str, ...]

    @property
    def entry(self) -> StoreEntry:
        """Return what is known of it beside its file."""
        return self.file.entry or StoreEntry(name="")

    @property
    def key(self) -> str:
        """Return a text that no other candidate has: a store may have two models of one file."""
        entry = self.file.entry
        return self.file.path if entry is None else f"{self.file.path}\0{entry.name}"


def name_models(
    candidates: Sequence[Candidate],
    taken: frozenset[str],
    known: Mapping[str, str],
    warnings: list[ScanWarning],
) -> Iterable[FoundModel]:
    """Yield each candidate with a unique id, and the aliases that no other candidate has.

    Args:
        candidates: Most trusted first.
        taken: Names that no model may get.
        known: Path to id of models found earlier.
        warnings: Receives a warning for each one that gets another id or is left out.
    """
    ids = _unique_ids(candidates, taken, known, warnings)
    named = [(ids[c.key], c) for c in candidates if c.key in ids]
    defaults = _repo_defaults(named)
    aliases = {model: _aliases(c, defaults.get(c.repo or "") == model) for model, c in named}
    uses = Counter(alias for names in aliases.values() for alias in names)
    for model, c in named:
        yield FoundModel(
            id=model,
            path=c.file.path,
            kind=kind_of(c.header),
            args=(
                *args_for(c.header, has_mmproj=c.mmproj is not None),
                *c.args,
            ),
            header=c.header,
            aliases=tuple(
                alias
                for alias in aliases[model]
                if uses[alias] == 1 and alias not in aliases and alias not in taken
            ),
            mmproj=c.mmproj,
            quant=c.quant,
            size_bytes=c.size_bytes,
            versions=c.versions,
            default_params=c.entry.default_params,
            format=c.entry.format,
            command=c.entry.command,
        )


def _unique_ids(
    candidates: Sequence[Candidate],
    taken: frozenset[str],
    known: Mapping[str, str],
    warnings: list[ScanWarning],
) -> dict[str, str]:
    """Return the id of each candidate by its key; duplicates from the hub are left out."""
    by_id = _by_preferred_id(candidates)
    ids: dict[str, str] = {}
    used = set(taken)
    renamed: list[tuple[str, Candidate]] = []
    for preferred, rivals in by_id.items():
        first: Candidate | None = rivals[0]
        others = rivals[1:]
        if rivals[0].repo is None and others:
            # The order is no criterion: the next scan may find them in another one.
            former = [c for c in rivals if known.get(c.file.path) == preferred]
            first = former[0] if len(former) == 1 else None
            others = [c for c in rivals if c is not first]
        if first is not None and preferred not in used:
            ids[first.key] = preferred
            used.add(preferred)
        elif first is not None:
            others = rivals
        for other in others:
            if other.repo is not None:
                reason = f"there is already a model {preferred!r}; it is left out"
                warnings.append(ScanWarning.about(other.file.path, reason))
            else:
                renamed.append((preferred, other))
    used |= by_id.keys()
    uses = Counter(name for preferred, c in renamed for name in _longer(preferred, c.file.path))
    for preferred, c in renamed:
        names = _longer(preferred, c.file.path)
        free = (name for name in names if uses[name] == 1 and name not in used)
        model = next(free, f"{preferred} ({c.file.path})")
        ids[c.key] = model
        used.add(model)
        reason = f"another model is called {preferred!r}; this one is called {model!r}"
        warnings.append(ScanWarning.about(c.file.path, reason))
    return ids


def _by_preferred_id(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    by_collection: dict[int, list[Candidate]] = defaultdict(list)
    for c in candidates:
        by_collection[c.collection].append(c)
    by_id: dict[str, list[Candidate]] = defaultdict(list)
    for members in by_collection.values():
        own = naming.own_labels((c.file.relative_path, c.quant) for c in members)
        for c in members:
            by_id[_preferred_id(c, has_label=c.file.relative_path in own)].append(c)
    return by_id


def _preferred_id(c: Candidate, *, has_label: bool) -> str:
    """Return the id of a model that shares it with no other one."""
    if c.file.entry is not None:
        return c.file.entry.name
    if c.repo is None:
        return naming.stem_of(c.file.name)
    return f"{c.repo}:{c.quant if has_label else naming.stem_of(c.file.relative_path)}"


def _longer(name: str, path: str) -> list[str]:
    """Return *name* with one folder of *path* in front, with two, and so on."""
    folders = [folder for folder in path.split("/")[:-1] if folder]
    return ["/".join((*folders[-depth:], name)) for depth in range(1, len(folders) + 1)]


def _repo_defaults(named: Iterable[tuple[str, Candidate]]) -> dict[str, str]:
    """Return, for each repository, the id of the model that its bare name stands for."""
    best: dict[str, tuple[tuple[int, bool], str]] = {}
    for model, c in named:
        if c.repo is None:
            continue
        defaults = naming.DEFAULT_QUANTS
        place = defaults.index(c.quant) if c.quant in defaults else len(defaults)
        rank = (place, naming.is_doubtful(c.file.relative_path))
        if c.repo not in best or rank < best[c.repo][0]:
            best[c.repo] = (rank, model)
    return {repo: model for repo, (_, model) in best.items()}


def _aliases(c: Candidate, is_default: bool) -> tuple[str, ...]:  # noqa: FBT001 -- private
    if c.file.entry is not None:
        return c.file.entry.aliases
    names = [c.file.name]
    if c.repo is not None:
        names.append(naming.stem_of(c.file.name))
        if is_default:
            names.append(c.repo)
    return tuple(dict.fromkeys(names))
