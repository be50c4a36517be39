"""Turns the files of a scan into models: parts, projectors, ids and aliases. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

from . import naming
from .companions import Check, CompanionMatcher, Companions
from .found import (
    Collection,
    Discovery,
    FoundFile,
    Header,
    ModelFormat,
    ModelKind,
    ScanWarning,
    StoreEntry,
    kind_of,
)
from .ids import Candidate, name_models
from .projectors import ProjectorMatcher

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
    check: Check | None = None,
) -> Discovery:
    """Return the models among the files of *collections*.

    A file that is in several collections counts for the first one.

    Args:
        collections: Most trusted first.
        taken: Names that no model may get.
        known: Path to id of models found earlier. If several models would get the same id, the
            one that had it keeps it.
        skip: Identities of files that are models already.
        check: Compares drafts and adapters with models; without it none is used.
    """
    collector = _CandidateCollector(skip, check)
    for collection in collections:
        collector.add(collection)
    models = name_models(collector.candidates, frozenset(taken), known or {}, collector.warnings)
    return Discovery(tuple(models), tuple(collector.warnings))


@attrs.frozen
class _Beside:
    """The side files of one model."""

    mmproj: FoundFile | None = None
    companions: Companions = attrs.field(factory=Companions)


class _CandidateCollector:
    """Collects the models of one collection after the other."""

    def __init__(self, skip: Iterable[object], check: Check | None) -> None:
        self._check = check
        self.candidates: list[Candidate] = []
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
        matcher = ProjectorMatcher(projectors, files, in_repo=collection.repo is not None)
        companions = CompanionMatcher(
            collection.files, in_repo=collection.repo is not None, check=self._check
        )
        without_projector: list[tuple[FoundFile, Header]] = []
        for file, header, parts in models:
            if not self._is_new(file):
                continue
            beside = _Beside()
            if kind_of(header) is ModelKind.CHAT and _is_gguf(file):
                needs_projector = file.entry is None or file.entry.mmproj is None
                mmproj = matcher.best(file, header) if needs_projector else None
                beside = _Beside(mmproj, companions.best(file, header))
                if needs_projector and mmproj is None:
                    without_projector.append((file, header))
            self.candidates.append(self._candidate(collection, header, parts, beside))
        for projector, model in matcher.misnamed(without_projector):
            reason = (
                f"it may belong to {model.name}, but has the name of another model: rename it, "
                "or name it as 'mmproj' of its model in router.toml"
            )
            self._warn(projector, reason)
        for side_file, reason in companions.unused():
            self._warn(side_file, reason)

    def _is_new(self, file: FoundFile) -> bool:
        """Return whether the model was not seen before; it is from now on."""
        identity: object = file.identity or file.path
        if file.entry is not None and not file.entry.is_plain:
            identity = (identity, file.entry.name)  # another model with the same weights
        if identity in self._seen:
            return False
        self._seen.add(identity)
        return True

    def _candidate(
        self, collection: Collection, header: Header, parts: Sequence[FoundFile], beside: _Beside
    ) -> Candidate:
        file, entry = parts[0], parts[0].entry or StoreEntry(name="")
        mmproj = beside.mmproj
        return Candidate(
            file=file,
            header=header,
            collection=self._collections,
            repo=collection.repo,
            quant=file.tag or naming.quant_of(file.relative_path) or header.quant,
            args=(*entry.args, *beside.companions.args),
            mmproj=mmproj.path if mmproj else entry.mmproj,
            size_bytes=sum(part.size_bytes for part in parts),
            versions=(*_versions((*parts, mmproj) if mmproj else parts), *entry.versions),
        )

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
        if file.entry is None and naming.is_side_file(file.name):
            return None
        if file.fault is not None:
            self._warn(file, file.fault)
        if file.entry is None and naming.is_projector(file.name):
            return None
        header = file.header
        if header is None or header.is_side_file:
            return None
        if header.architecture in _FOREIGN and _is_gguf(file):
            self._warn(file, f"llama.cpp does not serve models of the kind {header.architecture}")
            return None
        # The first part of a split model may have no tensors of its own.
        return header if header.tensor_count or naming.part_of(file.name) else None


def _is_gguf(file: FoundFile) -> bool:
    return file.entry is None or file.entry.format is ModelFormat.GGUF


def _versions(files: Iterable[FoundFile]) -> tuple[str, ...]:
    return tuple(file.version for file in files if file.version is not None)


def _split_key(file: FoundFile, part: naming.Part) -> tuple[str, str, int]:
    return (file.path[: -len(file.name)], part.stem, part.count)


def _relative_path_of_first(file: FoundFile, part: naming.Part) -> str:
    first = f"{part.stem}-00001-of-{part.count:05}{file.name[-len('.gguf') :]}"
    return f"{file.folder}/{first}" if file.folder else first
