"""An embedding model and a reranker of the architecture ``bert``."""

from __future__ import annotations

from pathlib import Path

from .gguf_file import GgufFile, new_gguf_file
from .random_weights import RandomWeights
from .transformer import Shape, VocabularyToken, write_encoder_layer, write_shape, write_vocabulary
from .words import SPACE, WORDS

_BERT_SHAPE = Shape(n_embd=64, n_layer=2, n_head=2, n_head_kv=2, n_ff=128)

_BERT_N_CTX = 512


def make_embedding_model(path: Path, *, name: str = "tiny-embedder", seed: int = 2) -> None:
    """Write an embedding model to *path*; llama-server needs ``--embeddings`` for it.

    Its vectors have 64 numbers: the mean over the tokens. The same arguments give
    the same bytes. An existing file is replaced atomically.

    Args:
        path: The GGUF file; its directory must exist.
        name: ``general.name`` in its header.
        seed: Seed of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with new_gguf_file(path, "bert", name) as gguf_file:
        _write_bert(gguf_file, RandomWeights(seed), gguf_file.gguf.PoolingType.MEAN)


def make_rerank_model(path: Path, *, name: str = "tiny-reranker", seed: int = 2) -> None:
    """Write a reranker to *path*; llama-server needs ``--reranking`` for it.

    The same arguments give the same bytes. An existing file is replaced atomically.

    Args:
        path: The GGUF file; its directory must exist.
        name: ``general.name`` in its header.
        seed: Seed of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with new_gguf_file(path, "bert", name) as gguf_file:
        random = RandomWeights(seed)
        _write_bert(gguf_file, random, gguf_file.gguf.PoolingType.RANK)
        width = _BERT_SHAPE.n_embd
        gguf_file.add("cls.weight", random(width, width, deviation=width**-0.5))
        gguf_file.fill("cls.bias", width, 0)
        gguf_file.add("cls.output.weight", random(1, width, deviation=width**-0.5))
        gguf_file.fill("cls.output.bias", 1, 0)


def _write_bert(gguf_file: GgufFile, random: RandomWeights, pooling_type: int) -> None:
    """Write the common part of an embedding model and a reranker."""
    writer, kinds, shape = gguf_file.writer, gguf_file.gguf.TokenType, _BERT_SHAPE
    width = shape.n_embd
    writer.add_context_length(_BERT_N_CTX)
    write_shape(gguf_file, shape)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling_type)

    tokens = [
        VocabularyToken(b"[PAD]", kinds.CONTROL),
        VocabularyToken(b"[UNK]", kinds.UNKNOWN),
        VocabularyToken(b"[CLS]", kinds.CONTROL),
        VocabularyToken(b"[SEP]", kinds.CONTROL),
        VocabularyToken(b"[MASK]", kinds.CONTROL),
    ]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    starts = [SPACE + text for text in (*WORDS, *characters)]
    pieces = dict.fromkeys([*starts, *characters])  # "a" is both a word and a character
    tokens += [VocabularyToken(text.encode(), kinds.NORMAL) for text in pieces]
    write_vocabulary(gguf_file, "bert", tokens, [-1000.0] * len(tokens))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(3)
    writer.add_sep_token_id(3)
    writer.add_mask_token_id(4)
    writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=True)

    gguf_file.add("token_embd.weight", random(len(tokens), width))
    gguf_file.add("token_types.weight", random(2, width, deviation=0.1))
    gguf_file.add("position_embd.weight", random(_BERT_N_CTX, width, deviation=0.1))
    gguf_file.fill("token_embd_norm.weight", width, 1)
    gguf_file.fill("token_embd_norm.bias", width, 0)
    for layer in range(shape.n_layer):
        write_encoder_layer(
            gguf_file,
            random,
            f"blk.{layer}.",
            shape,
            attention=("attn_q", "attn_k", "attn_v", "attn_output"),
            norms=("attn_output_norm", "layer_output_norm"),
        )
