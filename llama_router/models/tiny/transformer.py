"""Parts that all models share: sizes, vocabulary, layers of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .gguf_file import GgufFile
from .random_weights import RandomWeights


class Shape(NamedTuple):
    """The sizes of a transformer, under llama.cpp's names."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int


class VocabularyToken(NamedTuple):
    """One entry of a vocabulary; *bias* is added to its logit."""

    text: bytes
    kind: int
    bias: float = 0.0


def write_shape(gguf_file: GgufFile, shape: Shape) -> None:
    """Write the sizes into the header."""
    gguf_file.writer.add_embedding_length(shape.n_embd)
    gguf_file.writer.add_block_count(shape.n_layer)
    gguf_file.writer.add_feed_forward_length(shape.n_ff)
    gguf_file.writer.add_head_count(shape.n_head)


def write_vocabulary(
    gguf_file: GgufFile, kind: str, tokens: Sequence[VocabularyToken], scores: Sequence[float]
) -> None:
    """Write the tokens into the header, for a tokenizer of that *kind*."""
    gguf_file.writer.add_vocab_size(len(tokens))
    gguf_file.writer.add_tokenizer_model(kind)
    gguf_file.writer.add_token_list([token.text for token in tokens])
    gguf_file.writer.add_token_scores(scores)
    gguf_file.writer.add_token_types([token.kind for token in tokens])


def write_encoder_layer(
    gguf_file: GgufFile,
    random: RandomWeights,
    block: str,
    shape: Shape,
    *,
    attention: Sequence[str],
    norms: Sequence[str],
) -> None:
    """Write one layer with random matrices; biases are 0, weights of norms are 1."""
    width = shape.n_embd
    matrices = dict.fromkeys(attention, (width, width))
    matrices |= {"ffn_up": (shape.n_ff, width), "ffn_down": (width, shape.n_ff)}
    for matrix, (rows, columns) in matrices.items():
        weights = random(rows, columns, deviation=columns**-0.5)
        gguf_file.add(f"{block}{matrix}.weight", weights)
        gguf_file.fill(f"{block}{matrix}.bias", rows, 0)
    for norm in norms:
        gguf_file.fill(f"{block}{norm}.weight", width, 1)
        gguf_file.fill(f"{block}{norm}.bias", width, 0)
