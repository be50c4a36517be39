"""Files that a scan found -> the models they are: kinds, projectors, names. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import attrs

from . import naming
from .header import POOLING_LAST, POOLING_NONE, POOLING_RANK, Header

# Architectures that only embed, whatever their header says about pooling.
# Source: llama.cpp, src/llama-arch.cpp.
_EMBEDDERS: Final = frozenset(
    (
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "t5encoder",
    )
)

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

#: What ``owner/repo`` without a quantization means, if it is there. Source: llama.cpp,
#: common/download.cpp.
DEFAULT_QUANTS: Final = ("Q4_K_M", "Q8_0")

#: The context of the default command, and the batch of llama-server, in tokens.
_MAX_BATCH: Final = 4096
_DEFAULT_BATCH: Final = 2048
_DEFAULT_UBATCH: Final = 512


class Kind(StrEnum):
    """What a model is asked for."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


@attrs.frozen(kw_only=True)
class FoundFile:
    """One GGUF file.

    Attributes:
        path: Absolute.
        inside: Where it is in its collection, with ``/`` between folders.
        size_bytes: Of the file.
        header: What it says; None if nobody looked, or see *fault*.
        fault: Why it cannot be a model.
        tag: The quantization by which it was fetched, where the cache knows.
        identity: The same for two names of one file.
    """

    path: str
    inside: str
    size_bytes: int = 0
    header: Header | None = None
    fault: str | None = None
    tag: str | None = None
    identity: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Return its name without folders."""
        return self.inside.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Return the folder in its collection; empty at the top."""
        return self.inside.rpartition("/")[0]


@attrs.frozen(kw_only=True)
class Collection:
    """Files that belong together.

    Attributes:
        files: In the order in which they are to be preferred.
        repo: ``owner/repo`` if they come from one repository of the hub.
    """

    files: tuple[FoundFile, ...]
    repo: str | None = None


@attrs.frozen
class Doubt:
    """Something that a person may want to know about a file, as a clause: "it ..."."""

    path: str
    reason: str


@attrs.frozen(kw_only=True)
class FoundModel:
    """A model, and what its backend needs.

    Attributes:
        id: Unique among the models found together.
        path: Its file, or the first of its parts.
        kind: What it is asked for.
        args: What llama-server needs for that.
        aliases: Further names, each unique as well.
        mmproj: Its projector.
        header: Of *path*.
        quant: Its quantization, if that is known.
        size_bytes: Of all its parts.
    """

    id: str
    path: str
    kind: Kind
    args: tuple[str, ...]
    header: Header
    aliases: tuple[str, ...] = ()
    mmproj: str | None = None
    quant: str | None = None
    size_bytes: int = 0


@attrs.frozen
class Discovery:
    """Everything that was found, in order, and what is to be said about it."""

    models: tuple[FoundModel, ...]
    doubts: tuple[Doubt, ...]


def kind_of(header: Header) -> Kind:
    """Return what a model with that *header* is asked for."""
    if header.pooling_type == POOLING_RANK:
        return Kind.RERANK
    if header.architecture in _EMBEDDERS:
        return Kind.EMBEDDING
    pools = header.pooling_type is not None and header.pooling_type != POOLING_NONE
    return Kind.EMBEDDING if pools else Kind.CHAT


def args_for(header: Header, *, has_mmproj: bool) -> tuple[str, ...]:
    """Return the arguments that llama-server needs to serve such a model as what it is."""
    kind = kind_of(header)
    if kind is Kind.CHAT:
        return ("--mmproj", "$mmproj") if has_mmproj else ()
    args = ["--embeddings" if kind is Kind.EMBEDDING else "--reranking"]
    # A text that is pooled as a whole must fit into one physical batch; only pooling by the
    # last token may split it. Source: llama.cpp, tools/server, can_split().
    batch = min(header.context_length or 0, _MAX_BATCH)
    if header.pooling_type != POOLING_LAST and batch > _DEFAULT_UBATCH:
        if batch > _DEFAULT_BATCH:
            args += ["--batch-size", str(batch)]
        args += ["--ubatch-size", str(batch)]
    return tuple(args)


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
    models = _name(finder, frozenset(taken), known or {})
    return Discovery(tuple(models), tuple(finder.doubts))


@attrs.frozen(kw_only=True)
class _Candidate:
    """A model without a name."""

    file: FoundFile
    header: Header
    collection: int
    repo: str | None
    quant: str | None
    mmproj: str | None
    size_bytes: int


class _Finder:
    def __init__(self, skip: Iterable[object]) -> None:
        self.candidates: list[_Candidate] = []
        self.doubts: list[Doubt] = []
        self._seen = set(skip)
        self._collections = 0

    def doubt(self, file: FoundFile, reason: str) -> None:
        # A name need not be text; what is said about it must be.
        path = file.path.encode("utf-8", "backslashreplace").decode()
        self.doubts.append(Doubt(path, reason))

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
        pairing = _Pairing(projectors, files, in_repo=collection.repo is not None)
        for file, header, size_bytes in models:
            identity = file.identity or file.path
            if identity in self._seen:
                continue
            self._seen.add(identity)
            mmproj = pairing.best(file, header) if kind_of(header) is Kind.CHAT else None
            self.candidates.append(
                _Candidate(
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
        incomplete: list[tuple[FoundFile, str, int]] = []
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
                    incomplete.append((file, _inside_of_first(file, part), missing))
                    continue
                whole, size_bytes = own[1], sum(one.size_bytes for one in own.values())
            if whole.inside not in yielded:
                yielded.add(whole.inside)
                yield whole, size_bytes
        for file, first, missing in incomplete:
            if first not in yielded:
                self.doubt(file, f"parts of this split model are missing: {missing}")

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


# --- Projectors ----------------------------------------------------------------------


class _Pairing:
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


# --- Names ---------------------------------------------------------------------------


def _name(finder: _Finder, taken: frozenset[str], known: Mapping[str, str]) -> Iterable[FoundModel]:
    """Give every candidate an id of its own, and the aliases that only it wants."""
    ids = _ids(finder, taken, known)
    named = [(ids[c.file.path], c) for c in finder.candidates if c.file.path in ids]
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


def _ids(finder: _Finder, taken: frozenset[str], known: Mapping[str, str]) -> dict[str, str]:
    """Return the id of every candidate by its path; those that are twice are left out."""
    labels = Counter((c.collection, c.quant) for c in finder.candidates)
    wishes: dict[str, list[_Candidate]] = defaultdict(list)
    for c in finder.candidates:
        wishes[_wish(c, unique=labels[c.collection, c.quant] == 1)].append(c)
    ids: dict[str, str] = {}
    used = set(taken)
    late: list[tuple[str, _Candidate]] = []
    for wish, candidates in wishes.items():
        first: _Candidate | None = candidates[0]
        others = candidates[1:]
        if candidates[0].repo is None and others:
            # Nobody comes first: the next scan may find them in another order.
            heirs = [c for c in candidates if known.get(c.file.path) == wish]
            first = heirs[0] if len(heirs) == 1 else None
            others = [c for c in candidates if c is not first]
        if first is not None and wish not in used:
            ids[first.file.path] = wish
            used.add(wish)
        elif first is not None:
            others = candidates
        for other in others:
            if other.repo is not None:
                finder.doubt(other.file, f"there is already a model {wish!r}; it is left out")
            else:
                late.append((wish, other))
    used |= wishes.keys()
    rivals = Counter(name for wish, c in late for name in _longer(wish, c.file.path))
    for wish, c in late:
        names = _longer(wish, c.file.path)
        free = (name for name in names if rivals[name] == 1 and name not in used)
        model = next(free, f"{wish} ({c.file.path})")
        ids[c.file.path] = model
        used.add(model)
        finder.doubt(c.file, f"another model is called {wish!r}; this one is called {model!r}")
    return ids


def _wish(c: _Candidate, *, unique: bool) -> str:
    """Return the id of a model that has its name for itself."""
    if c.repo is None:
        return naming.stem_of(c.file.name)
    label = c.quant if c.quant is not None and unique else naming.stem_of(c.file.inside)
    return f"{c.repo}:{label}"


def _longer(wish: str, path: str) -> list[str]:
    """Return *wish* with one folder of *path* in front, with two, and so on."""
    folders = [folder for folder in path.split("/")[:-1] if folder]
    return ["/".join((*folders[-depth:], wish)) for depth in range(1, len(folders) + 1)]


def _defaults(named: Iterable[tuple[str, _Candidate]]) -> dict[str, str]:
    """Return, for each repository, the id of the model that it means without a quantization."""
    best: dict[str, tuple[int, str]] = {}
    for model, c in named:
        if c.repo is None:
            continue
        rank = DEFAULT_QUANTS.index(c.quant) if c.quant in DEFAULT_QUANTS else len(DEFAULT_QUANTS)
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
