"""The compute buffer of llama.cpp: what a batch needs beside weights and KV cache. Pure.

llama.cpp plans it exactly, tensor by tensor. The formulas here follow its two extremes: the widest
layer, and the output. They were found by measuring; `docs/explanation/memory.md` has the figures.
"""

from __future__ import annotations

from typing import Final

import attrs

from .flags import ServerFlags
from .kv_cache import KvCache
from .layers import Layer, keeps_nothing, layer_count
from .tensor_types import F16, F32
from .weights import ModelWeights

#: Tensors as wide as the model that a layer has at the same time: the input, the residual, its
#: normalised copy, the result, and a gap that the allocator leaves.
_STREAMS: Final = 5

#: The same at the output.
_OUTPUT_STREAMS: Final = 6

#: Matrices with which a feed-forward layer has three wide results at once, not one.
_GATES: Final = ("ffn_gate.weight", "ffn_gate_exps.weight", "ffn_gate_up_exps.weight")
_EXPERTS: Final = ("ffn_up_exps.weight", "ffn_gate_up_exps.weight", "ffn_up.0.weight")


@attrs.frozen(kw_only=True)
class ComputeBuffer:
    """What a batch needs.

    Attributes:
        buffer_bytes: On each device that computes layers.
        input_bytes: The part of it that is in host memory as well, if a GPU computes.
        output_bytes: Of the results that the server keeps, in host memory.
    """

    buffer_bytes: int
    input_bytes: int
    output_bytes: int


def compute_buffer(
    weights: ModelWeights, layers: tuple[Layer, ...], flags: ServerFlags, cache: KvCache
) -> ComputeBuffer:
    """Return what a batch of a model needs.

    Args:
        weights: The model.
        layers: What its layers keep.
        flags: The options of the server.
        cache: Its KV cache.
    """
    width = weights.number("embedding_length")
    row_bytes = F32.size_bytes(width) * cache.batch
    masks_bytes = _masks_bytes(weights, layers, flags, cache)
    count = layer_count(weights)
    widest_bytes = max(
        (
            _wide_bytes(weights, layer, flags, cache, is_last=layer == count - 1)
            for layer in range(count)
        ),
        default=0,
    )
    results = cache.batch if flags.embeddings else min(cache.batch, flags.slots)
    logits = 0 if keeps_nothing(weights) else results * weights.vocabulary
    in_layer_bytes = _STREAMS * row_bytes + widest_bytes
    at_output_bytes = _OUTPUT_STREAMS * row_bytes + F32.size_bytes(logits)
    buffer_bytes = masks_bytes + max(in_layer_bytes, at_output_bytes)
    if flags.mtp and weights.number("nextn_predict_layers"):
        buffer_bytes += masks_bytes + _STREAMS * row_bytes  # the draft layers have their own
    return ComputeBuffer(
        buffer_bytes=buffer_bytes,
        input_bytes=masks_bytes + row_bytes,
        output_bytes=F32.size_bytes(flags.slots * (weights.vocabulary + width)),
    )


def _masks_bytes(
    weights: ModelWeights, layers: tuple[Layer, ...], flags: ServerFlags, cache: KvCache
) -> int:
    """Return the size of the masks, which say for each token which others it sees."""
    each = F16 if flags.flash_attention else F32
    if keeps_nothing(weights):
        return each.size_bytes(cache.batch**2)
    if not any(layer.keys for layer in layers):
        return 0
    return each.size_bytes(cache.batch * (cache.cells + cache.window_cells))


def _wide_bytes(
    weights: ModelWeights, layer: int, flags: ServerFlags, cache: KvCache, *, is_last: bool
) -> int:
    """Return the size of the widest results in a layer that exist at the same time."""
    attention = _attention(weights, layer)
    if not flags.flash_attention:
        seen = cache.batch if keeps_nothing(weights) else cache.cells
        attention = attention // 2 + seen * weights.number_of(layer, "attention.head_count")
    # Behind the attention of the last layer, only tokens with a result are left.
    few = is_last and not flags.embeddings
    numbers = max(0 if few else _feed_forward(weights, layer), attention)
    recurrent_bytes = _recurrent_bytes(weights, layer, flags, cache)
    return max(F32.size_bytes(cache.batch * numbers), recurrent_bytes)


def _feed_forward(weights: ModelWeights, layer: int) -> int:
    """Return the numbers for each token in the feed-forward part of a layer."""
    results = 3 if _is_gated(weights, layer) else 1
    dense = 0
    if weights.has(layer, "ffn_up.weight", "ffn_gate.weight"):
        dense = results * weights.number_of(layer, "feed_forward_length")
    if not weights.has(layer, *_EXPERTS):
        return dense
    width = weights.number("embedding_length")
    used = weights.number("expert_used_count")
    hidden = (
        results
        * used
        * weights.number_of(
            layer, "expert_feed_forward_length", weights.number_of(layer, "feed_forward_length")
        )
    )
    # The results of all experts, until they are added up.
    return max(dense, hidden, used * width + min((used + 1) * width, hidden))


def _is_gated(weights: ModelWeights, layer: int) -> bool:
    """Return whether the hidden values are multiplied by others, which are there as well."""
    if weights.has(layer, *_GATES):
        return True
    # Phi 3 and others have both in one matrix.
    hidden = weights.number_of(layer, "feed_forward_length")
    separate = weights.number("embedding_length") * hidden
    return hidden > 0 and weights.numbers_in(layer, "ffn_up.weight") == 2 * separate


def _attention(weights: ModelWeights, layer: int) -> int:
    """Return the numbers for each token in the attention of a layer."""
    heads = weights.number_of(layer, "attention.head_count")
    usual = weights.number("embedding_length") // max(1, heads)
    keys = weights.number("attention.key_length", usual)
    if own := weights.number("attention.key_length_mla"):
        return heads * (2 * keys + own)
    return 2 * keys * (heads + weights.number_of(layer, "attention.head_count_kv", heads))


def _recurrent_bytes(weights: ModelWeights, layer: int, flags: ServerFlags, cache: KvCache) -> int:
    """Return the size of the results in a recurrent layer, with a copy of its state."""
    inner = weights.number("ssm.inner_size")
    state = weights.number("ssm.state_size")
    convolved = inner + 2 * weights.number("ssm.group_count") * state
    # A mamba has its gate beside its input; others compute it later.
    gates = 2 if weights.has(layer, "ssm_in.weight") else 1
    numbers = cache.batch * (3 * convolved + gates * inner)
    return F32.size_bytes(numbers + flags.slots * state * inner)
