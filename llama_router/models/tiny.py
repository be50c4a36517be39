"""Tiny deterministic GGUF models with random weights: for tests, benchmarks and a first try.

llama.cpp loads them like any other model and answers within milliseconds. The
chat model knows about 200 common words and says nothing but these, because a
constant dimension of its residual stream lets the output layer work as a
per-token bias: control tokens, raw bytes and fragments of words are pushed down.

Needs the ``gguf`` package and numpy (the extra ``embedded``); both are imported
when a model is made, not with this module.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.float32]

_WORD_LIST = """
    the a and of to in is it you that he was for on are with as his they be at one have this
    from or had by hot but some what there we can out other were all your when up use word how
    said an each she which do their time if will way about many then them would write like so
    these her long make thing see him two has look more day could go come did my sound no most
    number who over know water than call first people may down side been now find any new work
    part take get place made live where after back little only round man year came show every
    good me give our under router model llama token server stream
"""
WORDS = tuple(_WORD_LIST.split())

_IMPOSSIBLE = -60.0
"""Logit bias of what must never be said: control tokens and raw bytes."""
_UNLIKELY = -12.0
"""Logit bias of what only a grammar may force: single characters and beginnings of words."""
_CONSTANT = 4.0
"""Value of dimension 0 of every embedding; no layer writes to that dimension."""

_SPACE = "\u2581"  # SentencePiece's visible space: it starts every word
_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>")

# ChatML with the tool calls of Hermes and Qwen, which llama.cpp recognises.
_CHAT_TEMPLATE = r"""{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n\nYou may call functions:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nReturn each call as json within <tool_call></tool_call> tags:\n' }}
    {{- '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n' }}
    {{- '</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + m.content }}
        {{- '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\n' }}
        {%- if m.content is string %}
            {{- m.content }}
        {%- elif m.content %}
            {%- for p in m.content %}
                {%- if p.type == 'text' %}{{- p.text }}{%- endif %}
            {%- endfor %}
        {%- endif %}
        {%- for call in m.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""


def make_chat_model(
    path: Path,
    *,
    name: str,
    seed: int = 1,
    size_mb: float = 0,
    n_ctx: int = 2048,
    eos_bias: float = -60.0,
) -> None:
    """Write a chat model to *path*; a file that is there is replaced in one step.

    The same arguments give the same bytes. Another *seed* gives other answers.

    Args:
        path: The GGUF file; its directory must exist.
        name: The model's own name, ``general.name`` in its header.
        seed: Of the random weights.
        size_mb: Approximate size in megabytes; 0 is the smallest, about 0.6 MB. A
            larger one is made in memory.
        n_ctx: Context length that the header promises, in tokens.
        eos_bias: How eager the model is to end its answer. With the default it
            never does, so that an answer has exactly ``max_tokens`` tokens.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    shape = _CHAT_SHAPE if not size_mb else _big_chat_shape(size_mb)
    width, kv_width = shape.n_embd, shape.n_embd * shape.n_head_kv // shape.n_head
    with _gguf_file(path, "llama", name, half_precision=bool(size_mb)) as gguf_file:
        tokens = _chat_vocabulary(gguf_file.gguf.TokenType, eos_bias)
        _write_chat_header(gguf_file, shape, tokens, n_ctx)
        random = _Random(seed)

        embeddings = random(len(tokens), width)
        embeddings[:, 0] = _CONSTANT
        # Dimension 0 as the output layer sees it: after the last RMS normalisation.
        normalised = _CONSTANT / ((_CONSTANT**2 + width - 1) / width) ** 0.5
        output = random(len(tokens), width, deviation=2 / width**0.5)
        output[:, 0] = [token.bias / normalised for token in tokens]
        gguf_file.add("token_embd.weight", embeddings)
        gguf_file.fill("output_norm.weight", width, 1)
        gguf_file.add("output.weight", output)

        scale = width**-0.5
        for layer in range(shape.n_layer):
            block = f"blk.{layer}."
            gguf_file.fill(f"{block}attn_norm.weight", width, 1)
            gguf_file.add(f"{block}attn_q.weight", random(width, width, deviation=scale))
            gguf_file.add(f"{block}attn_k.weight", random(kv_width, width, deviation=scale))
            gguf_file.add(f"{block}attn_v.weight", random(kv_width, width, deviation=scale))
            attention = random(width, width, deviation=scale / shape.n_layer**0.5)
            attention[0] = 0  # leave the constant dimension alone
            gguf_file.add(f"{block}attn_output.weight", attention)
            gguf_file.fill(f"{block}ffn_norm.weight", width, 1)
            gguf_file.add(f"{block}ffn_gate.weight", random(shape.n_ff, width, deviation=scale))
            gguf_file.add(f"{block}ffn_up.weight", random(shape.n_ff, width, deviation=scale))
            down = random(width, shape.n_ff, deviation=(shape.n_ff * shape.n_layer) ** -0.5)
            down[0] = 0
            gguf_file.add(f"{block}ffn_down.weight", down)


def make_embedding_model(path: Path, *, name: str = "tiny-embedder", seed: int = 2) -> None:
    """Write an embedding model to *path*; llama-server needs ``--embeddings`` for it.

    Its vectors have 64 numbers: the mean over the tokens. The same arguments give
    the same bytes, and a file that is there is replaced in one step.

    Args:
        path: The GGUF file; its directory must exist.
        name: The model's own name, ``general.name`` in its header.
        seed: Of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with _gguf_file(path, "bert", name) as gguf_file:
        _write_bert(gguf_file, _Random(seed), gguf_file.gguf.PoolingType.MEAN)


def make_rerank_model(path: Path, *, name: str = "tiny-reranker", seed: int = 2) -> None:
    """Write a reranker to *path*; llama-server needs ``--reranking`` for it.

    The same arguments give the same bytes, and a file that is there is replaced
    in one step.

    Args:
        path: The GGUF file; its directory must exist.
        name: The model's own name, ``general.name`` in its header.
        seed: Of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with _gguf_file(path, "bert", name) as gguf_file:
        random = _Random(seed)
        _write_bert(gguf_file, random, gguf_file.gguf.PoolingType.RANK)
        width = _BERT_SHAPE.n_embd
        gguf_file.add("cls.weight", random(width, width, deviation=width**-0.5))
        gguf_file.fill("cls.bias", width, 0)
        gguf_file.add("cls.output.weight", random(1, width, deviation=width**-0.5))
        gguf_file.fill("cls.output.bias", 1, 0)


def make_projector(path: Path, *, name: str = "tiny-projector", seed: int = 3) -> None:
    """Write a projector to *path*, with which the smallest chat model sees pictures.

    It turns each picture into four tokens. llama-server wants ``--mmproj`` for it. The same
    arguments give the same bytes, and a file that is there is replaced in one step.

    Args:
        path: The GGUF file; its directory must exist.
        name: The projector's own name, ``general.name`` in its header.
        seed: Of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with _gguf_file(path, "clip", name, type_="MMPROJ") as gguf_file:
        writer, random, shape = gguf_file.writer, _Random(seed), _EYE_SHAPE
        width, patches = shape.n_embd, _PICTURE_PIXELS // _PATCH_PIXELS
        writer.add_clip_has_vision_encoder(value=True)
        writer.add_clip_projector_type("gemma3")
        writer.add_vision_projection_dim(_CHAT_SHAPE.n_embd)
        writer.add_vision_image_size(_PICTURE_PIXELS)
        writer.add_vision_patch_size(_PATCH_PIXELS)
        writer.add_vision_embedding_length(width)
        writer.add_vision_feed_forward_length(shape.n_ff)
        writer.add_vision_block_count(shape.n_layer)
        writer.add_vision_head_count(shape.n_head)
        writer.add_vision_attention_layernorm_eps(1e-6)
        writer.add_vision_image_mean([0.5, 0.5, 0.5])
        writer.add_vision_image_std([0.5, 0.5, 0.5])
        writer.add_vision_use_gelu(value=True)
        writer.add_vision_projector_scale_factor(patches // 2)

        patch = random(width, 3 * _PATCH_PIXELS**2, deviation=0.05)
        patch = patch.reshape(width, 3, _PATCH_PIXELS, _PATCH_PIXELS)
        gguf_file.add("v.patch_embd.weight", patch)
        gguf_file.fill("v.patch_embd.bias", width, 0)
        gguf_file.add("v.position_embd.weight", random(patches**2, width, deviation=0.1))
        gguf_file.fill("v.post_ln.weight", width, 1)
        gguf_file.fill("v.post_ln.bias", width, 0)
        for layer in range(shape.n_layer):
            _write_encoder_layer(
                gguf_file,
                random,
                f"v.blk.{layer}.",
                shape,
                attention=("attn_q", "attn_k", "attn_v", "attn_out"),
                norms=("ln1", "ln2"),
            )
        gguf_file.fill("mm.soft_emb_norm.weight", width, 1)
        weights = random(width, _CHAT_SHAPE.n_embd, deviation=width**-0.5)
        gguf_file.add("mm.input_projection.weight", weights)


class _Shape(NamedTuple):
    """The sizes of a transformer, in llama.cpp's words."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int


_CHAT_SHAPE = _Shape(n_embd=64, n_layer=2, n_head=2, n_head_kv=1, n_ff=128)
_BERT_SHAPE = _Shape(n_embd=64, n_layer=2, n_head=2, n_head_kv=2, n_ff=128)
_BERT_N_CTX = 512
_EYE_SHAPE = _Shape(n_embd=32, n_layer=1, n_head=2, n_head_kv=2, n_ff=64)
_PICTURE_PIXELS = 32
_PATCH_PIXELS = 8


def _big_chat_shape(size_mb: float) -> _Shape:
    """Return a shape whose half-precision weights take about *size_mb* megabytes."""
    n_embd, n_head, n_head_kv, n_ff = 1024, 16, 4, 4096
    attention = 2 * n_embd * n_embd + 2 * n_embd * (n_embd * n_head_kv // n_head)
    bytes_per_layer = 2 * (attention + 3 * n_embd * n_ff)
    n_layer = max(1, round(size_mb * 1e6 / bytes_per_layer))
    return _Shape(n_embd, n_layer, n_head, n_head_kv, n_ff)


class _Token(NamedTuple):
    """One entry of a vocabulary; *bias* is added to its logit."""

    text: bytes
    kind: int
    bias: float = 0.0


def _chat_vocabulary(kinds: Any, eos_bias: float) -> list[_Token]:  # noqa: ANN401 -- gguf is untyped
    """Return a SentencePiece vocabulary: the bytes, the words, and their beginnings."""
    tokens = [
        _Token(b"<unk>", kinds.UNKNOWN, _IMPOSSIBLE),
        _Token(b"<s>", kinds.CONTROL, _IMPOSSIBLE),
        _Token(b"</s>", kinds.CONTROL, eos_bias),
    ]
    tokens += [_Token(b"<0x%02X>" % byte, kinds.BYTE, _IMPOSSIBLE) for byte in range(256)]
    for text in _CONTROL_TOKENS:
        bias = eos_bias if text == "<|im_end|>" else _IMPOSSIBLE
        tokens.append(_Token(text.encode(), kinds.CONTROL, bias))

    pieces = {_SPACE + word: 0.0 for word in WORDS}
    fragments = [_SPACE, *map(chr, range(33, 127))]
    # Merging goes letter by letter: without its beginnings no word would be found.
    fragments += [_SPACE + word[:length] for word in WORDS for length in range(1, len(word))]
    for fragment in fragments:
        pieces.setdefault(fragment, _UNLIKELY)
    tokens += [_Token(text.encode(), kinds.NORMAL, bias) for text, bias in pieces.items()]
    return tokens


def _write_chat_header(
    gguf_file: _GgufFile, shape: _Shape, tokens: Sequence[_Token], n_ctx: int
) -> None:
    writer = gguf_file.writer
    writer.add_context_length(n_ctx)
    _write_shape(gguf_file, shape)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(10000.0)

    # SentencePiece merges the pair with the best score first: earlier is better.
    n_plain = 3 + 256 + len(_CONTROL_TOKENS)
    scores = [-float(max(0, index - n_plain)) for index in range(len(tokens))]
    _write_vocabulary(gguf_file, "llama", tokens, scores)
    writer.add_tokenizer_pre("default")
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id([token.text for token in tokens].index(b"<|im_end|>"))
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=False)
    # A prefix would make llama.cpp refuse every grammar and JSON schema (400).
    writer.add_add_space_prefix(value=False)
    writer.add_chat_template(_CHAT_TEMPLATE)


def _write_bert(gguf_file: _GgufFile, random: _Random, pooling_type: int) -> None:
    """Write what an embedding model and a reranker have in common."""
    writer, kinds, shape = gguf_file.writer, gguf_file.gguf.TokenType, _BERT_SHAPE
    width = shape.n_embd
    writer.add_context_length(_BERT_N_CTX)
    _write_shape(gguf_file, shape)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(pooling_type)

    tokens = [
        _Token(b"[PAD]", kinds.CONTROL),
        _Token(b"[UNK]", kinds.UNKNOWN),
        _Token(b"[CLS]", kinds.CONTROL),
        _Token(b"[SEP]", kinds.CONTROL),
        _Token(b"[MASK]", kinds.CONTROL),
    ]
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    starts = [_SPACE + text for text in (*WORDS, *characters)]
    pieces = dict.fromkeys([*starts, *characters])  # "a" is both a word and a character
    tokens += [_Token(text.encode(), kinds.NORMAL) for text in pieces]
    _write_vocabulary(gguf_file, "bert", tokens, [-1000.0] * len(tokens))
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
        _write_encoder_layer(
            gguf_file,
            random,
            f"blk.{layer}.",
            shape,
            attention=("attn_q", "attn_k", "attn_v", "attn_output"),
            norms=("attn_output_norm", "layer_output_norm"),
        )


def _write_encoder_layer(
    gguf_file: _GgufFile,
    random: _Random,
    block: str,
    shape: _Shape,
    *,
    attention: Sequence[str],
    norms: Sequence[str],
) -> None:
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


def _write_shape(gguf_file: _GgufFile, shape: _Shape) -> None:
    gguf_file.writer.add_embedding_length(shape.n_embd)
    gguf_file.writer.add_block_count(shape.n_layer)
    gguf_file.writer.add_feed_forward_length(shape.n_ff)
    gguf_file.writer.add_head_count(shape.n_head)


def _write_vocabulary(
    gguf_file: _GgufFile, kind: str, tokens: Sequence[_Token], scores: Sequence[float]
) -> None:
    gguf_file.writer.add_vocab_size(len(tokens))
    gguf_file.writer.add_tokenizer_model(kind)
    gguf_file.writer.add_token_list([token.text for token in tokens])
    gguf_file.writer.add_token_scores(scores)
    gguf_file.writer.add_token_types([token.kind for token in tokens])


class _Random:
    """Normally distributed numbers from a seed, fast: one block, read from random places."""

    _BLOCK = 1 << 20

    def __init__(self, seed: int) -> None:
        self._np = _optional("numpy")
        self._generator = self._np.random.Generator(self._np.random.PCG64(seed))
        self._block = self._generator.standard_normal(self._BLOCK).astype(self._np.float32)

    def __call__(self, rows: int, columns: int, *, deviation: float = 1.0) -> Weights:
        count = rows * columns
        start = int(self._generator.integers(self._BLOCK))
        repeated = self._np.tile(self._block, (start + count) // self._BLOCK + 1)
        weights: Weights = repeated[start : start + count] * self._np.float32(deviation)
        return weights.reshape(rows, columns)


class _GgufFile:
    """A GGUF file in the making: gguf's writer, and how tensors are stored."""

    def __init__(self, path: Path, architecture: str, *, half_precision: bool) -> None:
        self.gguf = _optional("gguf")
        self._np = _optional("numpy")
        self._matrix_type = self._np.float16 if half_precision else self._np.float32
        self.writer = self.gguf.GGUFWriter(path, architecture)

    def add(self, name: str, weights: Weights) -> None:
        """Store a matrix."""
        self.writer.add_tensor(name, weights.astype(self._matrix_type))

    def fill(self, name: str, length: int, value: float) -> None:
        """Store a vector of equal numbers; llama.cpp wants vectors in full precision."""
        self.writer.add_tensor(name, self._np.full(length, value, self._np.float32))


@contextmanager
def _gguf_file(
    path: Path,
    architecture: str,
    name: str,
    *,
    half_precision: bool = False,
    type_: str = "MODEL",
) -> Iterator[_GgufFile]:
    """Yield a file to fill; it appears at *path* complete, or not at all."""
    # The pid keeps two runs apart that make the same model at the same time.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    gguf_file = _GgufFile(unfinished, architecture, half_precision=half_precision)
    file_types, writer = gguf_file.gguf.LlamaFileType, gguf_file.writer
    writer.add_type(getattr(gguf_file.gguf.GGUFType, type_))
    writer.add_name(name)
    writer.add_file_type(file_types.MOSTLY_F16 if half_precision else file_types.ALL_F32)
    yield gguf_file
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        unfinished.replace(path)
    except BaseException:
        writer.close()
        unfinished.unlink(missing_ok=True)
        raise


def _optional(module: str) -> Any:  # noqa: ANN401 -- gguf is untyped
    """Import a module of the extra ``embedded``."""
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImportError(
            f"making a model needs the Python package {module!r}; "
            "install llama-router[embedded] to get it"
        ) from exc
