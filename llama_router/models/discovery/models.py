"""Files that a scan found -> the models they are. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from . import naming
from .found import Collection, Discovery, Doubt, FoundFile
from .header import Header
from .kinds import Kind, kind_of
from .model_ids import Candidate, doubt, name_models
from .pairing import Pairing

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

# What ``general.type`` says of files that are no models of their own.
_SIDE_TYPES: Final = frozenset(("adapter", "dataset", "imatrix", "vocab"))


def discover(
    collections: Iterable[Collection],
    *,
    taken: Iterable[str] = (),
    known: Mapping[str, str] | None = None,
    skip: Iterable[object] = (),
) -> Discovery:
    """Return the models among the files of *collections*.

    A file that an earlier collection has is not looked at again.

    Args:
        collections: Most trusted first.
        taken: Names that no model may get.
        known: Path to id of models found earlier. Of those that want the same name, one
            that has it keeps it.
        skip: Identities of files that are models already.
    """
    finder = _Finder(skip)
    for collection in collections:
        finder.collect(collection)
    models = name_models(finder.candidates, frozenset(taken), known or {}, finder.doubts)
    return Discovery(tuple(models), tuple(finder.doubts))


class _Finder:
    def __init__(self, skip: Iterable[object]) -> None:
        self.candidates: list[Candidate] = []
        self.doubts: list[Doubt] = []
        self._seen = set(skip)
        self._collections = 0

    def doubt(self, file: FoundFile, reason: str) -> None:
        self.doubts.append(doubt(file, reason))

    def collect(self, collection: Collection) -> None:
        self._collections += 1
        projectors: list[FoundFile] = []
        models: list[tuple[FoundFile, Header, int]] = []
        for file, size_bytes in self._whole(collection.files):
            if file.header is not None and file.header.is_projector:
                projectors.append(file)
            elif (header := self._model_header(file)) is not None:
                models.append((file, header, size_bytes))
        files = [file for file, _, _ in models]
        pairing = Pairing(projectors, files, in_repo=collection.repo is not None)
        for file, header, size_bytes in models:
            identity = file.identity or file.path
            if identity in self._seen:
                continue
            self._seen.add(identity)
            mmproj = pairing.best(file, header) if kind_of(header) is Kind.CHAT else None
            self.candidates.append(
                Candidate(
                    file=file,
                    header=header,
                    collection=self._collections,
                    repo=collection.repo,
                    quant=file.tag or naming.quant_of(file.inside) or header.quant,
                    mmproj=mmproj.path if mmproj else None,
                    size_bytes=size_bytes,
                )
            )

    def _whole(self, files: Sequence[FoundFile]) -> Iterable[tuple[FoundFile, int]]:
        """Yield each file, the first one for a split model, with the size of it all.

        A repository may have a file in several snapshots: the first one that is whole counts.
        """
        parts: dict[tuple[str, str, int], dict[int, FoundFile]] = defaultdict(dict)
        for file in files:
            if part := naming.part_of(file.name):
                parts[_split_key(file, part)].setdefault(part.number, file)
        yielded: set[str] = set()
        incomplete: list[tuple[FoundFile, str, str]] = []
        for file in files:
            part = naming.part_of(file.name)
            if part is None:
                whole, size_bytes = file, file.size_bytes
            else:
                # Whichever is there first speaks for all of them.
                own = parts.pop(_split_key(file, part), {})
                if not own:
                    continue
                missing = part.count - len(own.keys() & set(range(1, part.count + 1)))
                if missing or not part.count:
                    share = f"{missing} of {part.count}"
                    incomplete.append((file, _inside_of_first(file, part), share))
                    continue
                whole, size_bytes = own[1], sum(one.size_bytes for one in own.values())
            if whole.inside not in yielded:
                yielded.add(whole.inside)
                yield whole, size_bytes
        for file, first, share in incomplete:
            if first not in yielded:
                self.doubt(file, f"parts of this split model are missing: {share}")

    def _model_header(self, file: FoundFile) -> Header | None:
        """Return the header of a file that is a model."""
        if not file.path.isprintable():
            self.doubt(file, "its name has characters that cannot be shown")
            return None
        if naming.is_side_file(file.name) or naming.is_projector(file.name):
            return None
        if file.fault is not None:
            self.doubt(file, file.fault)
        header = file.header
        if header is None or header.type in _SIDE_TYPES:
            return None
        if header.architecture in _FOREIGN:
            self.doubt(file, f"llama.cpp does not serve models of the kind {header.architecture}")
            return None
        # The first part of a split model may leave all tensors to the others.
        return header if header.tensor_count or naming.part_of(file.name) else None


def _split_key(file: FoundFile, part: naming.Part) -> tuple[str, str, int]:
    return (file.path[: -len(file.name)], part.stem, part.count)


def _inside_of_first(file: FoundFile, part: naming.Part) -> str:
    first = f"{part.stem}-00001-of-{part.count:05}{file.name[-len('.gguf') :]}"
    return f"{file.folder}/{first}" if file.folder else first
