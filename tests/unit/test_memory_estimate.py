"""Estimates of footprints: what is where, and how options change it.

That they are near what llama.cpp reports is tested in tests/process/test_memory_estimate.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from llama_router.core.memory.estimate import Estimate, estimate, estimate_parts
from llama_router.core.memory.flags import read_flags
from llama_router.core.memory.footprint import Footprint, Source
from llama_router.core.memory.weights import BlockTensors, ModelWeights, OtherTensor

MIB = 2**20


def model(
    architecture: str = "llama",
    *,
    layers: int = 4,
    tensors: dict[str, int] | None = None,
    others: dict[str, int] | None = None,
    type_: str = "f16",
    **numbers: Any,
) -> ModelWeights:
    """Return a model: by default with 10 MiB of attention and 30 of experts in each layer."""
    tensors = tensors or {"attn_k.weight": 10, "ffn_up_exps.weight": 30}
    others = {"token_embd.weight": 5, "output.weight": 7} if others is None else others
    found = {
        "block_count": layers,
        "context_length": 8192,
        "embedding_length": 1024,
        "attention.head_count": 16,
        "attention.head_count_kv": 4,
        "feed_forward_length": 4096,
    } | {name.replace("__", "."): value for name, value in numbers.items()}
    return ModelWeights(
        architecture=architecture,
        numbers={
            name: value if isinstance(value, tuple) else (value,) for name, value in found.items()
        },
        blocks={
            name: BlockTensors((size * MIB,) * layers, (type_,) * layers)
            for name, size in tensors.items()
        },
        others={name: OtherTensor(size * MIB, type_) for name, size in others.items()},
        vocabulary=32_000,
    )


def parts(
    weights: ModelWeights, *words: str, has_gpu: bool = True, **more: ModelWeights
) -> Estimate:
    return estimate_parts(weights, read_flags(["llama-server", *words]), has_gpu=has_gpu, **more)


def model_mib(estimated: Estimate) -> tuple[float, float]:
    """Return the weights in host memory and on GPUs."""
    return estimated.host.model / MIB, estimated.gpu.model / MIB


def context_mib(weights: ModelWeights, *words: str) -> float:
    return parts(weights, *words, has_gpu=False).host.context / MIB


def test_without_a_gpu_all_is_in_host_memory() -> None:
    """The options about layers on GPUs are then without effect."""
    estimated = parts(model(), "-ngl", "99", has_gpu=False)
    assert model_mib(estimated) == (4 * 40 + 12, 0)
    assert estimated.gpu.total == 0
    assert estimated == parts(model(), "--device", "none")


def test_only_the_input_stays_in_host_memory() -> None:
    """llama.cpp puts all layers and the output on GPUs, unless an option says otherwise."""
    assert model_mib(parts(model())) == (5, 4 * 40 + 7)


@pytest.mark.parametrize(
    ("words", "host", "gpu"),
    [
        (("-ngl", "0"), 172, 0),
        (("-ngl", "1"), 165, 7),
        (("-ngl", "3"), 85, 87),
        (("--cpu-moe",), 125, 47),
        (("--n-cpu-moe", "1"), 35, 137),
        (("-ot", r"blk\.[01]\.ffn_up_exps=CPU"), 65, 107),
        (("-ot", "exps=CPU,attn=CPU_Mapped"), 165, 7),
        (("-ot", "(=CPU"), 5, 167),
        (("-ncmoe", "4", "-ot", "exps=CUDA0"), 5, 167),
    ],
)
def test_options_say_where_weights_are(words: tuple[str, ...], host: int, gpu: int) -> None:
    """The output is the first that is put on a GPU, then layers from the last one back."""
    assert model_mib(parts(model(), *words)) == (host, gpu)


def test_an_embedding_that_is_the_output_too_is_on_both_sides() -> None:
    """Without a tensor of its own for the output."""
    tied = model(others={"token_embd.weight": 5})
    assert model_mib(parts(tied)) == (5, 165)
    assert model_mib(parts(tied, "-ngl", "0")) == (165, 0)


def test_weights_that_are_copied_for_the_cpu_are_there_twice() -> None:
    """Unless the file is not mapped, or a GPU is there; the input is never copied."""
    weights = model(type_="q4_0")
    assert model_mib(parts(weights, has_gpu=False)) == (5 + 2 * 167, 0)
    assert model_mib(parts(weights, "--no-mmap", has_gpu=False)) == (172, 0)
    assert model_mib(parts(weights, "--no-repack", has_gpu=False)) == (172, 0)
    assert model_mib(parts(weights, "-ngl", "0")) == (172, 0)


def test_the_cache_has_the_context_of_all_layers() -> None:
    """256 keys and 256 values of two bytes in each of four layers: 4 KiB for a token."""
    assert context_mib(model()) == 8192 * 4 / 1024
    assert context_mib(model(), "-c", "1024") == 4
    assert context_mib(model(), "-c", "1000") == 4
    assert context_mib(model(), "-c", "1024", "-ctk", "q8_0") == pytest.approx(2 + 2 * 34 / 64)


def test_slots_share_a_cache_or_have_one_each() -> None:
    """A number of slots gives each a cache of its own; fitting gives each the whole context."""
    assert parts(model()).n_ctx == 8192
    assert parts(model(), "-np", "2").n_ctx == 16384
    assert parts(model(), "-np", "2", "-fit", "off").n_ctx == 8192
    assert parts(model(), "-np", "2", "-kvu").n_ctx == 8192
    assert parts(model(), "-np", "3", "-c", "1000").n_ctx == 3 * 512
    assert parts(model(), "--kv-unified-per-slot", "256").n_ctx == 1024


def test_the_cache_is_where_its_layers_are() -> None:
    """Or in host memory, by an option."""
    assert parts(model(), "-ngl", "3").host.context == 16 * MIB
    assert parts(model(), "-ngl", "3").gpu.context == 16 * MIB
    assert parts(model(), "--no-kv-offload").gpu.context == 0


def test_windows_keep_only_what_they_see() -> None:
    """Of gemma3, one layer in six sees everything."""
    weights = model("gemma3", layers=6, attention__sliding_window=512)
    cells = 4 * 512 + 512
    assert context_mib(weights) == (8192 + 5 * cells) / 1024
    assert context_mib(weights, "-np", "1") == (8192 + 5 * 1024) / 1024
    assert context_mib(weights, "--swa-full") == 6 * 8192 / 1024


def test_a_list_in_the_header_says_which_layers_have_a_window() -> None:
    """It goes before what is known of the architecture, and a window without either is none."""
    pattern: dict[str, Any] = {
        "attention__sliding_window": 512,
        "attention__sliding_window_pattern": (1, 0, 0, 0),
    }
    assert context_mib(model("new", **pattern)) == (3 * 8192 + 2560) / 1024
    assert context_mib(model("new", attention__sliding_window=512)) == 32


def test_layers_with_shared_keys_have_none() -> None:
    """As in gemma4."""
    assert context_mib(model("gemma4", attention__shared_kv_layers=1)) == 24


def test_heads_differ_by_layer() -> None:
    """A layer without heads for keys keeps nothing."""
    assert context_mib(model(attention__head_count_kv=(4, 0, 8, 4))) == 32


def test_latent_attention_keeps_one_vector_for_keys_and_values() -> None:
    """As in deepseek2: 576 numbers for a token and layer."""
    weights = model(
        "deepseek2",
        tensors={"attn_kv_a_mqa.weight": 10},
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    assert context_mib(weights) == 8192 * 4 * 576 * 2 / MIB


def test_recurrent_layers_keep_a_state_for_each_slot() -> None:
    """Whatever the context: of a mamba2, the last inputs and the state."""
    numbers: dict[str, Any] = {
        "ssm__conv_kernel": 4,
        "ssm__inner_size": 4096,
        "ssm__state_size": 128,
        "ssm__group_count": 8,
    }
    weights = model("mamba2", tensors={"ssm_in.weight": 10}, **numbers)
    state = 4 * (3 * (4096 + 2 * 8 * 128) + 128 * 4096)
    assert parts(weights, has_gpu=False).host.context == 4 * 4 * state
    assert parts(weights, "-np", "1", "-c", "99999", has_gpu=False).host.context == 4 * state


def test_encoders_keep_nothing() -> None:
    """They see all tokens at once."""
    weights = model("bert", context_length=512)
    assert parts(weights, "--embeddings").host.context == 0
    assert parts(weights, "--embeddings").gpu.context == 0


def test_draft_layers_count_only_if_they_are_used() -> None:
    """They are the last ones of the model."""
    weights = model(nextn_predict_layers=1)
    assert model_mib(parts(weights)) == (5, 3 * 40 + 7)
    assert model_mib(parts(weights, "--spec-type", "draft-mtp")) == (5, 4 * 40 + 7)
    assert context_mib(weights) == 24
    assert context_mib(weights, "--spec-type", "draft-mtp") == 32


def test_a_draft_model_has_the_context_of_its_model() -> None:
    """Its weights and its cache are added."""
    draft = model(layers=1, context_length=512)
    with_draft = parts(model(), "-c", "4096", draft=draft)
    alone = parts(model(), "-c", "4096")
    assert with_draft.gpu.context - alone.gpu.context == 4 * MIB
    assert with_draft.gpu.model - alone.gpu.model == 47 * MIB
    on_host = parts(model(), "-c", "4096", "-ngld", "0", draft=draft)
    assert on_host.gpu == alone.gpu
    assert on_host.host.model - alone.host.model == 52 * MIB


def test_a_projector_is_on_a_gpu_unless_an_option_says_otherwise() -> None:
    """With what encoding an image needs."""
    projector = ModelWeights(
        architecture="clip",
        numbers={
            "vision.image_size": (896,),
            "vision.patch_size": (14,),
            "vision.embedding_length": (1152,),
            "vision.feed_forward_length": (4304,),
        },
        others={"v.patch_embd.weight": OtherTensor(800 * MIB, "f16")},
    )
    alone = parts(model())
    assert parts(model(), mmproj=projector).gpu.model - alone.gpu.model == 800 * MIB
    assert parts(model(), mmproj=projector).gpu.compute > alone.gpu.compute
    assert parts(model(), "--no-mmproj-offload", mmproj=projector).gpu == alone.gpu


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (("-ub", "2048"), ()),
        (("-fa", "off"), ()),
        (("-c", "65536"), ("-c", "8192")),
        (("--embeddings",), ()),
    ],
)
def test_more_is_computed_with_a_larger_batch_or_context(
    words: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """A larger batch, scores, masks, and the results of every token."""
    assert parts(model(), *words).gpu.compute > parts(model(), *more).gpu.compute


def test_a_gate_in_the_same_matrix_counts() -> None:
    """Three wide results exist at once then, as with a matrix of its own."""
    down = {"attn_qkv.weight": 10, "ffn_down.weight": 8}
    separate = {"ffn_gate.weight": 8, "ffn_up.weight": 8}
    assert (
        parts(model(tensors=down | {"ffn_up.weight": 16})).gpu.compute
        == parts(model(tensors=down | separate)).gpu.compute
        > parts(model(tensors=down | {"ffn_up.weight": 8})).gpu.compute
    )


def test_a_batch_is_no_larger_than_the_context() -> None:
    """An embedding model with 512 tokens never computes 8192 of them."""
    weights = model("bert", context_length=512)
    large = ("--embeddings", "-b", "8192", "-ub", "8192")
    assert parts(weights, *large) == parts(weights, "--embeddings")


def test_the_footprint_has_the_program_and_the_driver_as_well() -> None:
    """It is in whole MiB, and says that it is estimated."""
    flags = read_flags(["llama-server"])
    estimated = parts(model())
    footprint = estimate(model(), flags, has_gpu=True)
    assert footprint.source is Source.ESTIMATED
    assert footprint.host_mib > estimated.host.total / MIB
    assert footprint.gpu_mib > estimated.gpu.total / MIB
    assert 0 < footprint.per_gpu_mib < footprint.gpu_mib
    on_host = estimate(model(), flags, has_gpu=False)
    assert (on_host.gpu_mib, on_host.per_gpu_mib) == (0, 0)


@pytest.mark.parametrize("has_gpu", [True, False])
def test_a_file_without_any_number_is_its_weights(has_gpu: bool) -> None:  # noqa: FBT001 -- a parameter
    """A header may lack everything; nothing fails then."""
    weights = model(context_length=131072)

    def of(*words: str) -> Footprint:
        return estimate(weights, read_flags(["llama-server", *words]), has_gpu=True)

    full, small = of(), of("-c", "4096")
    assert full.least_gpu_mib == small.gpu_mib < full.gpu_mib
    assert full.least_host_mib == small.host_mib
    assert (small.least_host_mib, small.least_gpu_mib) == (small.host_mib, small.gpu_mib)
    assert not of("--fit", "off").shrinks
    assert not of("-ngl", "99").shrinks
