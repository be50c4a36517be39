"""The values of a discovery: headers, kinds, files, models and warnings. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

# Source: llama.h, enum llama_ftype; those that are in use.
_FILE_TYPES: Final = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}

#: ``<architecture>.pooling_type`` of a reranker. Source: llama.h, enum llama_pooling_type.
POOLING_RANK: Final = 4
POOLING_LAST: Final = 3
POOLING_NONE: Final = 0

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

# ``general.type`` of files that only accompany a model.
_SIDE_TYPES: Final = frozenset(("adapter", "dataset", "imatrix", "mmproj", "vocab"))

# Architectures of files that only accompany a model: projectors, control vectors, vocoders.
_SIDE_ARCHITECTURES: Final = frozenset(("clip", "controlvector", "wavtokenizer-dec"))

# Architectures of draft models: llama.cpp's (dflash, eagle3, gemma4-assistant), and those of its
# forks and of other converters (dflash-draft, dspark, gemma4_mtp ...).
_DRAFT_ARCHITECTURE: Final = re.compile(
    r"(?:.+[-_])?(?:assistant|dflash\d*|draft|drafter|dspark|eagle\d*|medusa|mtp)", re.IGNORECASE
)

#: Words of chat templates of models that think before they answer.
_THOUGHTS: Final = ("enable_thinking", "<think>", "reasoning_effort")

#: The context of the default command, and the batch of llama-server, in tokens.
_MAX_BATCH: Final = 4096
_DEFAULT_BATCH: Final = 2048
_DEFAULT_UBATCH: Final = 512


@attrs.frozen(kw_only=True)
class Header:
    """The fields of a GGUF header that decide how a file is served; None for a missing field.

    Attributes:
        architecture: llama.cpp's name of it; empty if a file that is no model has none.
        type: ``general.type``: model, mmproj, adapter, imatrix ...
        name: ``general.name``.
        file_type: ``general.file_type``, a number of llama.cpp's. It often follows the
            vocabulary; it is None then, unless the whole header was read.
        tensor_count: 0 in a file with a vocabulary only.
        context_length: Tokens that the model was trained for.
        embedding_length: Width of the model.
        block_count: Number of layers.
        head_count: Attention heads; the maximum over the layers.
        pooling_type: Pooling of an embedding model or a reranker.
        projection_dim: Width of a projector's output.
        chat_template: In Jinja. It follows the vocabulary, like *file_type*.
        is_decision_model: It answers questions with decisions, at ``/v1/systemone``.
        size_label: ``general.size_label``: the number of parameters, such as ``7B``.
        first_layer: The lowest number of a layer; 0 if the table of tensors was not read.
    """

    architecture: str
    type: str = "model"
    name: str | None = None
    file_type: int | None = None
    tensor_count: int = 1
    context_length: int | None = None
    embedding_length: int | None = None
    block_count: int | None = None
    head_count: int | None = None
    pooling_type: int | None = None
    projection_dim: int | None = None
    chat_template: str | None = None
    is_decision_model: bool = False
    size_label: str | None = None
    first_layer: int = 0

    @property
    def quant(self) -> str | None:
        """Return the name of the file type, which is a quantization."""
        return None if self.file_type is None else _FILE_TYPES.get(self.file_type)

    @property
    def takes_tools(self) -> bool:
        """Return whether the chat template passes tools on to the model."""
        return "tools" in (self.chat_template or "")

    @property
    def thinks(self) -> bool:
        """Return whether the chat template has a place for thoughts, or a switch for them."""
        template = self.chat_template or ""
        return any(word in template for word in _THOUGHTS)

    @property
    def is_projector(self) -> bool:
        """Return whether the file encodes images or audio for another model."""
        return self.type == "mmproj" or self.architecture == "clip"

    @property
    def is_side_file(self) -> bool:
        """Return whether the file only accompanies a model: a projector, a draft, an adapter ...

        Draft layers in a file of their own have the architecture of their model, and follow its
        layers.
        """
        return self.is_draft or self.type in _SIDE_TYPES or self.architecture in _SIDE_ARCHITECTURES

    @property
    def is_draft(self) -> bool:
        """Return whether the file is a draft, which guesses tokens for another model."""
        is_named = _DRAFT_ARCHITECTURE.fullmatch(self.architecture) is not None
        return is_named or self.first_layer > 0

    def fault(self, *, is_part: bool) -> str | None:
        """Return why no model can be served from the file alone, if it looks like one.

        Args:
            is_part: The file is a part of a split model; the first one may have no tensors.
        """
        if self.type == "vocab" or (self.type == "model" and not (self.tensor_count or is_part)):
            return "it has a vocabulary and no tensors, so no model can be loaded from it"
        if self.is_draft:
            return (
                "it is a draft for another model and cannot be served by itself: llama-server "
                "takes it beside that model, by --model-draft"
            )
        return None


class ModelKind(StrEnum):
    """The task of a model."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


def kind_of(header: Header) -> ModelKind:
    """Return the task of a model with that *header*."""
    if header.pooling_type == POOLING_RANK:
        return ModelKind.RERANK
    if header.architecture in _EMBEDDERS:
        return ModelKind.EMBEDDING
    pools = header.pooling_type is not None and header.pooling_type != POOLING_NONE
    return ModelKind.EMBEDDING if pools else ModelKind.CHAT


def args_for(header: Header, *, has_mmproj: bool) -> tuple[str, ...]:
    """Return the arguments that llama-server needs to serve such a model for its task."""
    kind = kind_of(header)
    if kind is ModelKind.CHAT:
        return ("--mmproj", "$mmproj") if has_mmproj else ()
    args = ["--embeddings" if kind is ModelKind.EMBEDDING else "--reranking"]
    # A text that is pooled as a whole must fit into one physical batch; only pooling by the
    # last token may split it. Source: llama.cpp, tools/server, can_split().
    batch = min(header.context_length or 0, _MAX_BATCH)
    if header.pooling_type != POOLING_LAST and batch > _DEFAULT_UBATCH:
        if batch > _DEFAULT_BATCH:
            args += ["--batch-size", str(batch)]
        args += ["--ubatch-size", str(batch)]
    return tuple(args)


class ModelFormat(StrEnum):
    """The format of a model on the disk."""

    GGUF = "gguf"
    LLAMAFILE = "llamafile"
    SAFETENSORS = "safetensors"


@attrs.frozen(kw_only=True)
class StoreEntry:
    """What is known of a model beside its file: from another program's store, or its format.

    Its names count, not those of its file.

    Attributes:
        name: Its name there.
        aliases: Further names.
        mmproj: Its projector; None if it is found as in a folder, or there is none.
        args: Arguments for llama-server.
        default_params: Parameters for requests without them.
        versions: Of all its files but the first.
        is_plain: It is its file and nothing else.
        format: Its format, if it is not GGUF.
        command: The command that serves it; empty for that of the configuration.
    """

    name: str
    aliases: tuple[str, ...] = ()
    mmproj: str | None = None
    args: tuple[str, ...] = ()
    default_params: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    versions: tuple[str, ...] = ()
    is_plain: bool = True
    format: ModelFormat = ModelFormat.GGUF
    command: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class FoundFile:
    """One GGUF file.

    Attributes:
        path: Absolute.
        relative_path: Its path in its collection, with ``/`` between folders.
        size_bytes: Of the file.
        header: Its header; None if it was not read, or could not be, see *fault*.
        fault: The reason why it cannot be a model.
        tag: The quantization by which it was fetched, if the cache has it.
        identity: The same for two names of one file.
        version: The same as long as the content is, see `file_version`.
        entry: What the store says that it is in; None for any other file.
    """

    path: str
    relative_path: str
    size_bytes: int = 0
    header: Header | None = None
    fault: str | None = None
    tag: str | None = None
    identity: tuple[int, int] | None = None
    version: str | None = None
    entry: StoreEntry | None = None

    @property
    def name(self) -> str:
        """Return its name without folders."""
        return self.relative_path.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Return the folder in its collection; empty at the top."""
        return self.relative_path.rpartition("/")[0]


@attrs.frozen(kw_only=True)
class Collection:
    """Files that belong together.

    Attributes:
        files: Preferred files first.
        repo: ``owner/repo`` if they come from one repository of the hub.
    """

    files: tuple[FoundFile, ...]
    repo: str | None = None


@attrs.frozen
class ScanWarning:
    """A problem with a file that does not end a scan.

    Attributes:
        path: The file.
        reason: A clause about it: "it ...".
    """

    path: str
    reason: str

    @classmethod
    def about(cls, path: object, reason: str) -> ScanWarning:
        """Return a warning about *path*; bytes that are no text are escaped."""
        return cls(str(path).encode("utf-8", "backslashreplace").decode(), reason)


@attrs.frozen(kw_only=True)
class FoundModel:
    """A model, and the files and arguments that its backend needs.

    Attributes:
        id: Unique among the models found together.
        path: Its file, or the first of its parts.
        kind: Its task.
        args: Arguments that llama-server needs for that task.
        aliases: Further names, each unique as well.
        mmproj: Its projector.
        header: Of *path*.
        quant: Its quantization, if that is known.
        size_bytes: Of all its parts.
        versions: Of all its parts, and of its projector.
        default_params: Parameters for requests without them.
        format: Its format.
        command: The command that serves it; empty for that of the configuration.
    """

    id: str
    path: str
    kind: ModelKind
    args: tuple[str, ...]
    header: Header
    aliases: tuple[str, ...] = ()
    mmproj: str | None = None
    quant: str | None = None
    size_bytes: int = 0
    versions: tuple[str, ...] = ()
    default_params: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    format: ModelFormat = ModelFormat.GGUF
    command: tuple[str, ...] = ()


@attrs.frozen
class Discovery:
    """All models that were found, in order, and warnings about files."""

    models: tuple[FoundModel, ...]
    warnings: tuple[ScanWarning, ...]
