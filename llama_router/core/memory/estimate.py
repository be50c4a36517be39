"""The memory of a llama-server, estimated from the file of its model and its options. Pure.

llama.cpp's own report, and a measurement, are better: this is what is known before the first load.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Final

import attrs

from .compute import compute_buffer
from .flags import ModelFlags, ServerFlags
from .footprint import Footprint, Source
from .kv_cache import kv_cache
from .layers import keeps_nothing, layers_of
from .process_footprint import process_footprint
from .tensor_types import F32
from .weights import ModelWeights

_MIB: Final = 2**20

#: Types of weights that are copied for the CPU into a form that computes faster. With a mapped
#: file, there are both. Measured on x86-64 with AVX2.
_REPACKED: Final = frozenset(("iq4_nl", "mxfp4", "q4_0", "q4_k"))

#: The least context that fitting chooses: the default of ``--fit-ctx``.
_LEAST_CTX: Final = 4096

#: An image with which llama.cpp prepares a projector that takes images of any size, and the
#: frames of half a minute of sound. Source: llama.cpp, tools/mtmd/clip.cpp.
_DYNAMIC_IMAGE_TOKENS: Final = 46 * 46
_SOUND_FRAMES: Final = 1500

_EXPERTS: Final = re.compile(r"\.ffn_(up|down|gate_up|gate)_(ch|)exps")
_FEED_FORWARD: Final = re.compile(r"\.ffn_(up|down|gate)\.weight")


@attrs.frozen(kw_only=True)
class Parts:
    """What is taken of host memory, or of all GPUs together, in bytes.

    Attributes:
        model: Weights.
        context: The KV cache, and the states of recurrent layers.
        compute: Compute buffers.
    """

    model: int = 0
    context: int = 0
    compute: int = 0

    @property
    def total(self) -> int:
        """Everything together."""
        return self.model + self.context + self.compute

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            model=self.model + other.model,
            context=self.context + other.context,
            compute=self.compute + other.compute,
        )


@attrs.frozen(kw_only=True)
class Estimate:
    """What llama.cpp will report, as estimated.

    Attributes:
        host: Of host memory.
        gpu: Of all GPUs together.
        n_ctx: Tokens of context of all slots together, if fitting changes nothing.
        vocabulary: Tokens that the model knows.
    """

    host: Parts
    gpu: Parts
    n_ctx: int
    vocabulary: int = 0

    @property
    def footprint(self) -> Footprint:
        """The footprint of the process: with its program, and with the drivers of GPUs."""
        return process_footprint(
            Source.ESTIMATED,
            host_mib=self.host.total / _MIB,
            gpu_mib=self.gpu.total / _MIB,
            gpu_compute_mib=self.gpu.compute / _MIB,
            vocabulary=self.vocabulary,
        )


def estimate(
    weights: ModelWeights,
    flags: ServerFlags,
    *,
    has_gpu: bool,
    mmproj: ModelWeights | None = None,
    draft: ModelWeights | None = None,
) -> Footprint:
    """Return what a llama-server will take, and the least of it; see `estimate_parts`."""
    parts = partial(estimate_parts, weights, has_gpu=has_gpu, mmproj=mmproj, draft=draft)
    found = parts(flags)
    if not flags.fit or flags.model.n_gpu_layers is not None:
        return found.footprint
    least = found
    if not flags.n_ctx and found.n_ctx > _LEAST_CTX:
        least = parts(attrs.evolve(flags, n_ctx=_LEAST_CTX))
    # The fitting leaves out copies of weights, and what is no buffer of llama.cpp.
    counted = parts(attrs.evolve(flags, repack=False)).host.total / _MIB
    return attrs.evolve(
        found.footprint,
        least_host_mib=least.footprint.host_mib,
        least_gpu_mib=least.footprint.gpu_mib,
        uncounted_mib=math.ceil(max(0.0, found.footprint.host_mib - counted)),
    )


def estimate_parts(
    weights: ModelWeights,
    flags: ServerFlags,
    *,
    has_gpu: bool,
    mmproj: ModelWeights | None = None,
    draft: ModelWeights | None = None,
) -> Estimate:
    """Return what llama.cpp will report of a model with those options.

    Args:
        weights: The model.
        flags: The options of its server.
        has_gpu: Whether the server finds a GPU that it can use.
        mmproj: Its projector.
        draft: Its draft model.
    """
    host, gpu, n_ctx = _model(weights, flags, flags.model, has_gpu=has_gpu)
    if draft is not None:
        # It has the same context, and its slots are those of the model.
        same = attrs.evolve(flags, n_ctx=n_ctx, embeddings=False)
        more_host, more_gpu, _ = _model(draft, same, flags.draft, has_gpu=has_gpu)
        host, gpu = host + more_host, gpu + more_gpu
    if mmproj is not None:
        more = projector_parts(mmproj)
        if has_gpu and flags.mmproj_offload and flags.model.device != "none":
            gpu += more
        else:
            host += more
    return Estimate(host=host, gpu=gpu, n_ctx=n_ctx, vocabulary=weights.vocabulary)


def _model(
    weights: ModelWeights, server: ServerFlags, flags: ModelFlags, *, has_gpu: bool
) -> tuple[Parts, Parts, int]:
    """Return what a model takes of the host and of GPUs, and its context."""
    layers = layers_of(weights, mtp=server.mtp)
    cache = kv_cache(layers, server, flags, trained=weights.number("context_length"))
    buffer = compute_buffer(weights, layers, server, cache)
    placement = _Placement(weights, server, flags, has_gpu=has_gpu, layers=len(layers))
    host_model, gpu_model, is_divided = placement.weights_bytes()
    on_gpu = [server.kv_offload and placement.is_on_gpu(layer) for layer in range(len(layers))]
    context = sum(cache.layers_bytes)
    gpu_context = sum(
        size for size, is_there in zip(cache.layers_bytes, on_gpu, strict=True) if is_there
    )
    if not placement.gpu_layers:
        compute = buffer.buffer_bytes + buffer.output_bytes
        return Parts(model=host_model, context=context, compute=compute), Parts(), cache.n_ctx
    host_compute = buffer.buffer_bytes if is_divided else buffer.input_bytes
    host = Parts(
        model=host_model,
        context=context - gpu_context,
        compute=host_compute + buffer.output_bytes,
    )
    gpu = Parts(model=gpu_model, context=gpu_context, compute=buffer.buffer_bytes)
    return host, gpu, cache.n_ctx


class _Placement:
    """Where llama.cpp puts the layers and the tensors of a model."""

    def __init__(
        self,
        weights: ModelWeights,
        server: ServerFlags,
        flags: ModelFlags,
        *,
        has_gpu: bool,
        layers: int,
    ) -> None:
        self._weights = weights
        self._layers = layers
        wanted = layers + 1 if flags.n_gpu_layers is None else flags.n_gpu_layers
        can_offload = has_gpu and flags.device != "none"
        #: Layers on GPUs, from the last one back; the output is the first of them.
        self.gpu_layers = min(wanted, layers + 1) if can_offload else 0
        self._n_cpu_moe = flags.n_cpu_moe
        self._n_cpu_ffn = server.n_cpu_ffn
        self._overrides = tuple(_compiled(flags.overrides))
        # Beside a GPU, weights stay in memory that it can read.
        self._repacks = server.repack and not can_offload
        self._is_mapped = server.mmap

    def is_on_gpu(self, layer: int) -> bool:
        """Return whether *layer* is on a GPU; the output is the one behind the last."""
        return layer > self._layers - self.gpu_layers

    def weights_bytes(self) -> tuple[int, int, bool]:
        """Return the bytes in host memory and on GPUs; whether a GPU has a part of the layers."""
        host = gpu = 0
        is_divided = False
        for kind, tensors in self._weights.blocks.items():
            for layer, size_bytes in enumerate(tensors.sizes_bytes[: self._layers]):
                if self._puts_on_gpu(f"blk.{layer}.{kind}", layer):
                    gpu += size_bytes
                else:
                    host += size_bytes + self._copy_bytes(size_bytes, tensors.types[layer])
                    is_divided = is_divided or size_bytes > 0
        for name, tensor in self._weights.others.items():
            if _is_input(name):
                host += tensor.size_bytes
            elif self._puts_on_gpu(name, self._layers):
                gpu += tensor.size_bytes
            else:
                host += tensor.size_bytes + self._copy_bytes(tensor.size_bytes, tensor.type)
        embedding = self._weights.others.get("token_embd.weight")
        is_output = "output.weight" not in self._weights.others
        if embedding is not None and is_output and not keeps_nothing(self._weights):
            # It is the output as well, and exists twice if that is in another kind of buffer.
            if self.is_on_gpu(self._layers):
                gpu += embedding.size_bytes
            elif self._repacks and embedding.type in _REPACKED:
                host += embedding.size_bytes
        return host, gpu, is_divided

    def _puts_on_gpu(self, name: str, layer: int) -> bool:
        if not self.gpu_layers:
            return False
        for pattern, buffer in self._overrides:
            if pattern.search(name):
                return not buffer.startswith("CPU")
        if layer < self._n_cpu_moe and _EXPERTS.search(name):
            return False
        if layer < self._n_cpu_ffn and _FEED_FORWARD.search(name):
            return False
        return self.is_on_gpu(layer)

    def _copy_bytes(self, size_bytes: int, type_: str) -> int:
        # A mapped file stays mapped beside the copy.
        return size_bytes if self._repacks and self._is_mapped and type_ in _REPACKED else 0


def _is_input(name: str) -> bool:
    """Return whether the tensor *name* belongs to the input, which stays in host memory."""
    return name.startswith(("token_embd", "position_embd", "token_types", "per_layer_token_embd"))


def _compiled(overrides: tuple[tuple[str, str], ...]) -> Iterator[tuple[re.Pattern[str], str]]:
    for pattern, buffer in overrides:
        # A pattern that is wrong is reported by llama.cpp itself.
        with suppress(re.error):
            yield re.compile(pattern), buffer


def projector_parts(weights: ModelWeights) -> Parts:
    """Return what a projector takes: its weights, and what encoding one image needs."""
    return Parts(model=weights.total_bytes, compute=_encoder_bytes(weights))


def _encoder_bytes(weights: ModelWeights) -> int:
    """Return the size of the compute buffer of a projector's encoders, for one image or sound."""
    patch = weights.number("vision.patch_size")
    patches = (weights.number("vision.image_size") // patch) ** 2 if patch else 0
    merged = weights.number("vision.spatial_merge_size")
    if patch and (merged or "v.position_embd.weight" not in weights.others):
        # Images of any size: llama.cpp prepares for one of that many tokens.
        patches = max(patches, _DYNAMIC_IMAGE_TOKENS * max(2, merged) ** 2)
    sizes = [
        F32.size_bytes(count * _encoder_width(weights, kind))
        for kind, count in (("vision", patches), ("audio", _SOUND_FRAMES))
        if weights.number(f"{kind}.embedding_length")
    ]
    return max(sizes, default=0)


def _encoder_width(weights: ModelWeights, kind: str) -> int:
    """Return the numbers for each patch in the widest part of an encoder."""
    width = weights.number(f"{kind}.embedding_length")
    hidden = weights.number(f"{kind}.feed_forward_length")
    is_gated = any(".ffn_gate." in name for name in weights.others)
    return 6 * width + 3 * hidden if is_gated else 3 * width + hidden
