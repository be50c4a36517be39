"""The layers of a model: keys, values and states that each keeps for the tokens of a context. Pure.

Source: llama.cpp, src/llama-model.cpp (``create_memory``), src/llama-hparams.cpp and src/models/.
"""

from __future__ import annotations

from typing import Final

import attrs

from .weights import MAX_LAYERS, ModelWeights

# Encoders see all tokens at once, and keep none of them.
_WITHOUT_CACHE: Final = frozenset(
    (
        "bert",
        "dream",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "llada",
        "llada-moe",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "rnd1",
        "t5encoder",
        "wavtokenizer-dec",
    )
)

# Architectures with sliding windows whose header does not say in which layers: of how many layers
# one sees everything, and whether that is the first of them.
_PERIODS: Final = {
    "afmoe": (4, False),
    "cohere2": (4, False),
    "cohere2moe": (4, True),
    "exaone-moe": (4, False),
    "exaone4": (4, False),
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "gpt-oss": (2, False),
    "llama4": (4, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}

# Windows that llama.cpp itself knows, in tokens, if the header has none.
_WINDOWS: Final = {"gemma2": 4096, "llama4": 8192}

#: Layers with keys and values of their own in a gemma3n; the others share theirs.
_GEMMA3N_OWN_LAYERS: Final = 20

#: Layers between two that see everything, in hybrid models whose header does not say.
_FULL_ATTENTION_INTERVAL: Final = 4

_PER_HEAD: Final = ("attn_k.weight", "attn_kv_a_mqa.weight", "attn_k_b.weight", "attn_kv_b.weight")
_COMBINED: Final = ("attn_qkv.weight",)
_RECURRENT: Final = (
    *("ssm_in.weight", "ssm_conv1d.weight", "ssm_conv1d_q.weight", "ssm_out.weight"),
    *("shortconv.conv.weight", "time_mix_key.weight", "time_mix_receptance.weight"),
)
# In these, every layer both attends and keeps a state.
_BOTH: Final = frozenset(("falcon-h1",))


@attrs.frozen(kw_only=True)
class Layer:
    """What one layer keeps.

    Attributes:
        keys: Numbers for each token, of the keys; 0 if it keeps none.
        values: The same of the values.
        window: Tokens back that it sees; 0 for all.
        state: Numbers for each slot, whatever its context: the state of a recurrent layer.
    """

    keys: int = 0
    values: int = 0
    window: int = 0
    state: int = 0


def layer_count(weights: ModelWeights, *, mtp: bool = False) -> int:
    """Return the number of layers that are loaded: without the draft layers, unless *mtp*."""
    count = weights.number("block_count")
    if not mtp:
        count -= weights.number("nextn_predict_layers")
    return max(0, min(count, MAX_LAYERS))


def layers_of(weights: ModelWeights, *, mtp: bool = False) -> tuple[Layer, ...]:
    """Return what each layer keeps; the draft layers among them only if *mtp*."""
    count = layer_count(weights, mtp=mtp)
    if keeps_nothing(weights):
        return (Layer(),) * count
    own = _own_layers(weights, count)
    return tuple(_layer(weights, layer, keeps=layer < own) for layer in range(count))


def keeps_nothing(weights: ModelWeights) -> bool:
    """Return whether it is an encoder, which sees all tokens at once."""
    return weights.architecture in _WITHOUT_CACHE


def _layer(weights: ModelWeights, layer: int, *, keeps: bool) -> Layer:
    is_recurrent = weights.has(layer, *_RECURRENT)
    state = _state(weights) if is_recurrent else 0
    if not keeps or not _attends(weights, layer, is_recurrent=is_recurrent):
        return Layer(state=state)
    window = _window(weights, layer)
    suffix = "_swa" if window else ""
    heads = weights.number_of(layer, "attention.head_count")
    heads_kv = weights.number_of(layer, "attention.head_count_kv", heads)
    usual = weights.number("embedding_length") // max(1, heads)
    keys = weights.number("attention.key_length", usual)
    values = weights.number("attention.value_length", usual)
    keys = weights.number(f"attention.key_length{suffix}", keys)
    values = weights.number(f"attention.value_length{suffix}", values)
    if weights.number("attention.key_length_mla"):
        values = 0  # the values are a part of the keys
    # A lightning indexer keeps keys of its own, of one head.
    indexer = weights.number("attention.indexer.key_length")
    return Layer(
        keys=heads_kv * keys + indexer, values=heads_kv * values, window=window, state=state
    )


def _attends(weights: ModelWeights, layer: int, *, is_recurrent: bool) -> bool:
    if is_recurrent and weights.architecture not in _BOTH:
        return False
    return weights.has(layer, *_PER_HEAD, *_COMBINED)


def _own_layers(weights: ModelWeights, count: int) -> int:
    """Return the number of layers that do not use the keys and values of another one."""
    if shared := weights.number("attention.shared_kv_layers"):
        return count - shared
    return _GEMMA3N_OWN_LAYERS if weights.architecture == "gemma3n" else count


def _window(weights: ModelWeights, layer: int) -> int:
    """Return the number of tokens back that *layer* sees; 0 for all."""
    window = weights.number("attention.sliding_window", _WINDOWS.get(weights.architecture, 0))
    pattern = weights.numbers.get("attention.sliding_window_pattern", ())
    if len(pattern) > 1:
        return window if layer < len(pattern) and pattern[layer] else 0
    if not pattern and weights.architecture not in _PERIODS:
        return 0
    period, dense_first = _PERIODS.get(weights.architecture, (1, False))
    period = pattern[0] if pattern else period
    if period <= 0:
        return window
    slides = layer % period != 0 if dense_first else layer % period < period - 1
    return window if slides else 0


def _state(weights: ModelWeights) -> int:
    """Return the numbers that a recurrent layer keeps for each slot."""
    width = weights.number("embedding_length")
    if head := weights.number("wkv.head_size"):
        return weights.number("token_shift_count", 2) * width + width * head
    if convolution := weights.number("shortconv.l_cache"):
        return width * (convolution - 1)
    kernel = weights.number("ssm.conv_kernel")
    inner = weights.number("ssm.inner_size")
    state = weights.number("ssm.state_size")
    if head := weights.number("kda.head_dim"):
        inner = head * weights.number("attention.head_count")
        return max(0, kernel - 1) * 3 * inner + inner * head
    convolved = inner + 2 * weights.number("ssm.group_count") * state
    return max(0, kernel - 1) * convolved + state * inner
