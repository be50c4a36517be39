"""A chat model of the architecture ``llama``, in any size, that generates only common words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .gguf_file import GgufFile, new_gguf_file
from .random_weights import RandomWeights
from .transformer import Shape, VocabularyToken, write_shape, write_vocabulary
from .words import SPACE, WORDS

_IMPOSSIBLE = -60.0
"""Logit bias of tokens that are never generated: control tokens and raw bytes."""

_UNLIKELY = -12.0
"""Logit bias of tokens that only a grammar forces: characters and beginnings of words."""

_CONSTANT = 4.0
"""Value of dimension 0 of every embedding; no layer writes to that dimension."""

_CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>")

# ChatML with tool calls in the form of Hermes and Qwen, which llama.cpp recognizes.
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

CHAT_SHAPE = Shape(n_embd=64, n_layer=2, n_head=2, n_head_kv=1, n_ff=128)


def make_chat_model(
    path: Path,
    *,
    name: str,
    seed: int = 1,
    size_mb: float = 0,
    n_ctx: int = 2048,
    eos_bias: float = -60.0,
) -> None:
    """Write a chat model to *path*; an existing file is replaced atomically.

    The same arguments give the same bytes. Another *seed* gives other answers.

    Args:
        path: The GGUF file; its directory must exist.
        name: ``general.name`` in its header.
        seed: Seed of the random weights.
        size_mb: Approximate size in megabytes; 0 is the smallest, about 0.6 MB. A
            larger model needs its size in memory.
        n_ctx: Context length in the header, in tokens.
        eos_bias: Logit bias of the end of an answer. With the default the model
            never ends one, so that an answer has exactly ``max_tokens`` tokens.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    shape = CHAT_SHAPE if not size_mb else _big_chat_shape(size_mb)
    width, kv_width = shape.n_embd, shape.n_embd * shape.n_head_kv // shape.n_head
    with new_gguf_file(path, "llama", name, half_precision=bool(size_mb)) as gguf_file:
        tokens = _chat_vocabulary(gguf_file.gguf.TokenType, eos_bias)
        _write_chat_header(gguf_file, shape, tokens, n_ctx)
        random = RandomWeights(seed)

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
            attention[0] = 0  # do not write to the constant dimension
            gguf_file.add(f"{block}attn_output.weight", attention)
            gguf_file.fill(f"{block}ffn_norm.weight", width, 1)
            gguf_file.add(f"{block}ffn_gate.weight", random(shape.n_ff, width, deviation=scale))
            gguf_file.add(f"{block}ffn_up.weight", random(shape.n_ff, width, deviation=scale))
            down = random(width, shape.n_ff, deviation=(shape.n_ff * shape.n_layer) ** -0.5)
            down[0] = 0
            gguf_file.add(f"{block}ffn_down.weight", down)


def _big_chat_shape(size_mb: float) -> Shape:
    """Return the sizes of a model of about *size_mb* megabytes in half precision."""
    n_embd, n_head, n_head_kv, n_ff = 1024, 16, 4, 4096
    attention = 2 * n_embd * n_embd + 2 * n_embd * (n_embd * n_head_kv // n_head)
    bytes_per_layer = 2 * (attention + 3 * n_embd * n_ff)
    n_layer = max(1, round(size_mb * 1e6 / bytes_per_layer))
    return Shape(n_embd, n_layer, n_head, n_head_kv, n_ff)


def _chat_vocabulary(kinds: Any, eos_bias: float) -> list[VocabularyToken]:  # noqa: ANN401 -- gguf is untyped
    """Return a SentencePiece vocabulary: the bytes, the words, and their beginnings."""
    tokens = [
        VocabularyToken(b"<unk>", kinds.UNKNOWN, _IMPOSSIBLE),
        VocabularyToken(b"<s>", kinds.CONTROL, _IMPOSSIBLE),
        VocabularyToken(b"</s>", kinds.CONTROL, eos_bias),
    ]
    tokens += [VocabularyToken(b"<0x%02X>" % byte, kinds.BYTE, _IMPOSSIBLE) for byte in range(256)]
    for text in _CONTROL_TOKENS:
        bias = eos_bias if text == "<|im_end|>" else _IMPOSSIBLE
        tokens.append(VocabularyToken(text.encode(), kinds.CONTROL, bias))

    pieces = {SPACE + word: 0.0 for word in WORDS}
    fragments = [SPACE, *map(chr, range(33, 127))]
    # The tokenizer merges letter by letter, so it needs every beginning of a word.
    fragments += [SPACE + word[:length] for word in WORDS for length in range(1, len(word))]
    for fragment in fragments:
        pieces.setdefault(fragment, _UNLIKELY)
    tokens += [VocabularyToken(text.encode(), kinds.NORMAL, bias) for text, bias in pieces.items()]
    return tokens


def _write_chat_header(
    gguf_file: GgufFile, shape: Shape, tokens: Sequence[VocabularyToken], n_ctx: int
) -> None:
    writer = gguf_file.writer
    writer.add_context_length(n_ctx)
    write_shape(gguf_file, shape)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(10000.0)

    # SentencePiece merges the pair with the best score first: earlier is better.
    n_plain = 3 + 256 + len(_CONTROL_TOKENS)
    scores = [-float(max(0, index - n_plain)) for index in range(len(tokens))]
    write_vocabulary(gguf_file, "llama", tokens, scores)
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
