"""A projector that gives the smallest chat model images as input."""

from __future__ import annotations

from pathlib import Path

from .chat import CHAT_SHAPE
from .gguf_file import new_gguf_file
from .random_weights import RandomWeights
from .transformer import Shape, write_encoder_layer

_ENCODER_SHAPE = Shape(n_embd=32, n_layer=1, n_head=2, n_head_kv=2, n_ff=64)

_IMAGE_PIXELS = 32

_PATCH_PIXELS = 8


def make_projector(path: Path, *, name: str = "tiny-projector", seed: int = 3) -> None:
    """Write a projector for the smallest chat model to *path*.

    It turns each image into four tokens. llama-server needs ``--mmproj`` for it. The same
    arguments give the same bytes. An existing file is replaced atomically.

    Args:
        path: The GGUF file; its directory must exist.
        name: ``general.name`` in its header.
        seed: Seed of the random weights.

    Raises:
        ImportError: if the ``gguf`` package is missing.
        OSError: if *path* cannot be written.
    """
    with new_gguf_file(path, "clip", name, type_="MMPROJ") as gguf_file:
        writer, random, shape = gguf_file.writer, RandomWeights(seed), _ENCODER_SHAPE
        width, patches = shape.n_embd, _IMAGE_PIXELS // _PATCH_PIXELS
        writer.add_clip_has_vision_encoder(value=True)
        writer.add_clip_projector_type("gemma3")
        writer.add_vision_projection_dim(CHAT_SHAPE.n_embd)
        writer.add_vision_image_size(_IMAGE_PIXELS)
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
            write_encoder_layer(
                gguf_file,
                random,
                f"v.blk.{layer}.",
                shape,
                attention=("attn_q", "attn_k", "attn_v", "attn_out"),
                norms=("ln1", "ln2"),
            )
        gguf_file.fill("mm.soft_emb_norm.weight", width, 1)
        weights = random(width, CHAT_SHAPE.n_embd, deviation=width**-0.5)
        gguf_file.add("mm.input_projection.weight", weights)
