"""Turns the files of a scan into models: parts, projectors, ids and aliases. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import attrs

from . import naming
from .found import (
    Collection,
    Discovery,
    FoundFile,
    FoundModel,
    Header,
    ModelKind,
    ScanWarning,
    args_for,
    kind_of,
)

#: Quantizations that ``owner/repo`` without one stands for, in this order. Source: llama.cpp,
#: common/download.cpp.
DEFAULT_QUANTS: Final = ("Q4_K_M", "Q8_0")

# Architectures of image and video models in GGUF files; llama.cpp serves none of them.
_FOREIGN: Final = frozenset(
    (
        "aura",
        "chroma",
        "cosmos",
        "flux",
        "hidream",
        "hyvid",
        "ltxv",
        "lumina2",
        "pig",
        "qwen_image",
        "sd1",
        "sd3",
        "sdxl",
        "wan",
        "whisper",
    )
)


def discover(
    collections: Iterable[Collection],
    *,
    taken: Iterable[str] = (),
    known: Mapping[str, str] | None = None,
    skip: Iterable[object] = (),
) -> Discovery:
    """Return the models among the files of *collections*.

    A file that is in several collections counts for the first one.

    Args:
        collections: Most trusted first.
        taken: Names that no model may get.
        known: Path to id of models found earlier. If several models would get the same id, the
            one that had it keeps it.
        skip: Identities of files that are models already.
    """
    collector = _CandidateCollector(skip)
    for collection in collections:
        collector.add(collection)
    models = _name_models(collector.candidates, frozenset(taken), known or {}, collector.warnings)
    return Discovery(tuple(models), tuple(collector.warnings))


# --- Files -> models without names ----------------------------------------------------


@attrs.frozen(kw_only=True)
class _Candidate:
    """A model that has no id yet.

    Attributes:
        file: Its file, or the first of its parts.
        header: Of *file*.
        collection: Number of the collection that it is in.
        repo: ``owner/repo`` if it comes from the hub.
        quant: Its quantization, if that is known.
        mmproj: Its projector.
        size_bytes: Of all its parts.
        versions: Of all its parts, and of its projector.
    """

    file: FoundFile
    header: Header
    collection: int
    repo: str | None
    quant: str | None
    mmproj: str | None
    size_bytes: int
    versions: tuple[str, ...]


class _CandidateCollector:
    """Collects the models of one collection after the other."""

    def __init__(self, skip: Iterable[object]) -> None:
        self.candidates: list[_Candidate] = []
        self.warnings: list[ScanWarning] = []
        self._seen = set(skip)
        self._collections = 0

    def _warn(self, file: FoundFile, reason: str) -> None:
        self.warnings.append(ScanWarning.about(file.path, reason))

    def add(self, collection: Collection) -> None:
        """Collect the models of *collection*."""
        self._collections += 1
        projectors: list[FoundFile] = []
        models: list[tuple[FoundFile, Header, Sequence[FoundFile]]] = []
        for parts in self._complete_files(collection.files):
            file = parts[0]
            if file.header is not None and file.header.is_projector:
                projectors.append(file)
            elif (header := self._model_header(file)) is not None:
                models.append((file, header, parts))
        files = [file for file, _, _ in models]
        matcher = _ProjectorMatcher(projectors, files, in_repo=collection.repo is not None)
        without_projector: list[tuple[FoundFile, Header]] = []
        for file, header, parts in models:
            identity = file.identity or file.path
            if identity in self._seen:
                continue
            self._seen.add(identity)
            mmproj = None
            if kind_of(header) is ModelKind.CHAT:
                mmproj = matcher.best(file, header)
                if mmproj is None:
                    without_projector.append((file, header))
            self.candidates.append(
                _Candidate(
                    file=file,
                    header=header,
                    collection=self._collections,
                    repo=collection.repo,
                    quant=file.tag or naming.quant_of(file.relative_path) or header.quant,
                    mmproj=mmproj.path if mmproj else None,
                    size_bytes=sum(part.size_bytes for part in parts),
                    versions=_versions((*parts, mmproj) if mmproj else parts),
                )
            )
        for projector, model in matcher.misnamed(without_projector):
            reason = (
                f"it may belong to {model.name}, but has the name of another model: rename it, "
                "or name it as 'mmproj' of its model in router.toml"
            )
            self._warn(projector, reason)

    def _complete_files(self, files: Sequence[FoundFile]) -> Iterable[Sequence[FoundFile]]:
        """Yield each file, for a split model all its parts in order.

        A repository may have a file in several snapshots: the first complete one counts.
        """
        parts: dict[tuple[str, str, int], dict[int, FoundFile]] = defaultdict(dict)
        for file in files:
            if part := naming.part_of(file.name):
                parts[_split_key(file, part)].setdefault(part.number, file)
        yielded: set[str] = set()
        incomplete: list[tuple[FoundFile, str, str]] = []
        for file in files:
            part = naming.part_of(file.name)
            complete = [file]
            if part is not None:
                # The first part in the list stands for all of them.
                own = parts.pop(_split_key(file, part), {})
                if not own:
                    continue
                missing = part.count - len(own.keys() & set(range(1, part.count + 1)))
                if missing or not part.count:
                    share = f"{missing} of {part.count}"
                    incomplete.append((file, _relative_path_of_first(file, part), share))
                    continue
                complete = [own[number] for number in range(1, part.count + 1)]
            first = complete[0].relative_path
            if first not in yielded and not (part and self._is_part_unusable(complete)):
                yielded.add(first)
                yield complete
        for file, first, share in incomplete:
            if first not in yielded:
                self._warn(file, f"parts of this split model are missing: {share}")

    def _is_part_unusable(self, parts: Sequence[FoundFile]) -> bool:
        """Return whether llama.cpp cannot open one of *parts*; warn about the first such one."""
        for file in parts:
            reason = naming.spelling_fault(file.path.rpartition("/")[2])
            if reason is None and file.identity is not None:
                reason = file.fault
            if reason is not None:
                self._warn(file, reason)
                return True
        return False

    def _model_header(self, file: FoundFile) -> Header | None:
        """Return the header of a file that is a model; None for any other file."""
        if not file.path.isprintable():
            self._warn(file, "its name has characters that cannot be shown")
            return None
        if naming.is_side_file(file.name):
            return None
        if file.fault is not None:
            self._warn(file, file.fault)
        if naming.is_projector(file.name):
            return None
        header = file.header
        if header is None or header.is_side_file:
            return None
        if header.architecture in _FOREIGN:
            self._warn(file, f"llama.cpp does not serve models of the kind {header.architecture}")
            return None
        # The first part of a split model may have no tensors of its own.
        return header if header.tensor_count or naming.part_of(file.name) else None


def _versions(files: Iterable[FoundFile]) -> tuple[str, ...]:
    return tuple(file.version for file in files if file.version is not None)


def _split_key(file: FoundFile, part: naming.Part) -> tuple[str, str, int]:
    return (file.path[: -len(file.name)], part.stem, part.count)


def _relative_path_of_first(file: FoundFile, part: naming.Part) -> str:
    first = f"{part.stem}-00001-of-{part.count:05}{file.name[-len('.gguf') :]}"
    return f"{file.folder}/{first}" if file.folder else first


# --- Projectors -----------------------------------------------------------------------


class _ProjectorMatcher:
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
                _related(naming.family_of(projector.name), family)
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
        if _related(name, family):
            return True
        if projector.path in self._reserved:
            return False
        if self._in_repo or not name:
            return True
        own_name = naming.family_of(header.name or "")
        projector_name = "" if projector.header is None else projector.header.name
        return _related(naming.family_of(projector_name or ""), own_name) or (
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
    related = _related(one, other)
    return (not related, abs(len(one) - len(other)) if related else 0)


def _related(one: str, other: str) -> bool:
    return bool(one and other) and (one in other or other in one)


# --- Ids and aliases ------------------------------------------------------------------


def _name_models(
    candidates: Sequence[_Candidate],
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
    named = [(ids[c.file.path], c) for c in candidates if c.file.path in ids]
    defaults = _repo_defaults(named)
    aliases = {model: _aliases(c, defaults.get(c.repo or "") == model) for model, c in named}
    uses = Counter(alias for names in aliases.values() for alias in names)
    for model, c in named:
        yield FoundModel(
            id=model,
            path=c.file.path,
            kind=kind_of(c.header),
            args=args_for(c.header, has_mmproj=c.mmproj is not None),
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
        )


def _unique_ids(
    candidates: Sequence[_Candidate],
    taken: frozenset[str],
    known: Mapping[str, str],
    warnings: list[ScanWarning],
) -> dict[str, str]:
    """Return the id of each candidate by its path; duplicates from the hub are left out."""
    by_id = _by_preferred_id(candidates)
    ids: dict[str, str] = {}
    used = set(taken)
    renamed: list[tuple[str, _Candidate]] = []
    for preferred, rivals in by_id.items():
        first: _Candidate | None = rivals[0]
        others = rivals[1:]
        if rivals[0].repo is None and others:
            # The order is no criterion: the next scan may find them in another one.
            former = [c for c in rivals if known.get(c.file.path) == preferred]
            first = former[0] if len(former) == 1 else None
            others = [c for c in rivals if c is not first]
        if first is not None and preferred not in used:
            ids[first.file.path] = preferred
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
        ids[c.file.path] = model
        used.add(model)
        reason = f"another model is called {preferred!r}; this one is called {model!r}"
        warnings.append(ScanWarning.about(c.file.path, reason))
    return ids


def _by_preferred_id(candidates: Iterable[_Candidate]) -> dict[str, list[_Candidate]]:
    by_collection: dict[int, list[_Candidate]] = defaultdict(list)
    for c in candidates:
        by_collection[c.collection].append(c)
    by_id: dict[str, list[_Candidate]] = defaultdict(list)
    for members in by_collection.values():
        own = naming.own_labels((c.file.relative_path, c.quant) for c in members)
        for c in members:
            by_id[_preferred_id(c, has_label=c.file.relative_path in own)].append(c)
    return by_id


def _preferred_id(c: _Candidate, *, has_label: bool) -> str:
    """Return the id of a model that shares it with no other one."""
    if c.repo is None:
        return naming.stem_of(c.file.name)
    return f"{c.repo}:{c.quant if has_label else naming.stem_of(c.file.relative_path)}"


def _longer(name: str, path: str) -> list[str]:
    """Return *name* with one folder of *path* in front, with two, and so on."""
    folders = [folder for folder in path.split("/")[:-1] if folder]
    return ["/".join((*folders[-depth:], name)) for depth in range(1, len(folders) + 1)]


def _repo_defaults(named: Iterable[tuple[str, _Candidate]]) -> dict[str, str]:
    """Return, for each repository, the id of the model that its bare name stands for."""
    best: dict[str, tuple[tuple[int, bool], str]] = {}
    for model, c in named:
        if c.repo is None:
            continue
        place = DEFAULT_QUANTS.index(c.quant) if c.quant in DEFAULT_QUANTS else len(DEFAULT_QUANTS)
        rank = (place, naming.is_doubtful(c.file.relative_path))
        if c.repo not in best or rank < best[c.repo][0]:
            best[c.repo] = (rank, model)
    return {repo: model for repo, (_, model) in best.items()}


def _aliases(c: _Candidate, is_default: bool) -> tuple[str, ...]:  # noqa: FBT001 -- private
    names = [c.file.name]
    if c.repo is not None:
        names.append(naming.stem_of(c.file.name))
        if is_default:
            names.append(c.repo)
    return tuple(dict.fromkeys(names))
