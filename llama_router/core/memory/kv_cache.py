"""The KV cache of a llama-server: how many tokens it has room for, and its size. Pure.

Source: llama.cpp, src/llama-context.cpp, src/llama-kv-cache.cpp and src/llama-kv-cache-iswa.cpp.
"""

from __future__ import annotations

from typing import Final

import attrs

from .flags import ModelFlags, ServerFlags
from .layers import Layer
from .tensor_types import F32

#: Tokens of which a cache is a multiple.
_STEP: Final = 256

#: What the context is if neither the options nor the header say: llama.cpp's own default.
_DEFAULT_CONTEXT: Final = 512


@attrs.frozen(kw_only=True)
class KvCache:
    """What a llama-server keeps for the tokens of its slots.

    Attributes:
        n_ctx: Tokens of context of all slots together.
        cells: Tokens of which a layer keeps keys and values, in one part of the cache.
        window_cells: The same of a layer with a sliding window; 0 if there is none.
        parts: Parts of the cache: one for all slots, or one for each.
        batch: Tokens that are computed together.
        layers_bytes: Size of what each layer keeps.
    """

    n_ctx: int
    cells: int
    window_cells: int
    parts: int
    batch: int
    layers_bytes: tuple[int, ...]


def kv_cache(
    layers: tuple[Layer, ...], server: ServerFlags, model: ModelFlags, *, trained: int
) -> KvCache:
    """Return the cache of a model or a draft model.

    Args:
        layers: What its layers keep.
        server: The options that a model and its draft model share.
        model: Its own options.
        trained: Tokens of context that the model was trained for.
    """
    slots = server.slots
    n_ctx = _requested(server, trained or _DEFAULT_CONTEXT)
    parts = 1 if server.is_unified else slots
    cells = _padded(n_ctx // parts)
    batch = max(1, min(server.n_ubatch, server.n_batch, cells * parts))
    window = max((layer.window for layer in layers), default=0)
    window_cells = 0
    if window and server.swa_full:
        window_cells = cells
    elif window:
        seen = window * (slots if server.is_unified else 1) + batch
        window_cells = _padded(min(cells, seen))
    return KvCache(
        n_ctx=cells * parts,
        cells=cells,
        window_cells=window_cells,
        parts=parts,
        batch=batch,
        layers_bytes=tuple(
            model.cache_type_k.size_bytes(layer.keys)
            * (window_cells if layer.window else cells)
            * parts
            + model.cache_type_v.size_bytes(layer.values)
            * (window_cells if layer.window else cells)
            * parts
            + F32.size_bytes(layer.state) * slots
            for layer in layers
        ),
    )


def _requested(server: ServerFlags, trained: int) -> int:
    """Return the tokens of context that the options ask for."""
    if server.n_ctx:
        return server.n_ctx
    if server.n_ctx_per_slot:
        return server.n_ctx_per_slot * server.slots
    # Fitting gives each slot with a cache of its own the whole context.
    return trained * (server.slots if server.fit and not server.is_unified else 1)


def _padded(cells: int) -> int:
    return -(-cells // _STEP) * _STEP
