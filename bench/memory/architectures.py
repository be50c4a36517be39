"""The shapes that are measured: one of each kind of cache and of computation in llama.cpp."""

from __future__ import annotations

from typing import Final

import attrs

from .shapes import CONTEXT, VOCABULARY, Shape, Sizes, Tensor


def dense() -> Shape:
    """Return a llama: usual attention."""
    sizes = Sizes(layers=6)
    blocks = [
        tensor
        for block in _blocks(sizes)
        for tensor in (*sizes.attention(block), *sizes.dense(block))
    ]
    return Shape(
        name="dense", architecture="llama", keys=sizes.keys(), tensors=(*sizes.ends(), *blocks)
    )


def fused() -> Shape:
    """Return a phi3: queries, keys and values in one matrix, and so a gate and its values."""
    sizes = Sizes(heads_kv=16)
    tensors = sizes.ends()
    for block in _blocks(sizes):
        tensors += [
            sizes.vector(f"{block}attn_norm.weight"),
            Tensor(f"{block}attn_qkv.weight", (sizes.width, 3 * sizes.width)),
            Tensor(f"{block}attn_output.weight", (sizes.width, sizes.width)),
            sizes.vector(f"{block}ffn_norm.weight"),
            Tensor(f"{block}ffn_up.weight", (sizes.width, 2 * sizes.hidden)),
            Tensor(f"{block}ffn_down.weight", (sizes.hidden, sizes.width)),
        ]
    keys = sizes.keys() | {
        # llama.cpp knows the window, and does not use it.
        "attention.sliding_window": 2047,
        "rope.scaling.original_context_length": 4096,
    }
    return Shape(name="fused", architecture="phi3", keys=keys, tensors=tuple(tensors))


def drafting() -> Shape:
    """Return a glm4moe: a draft layer inside the model."""
    sizes = Sizes(layers=5, experts=8, used=2, expert_hidden=512)
    tensors = sizes.ends()
    for layer, block in enumerate(_blocks(sizes)):
        tensors += [*sizes.attention(block), sizes.vector(f"{block}post_attention_norm.weight")]
        both = sizes.dense(block) if layer == 0 else sizes.mixture(block)
        tensors += [tensor for tensor in both if "ffn_norm" not in tensor.name]
        if layer > 0:
            into = (sizes.width, sizes.expert_hidden)
            tensors += [
                sizes.vector(f"{block}exp_probs_b.bias", sizes.experts),
                Tensor(f"{block}ffn_gate_shexp.weight", into),
                Tensor(f"{block}ffn_up_shexp.weight", into),
                Tensor(f"{block}ffn_down_shexp.weight", into[::-1]),
            ]
    last = f"blk.{sizes.layers - 1}.nextn."
    tensors += [
        Tensor(f"{last}eh_proj.weight", (2 * sizes.width, sizes.width)),
        *(sizes.vector(f"{last}{name}.weight") for name in ("enorm", "hnorm", "shared_head_norm")),
    ]
    keys = sizes.moe_keys() | {
        "expert_gating_func": 2,
        "expert_shared_count": 1,
        "expert_weights_norm": True,
        "expert_weights_scale": 1.0,
        "leading_dense_block_count": 1,
        "nextn_predict_layers": 1,
    }
    return Shape(name="drafting", architecture="glm4moe", keys=keys, tensors=tuple(tensors))


def embedder() -> Shape:
    """Return a qwen3 that embeds: the results of every token are kept."""
    sizes = Sizes(layers=3)
    blocks = [
        tensor
        for block in _blocks(sizes)
        for tensor in (*sizes.attention(block), *sizes.normalised(block), *sizes.dense(block))
    ]
    return Shape(
        name="embedder",
        architecture="qwen3",
        keys=sizes.keys(),
        tensors=(*sizes.ends(tied=True), *blocks),
        args=("--embeddings",),
    )


def encoder() -> Shape:
    """Return a bert: it sees all tokens at once, and keeps none."""
    sizes = Sizes(heads_kv=16)
    tensors = [
        Tensor("token_embd.weight", (sizes.width, VOCABULARY), "f16"),
        Tensor("token_types.weight", (sizes.width, 2), "f32"),
        Tensor("position_embd.weight", (sizes.width, CONTEXT), "f16"),
        *_affine(sizes, "token_embd_norm"),
    ]
    wide = (sizes.width, sizes.width)
    for block in _blocks(sizes):
        for name, dimensions in (
            *((name, wide) for name in ("attn_q", "attn_k", "attn_v", "attn_output")),
            ("ffn_up", (sizes.width, sizes.hidden)),
            ("ffn_down", (sizes.hidden, sizes.width)),
        ):
            tensors.append(Tensor(f"{block}{name}.weight", dimensions, "f16"))
            tensors.append(sizes.vector(f"{block}{name}.bias", dimensions[1]))
        tensors += _affine(sizes, f"{block}attn_output_norm")
        tensors += _affine(sizes, f"{block}layer_output_norm")
    keys = {
        "context_length": CONTEXT,
        "embedding_length": sizes.width,
        "block_count": sizes.layers,
        "feed_forward_length": sizes.hidden,
        "vocab_size": VOCABULARY,
        "attention.head_count": sizes.heads,
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "pooling_type": 1,
    }
    return Shape(
        name="encoder",
        architecture="bert",
        keys=keys,
        tensors=tuple(tensors),
        args=("--embeddings", "--ubatch-size", "2048"),
    )


def windows() -> Shape:
    """Return a gemma3: in five layers of six, a sliding window."""
    sizes = Sizes(layers=12, head=128, heads=8, hidden=3072)
    tensors = sizes.ends(tied=True)
    for block in _blocks(sizes):
        tensors += sizes.attention(block) + sizes.normalised(block) + sizes.dense(block)
        tensors += [
            sizes.vector(f"{block}{name}.weight")
            for name in ("post_attention_norm", "post_ffw_norm")
        ]
    keys = sizes.keys() | {"attention.sliding_window": 512}
    return Shape(name="windows", architecture="gemma3", keys=keys, tensors=tuple(tensors))


def mixture() -> Shape:
    """Return a qwen3moe: experts."""
    sizes = Sizes(layers=6, experts=16, used=4, expert_hidden=512)
    tensors = sizes.ends()
    for block in _blocks(sizes):
        tensors += sizes.attention(block) + sizes.normalised(block) + sizes.mixture(block)
    return Shape(
        name="mixture", architecture="qwen3moe", keys=sizes.moe_keys(), tensors=tuple(tensors)
    )


def sinks() -> Shape:
    """Return a gpt-oss: experts, windows and sinks."""
    sizes = Sizes(layers=4, experts=8, used=4, expert_hidden=1024, hidden=1024)
    tensors = sizes.ends()
    for block in _blocks(sizes):
        tensors += sizes.attention(block, type_="q8_0") + sizes.mixture(block, "mxfp4")
        tensors += [
            sizes.vector(f"{block}post_attention_norm.weight"),
            sizes.vector(f"{block}attn_sinks.weight", sizes.heads),
            sizes.vector(f"{block}attn_q.bias", sizes.heads * sizes.head),
            sizes.vector(f"{block}attn_k.bias", sizes.heads_kv * sizes.head),
            sizes.vector(f"{block}attn_v.bias", sizes.heads_kv * sizes.head),
            sizes.vector(f"{block}attn_output.bias"),
            sizes.vector(f"{block}ffn_gate_inp.bias", sizes.experts),
            *(
                Tensor(f"{block}ffn_{name}_exps.bias", (width, sizes.experts), "f32")
                for name, width in (
                    ("gate", sizes.expert_hidden),
                    ("up", sizes.expert_hidden),
                    ("down", sizes.width),
                )
            ),
        ]
        # Its layers are normalised behind attention, not before the experts.
        tensors = [tensor for tensor in tensors if tensor.name != f"{block}ffn_norm.weight"]
    keys = sizes.moe_keys() | {"attention.sliding_window": 128}
    return Shape(name="sinks", architecture="gpt-oss", keys=keys, tensors=tuple(tensors))


def latent() -> Shape:
    """Return a deepseek2: keys and values in one small vector."""
    sizes = Sizes(layers=4, experts=8, used=2, expert_hidden=512)
    rank, rope, own, queries = 512, 64, 128, 768
    tensors = sizes.ends()
    for layer, block in enumerate(_blocks(sizes)):
        tensors += [
            sizes.vector(f"{block}attn_norm.weight"),
            Tensor(f"{block}attn_q_a.weight", (sizes.width, queries)),
            sizes.vector(f"{block}attn_q_a_norm.weight", queries),
            Tensor(f"{block}attn_q_b.weight", (queries, sizes.heads * (own + rope))),
            sizes.vector(f"{block}attn_kv_a_norm.weight", rank),
            Tensor(f"{block}attn_kv_a_mqa.weight", (sizes.width, rank + rope), "q8_0"),
            Tensor(f"{block}attn_k_b.weight", (own, rank, sizes.heads), "q8_0"),
            Tensor(f"{block}attn_v_b.weight", (rank, own, sizes.heads), "q8_0"),
            Tensor(f"{block}attn_output.weight", (sizes.heads * own, sizes.width)),
        ]
        if layer == 0:
            tensors += sizes.dense(block)
        else:
            shared = (sizes.width, sizes.expert_hidden)
            tensors += sizes.mixture(block)
            tensors += [
                Tensor(f"{block}ffn_gate_shexp.weight", shared),
                Tensor(f"{block}ffn_up_shexp.weight", shared),
                Tensor(f"{block}ffn_down_shexp.weight", shared[::-1]),
            ]
    keys = sizes.moe_keys() | {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": rank,
        "attention.q_lora_rank": queries,
        "attention.key_length": rank + rope,
        "attention.value_length": rank,
        "attention.key_length_mla": own + rope,
        "attention.value_length_mla": own,
        "expert_shared_count": 1,
        "expert_weights_scale": 1.0,
        "leading_dense_block_count": 1,
        "rope.dimension_count": rope,
        "rope.scaling.yarn_log_multiplier": 0.1,
    }
    return Shape(name="latent", architecture="deepseek2", keys=keys, tensors=tuple(tensors))


def shared() -> Shape:
    """Return a gemma4: windows by a list, other heads in them, and layers that share keys."""
    layers, own, head, window_head, per_layer = 12, 6, 256, 128, 128
    sizes = Sizes(layers=layers, heads=4, heads_kv=2, head=head, hidden=3072)
    slides = [(layer + 1) % 6 != 0 for layer in range(layers)]
    tensors = [
        *sizes.ends(tied=True),
        sizes.vector("rope_freqs.weight", head // 2),
        Tensor("per_layer_token_embd.weight", (per_layer * layers, VOCABULARY), "q6_k"),
        Tensor("per_layer_model_proj.weight", (sizes.width, per_layer * layers), "f16"),
        sizes.vector("per_layer_proj_norm.weight", per_layer),
    ]
    for block, slide in zip(_blocks(sizes), slides, strict=True):
        there = attrs.evolve(sizes, head=window_head if slide else head)
        tensors += there.attention(block) + there.normalised(block) + there.dense(block)
        tensors += [
            *(
                sizes.vector(f"{block}{name}.weight")
                for name in ("post_attention_norm", "post_ffw_norm", "post_norm")
            ),
            sizes.vector(f"{block}layer_output_scale.weight", 1),
            Tensor(f"{block}inp_gate.weight", (sizes.width, per_layer), "f32"),
            Tensor(f"{block}proj.weight", (per_layer, sizes.width), "f32"),
        ]
    keys = sizes.keys() | {
        "attention.key_length_swa": window_head,
        "attention.value_length_swa": window_head,
        "attention.shared_kv_layers": layers - own,
        "attention.sliding_window": 512,
        "attention.sliding_window_pattern": slides,
        "embedding_length_per_layer_input": per_layer,
        "rope.dimension_count_swa": window_head,
        "rope.freq_base_swa": 10_000.0,
    }
    return Shape(name="shared", architecture="gemma4", keys=keys, tensors=tuple(tensors))


def recurrent() -> Shape:
    """Return a mamba2: a state in place of a cache."""
    sizes = Sizes()
    inner, state, groups, kernel, heads = 2048, 128, 1, 4, 32
    convolved = inner + 2 * groups * state
    tensors = sizes.ends(tied=True)
    for block in _blocks(sizes):
        tensors += [
            sizes.vector(f"{block}attn_norm.weight"),
            Tensor(f"{block}ssm_in.weight", (sizes.width, inner + convolved + heads)),
            Tensor(f"{block}ssm_conv1d.weight", (kernel, convolved), "f32"),
            sizes.vector(f"{block}ssm_conv1d.bias", convolved),
            sizes.vector(f"{block}ssm_dt.bias", heads),
            Tensor(f"{block}ssm_a", (1, heads), "f32"),
            Tensor(f"{block}ssm_d", (1, heads), "f32"),
            Tensor(f"{block}ssm_norm.weight", (inner // groups, groups), "f32"),
            Tensor(f"{block}ssm_out.weight", (inner, sizes.width)),
        ]
    keys = {
        "context_length": CONTEXT,
        "embedding_length": sizes.width,
        "block_count": sizes.layers,
        "feed_forward_length": 0,
        "vocab_size": VOCABULARY,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": heads,
        "ssm.group_count": groups,
    }
    return Shape(name="recurrent", architecture="mamba2", keys=keys, tensors=tuple(tensors))


def hybrid() -> Shape:
    """Return a qwen3next: a state in three layers of four, attention in the fourth."""
    sizes = Sizes(layers=4, heads_kv=2, head=128, heads=8, experts=16, used=4, expert_hidden=256)
    key_heads, value_heads, kernel = 8, 16, 4
    keys_width, values_width = key_heads * sizes.head, value_heads * sizes.head
    convolved = 2 * keys_width + values_width
    tensors = sizes.ends()
    for layer, block in enumerate(_blocks(sizes)):
        if layer % 4 == 3:
            # The gate comes with the queries.
            tensors += sizes.attention(block, heads=2 * sizes.heads) + sizes.normalised(block)
        else:
            tensors += [
                sizes.vector(f"{block}attn_norm.weight"),
                Tensor(f"{block}attn_qkv.weight", (sizes.width, convolved)),
                Tensor(f"{block}attn_gate.weight", (sizes.width, values_width)),
                Tensor(f"{block}ssm_conv1d.weight", (kernel, convolved), "f32"),
                sizes.vector(f"{block}ssm_dt.bias", value_heads),
                sizes.vector(f"{block}ssm_a", value_heads),
                Tensor(f"{block}ssm_ba.weight", (sizes.width, 2 * value_heads)),
                sizes.vector(f"{block}ssm_norm.weight", sizes.head),
                Tensor(f"{block}ssm_out.weight", (values_width, sizes.width)),
            ]
        experts = [one for one in sizes.mixture(block) if "ffn_norm" not in one.name]
        into = (sizes.width, sizes.expert_hidden)
        tensors += [
            sizes.vector(f"{block}post_attention_norm.weight"),
            *experts,
            sizes.vector(f"{block}ffn_gate_inp_shexp.weight"),
            Tensor(f"{block}ffn_gate_shexp.weight", into),
            Tensor(f"{block}ffn_up_shexp.weight", into),
            Tensor(f"{block}ffn_down_shexp.weight", into[::-1]),
        ]
    keys = sizes.moe_keys() | {
        "expert_shared_feed_forward_length": sizes.expert_hidden,
        "full_attention_interval": 4,
        "rope.dimension_count": 64,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": values_width,
        "ssm.state_size": sizes.head,
        "ssm.time_step_rank": value_heads,
        "ssm.group_count": key_heads,
    }
    return Shape(name="hybrid", architecture="qwen3next", keys=keys, tensors=tuple(tensors))


def convolutions() -> Shape:
    """Return a lfm2: short convolutions in two layers of three."""
    sizes = Sizes(layers=6)
    attends = [layer % 3 == 2 for layer in range(sizes.layers)]
    kernel = 3
    tensors = [
        Tensor("token_embd.weight", (sizes.width, VOCABULARY), "q6_k"),
        sizes.vector("token_embd_norm.weight"),
    ]
    for block, is_attention in zip(_blocks(sizes), attends, strict=True):
        tensors += sizes.dense(block)
        if is_attention:
            tensors += sizes.attention(block) + sizes.normalised(block)
            continue
        tensors += [
            sizes.vector(f"{block}attn_norm.weight"),
            Tensor(f"{block}shortconv.conv.weight", (kernel, sizes.width), "f32"),
            Tensor(f"{block}shortconv.in_proj.weight", (sizes.width, 3 * sizes.width)),
            Tensor(f"{block}shortconv.out_proj.weight", (sizes.width, sizes.width)),
        ]
    keys = sizes.keys() | {
        "attention.head_count_kv": [sizes.heads_kv if one else 0 for one in attends],
        "shortconv.l_cache": kernel,
    }
    return Shape(name="convolutions", architecture="lfm2", keys=keys, tensors=tuple(tensors))


def _blocks(sizes: Sizes) -> list[str]:
    """Return the beginnings of names in each layer."""
    return [f"blk.{layer}." for layer in range(sizes.layers)]


def _affine(sizes: Sizes, name: str) -> list[Tensor]:
    return [sizes.vector(f"{name}.weight"), sizes.vector(f"{name}.bias")]


#: All of them.
SHAPES: Final = (
    *(dense(), fused(), embedder(), encoder(), windows(), mixture(), sinks(), drafting()),
    *(latent(), shared(), recurrent(), hybrid(), convolutions()),
)
