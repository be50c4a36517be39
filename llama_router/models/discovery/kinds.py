"""What a model is asked for, and the arguments with which llama-server answers. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

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

#: The context of the default command, and the batch of llama-server, in tokens.
_MAX_BATCH: Final = 4096
_DEFAULT_BATCH: Final = 2048
_DEFAULT_UBATCH: Final = 512


class Kind(StrEnum):
    """What a model is asked for."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    RERANK = "rerank"


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
