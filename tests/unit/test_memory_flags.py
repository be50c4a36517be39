"""The options of llama-server on which memory depends: every spelling, and the variables."""

from __future__ import annotations

import pytest

from llama_router.core.memory import flags as module
from llama_router.core.memory.flags import ALL_LAYERS, ModelFlags, ServerFlags, read_flags
from llama_router.core.memory.tensor_types import BY_NAME
from llama_router.migration import llama_options


def read(*words: str, **env: str) -> ServerFlags:
    return read_flags(["/opt/bin/llama-server", *words], env)


def test_without_options_the_defaults_are_those_of_llama_cpp() -> None:
    """Four slots share one cache of the trained context."""
    flags = read("-m", "x.gguf", "--port", "1")
    assert flags == ServerFlags()
    assert (flags.slots, flags.is_unified) == (4, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("-c", "4096"), {"n_ctx": 4096}),
        (("--ctx-size", "4096"), {"n_ctx": 4096}),
        (("--ctx_size", "4096"), {"n_ctx": 4096}),
        (("-c", "1", "-c", "2"), {"n_ctx": 2}),
        (("--kv-unified-per-slot", "8"), {"n_ctx_per_slot": 8}),
        (("-np", "3"), {"n_parallel": 3}),
        (("--parallel", "-1"), {"n_parallel": None}),
        (("-kvu",), {"kv_unified": True}),
        (("--no-kv-unified",), {"kv_unified": False}),
        (("-b", "64", "-ub", "32"), {"n_batch": 64, "n_ubatch": 32}),
        (("-fa", "off"), {"flash_attention": False}),
        (("-fa", "auto"), {}),
        (("--swa-full",), {"swa_full": True}),
        (("-nkvo",), {"kv_offload": False}),
        (("--no-repack",), {"repack": False}),
        (("--no-mmap",), {"mmap": False}),
        (("-lm", "mlock"), {"mmap": False}),
        (("-lm", "mmap+mlock"), {"mmap": True}),
        (("--reranking",), {"embeddings": True}),
        (("--embeddings",), {"embeddings": True}),
        (("--no-mmproj-offload",), {"mmproj_offload": False}),
        (("--spec-type", "ngram-mod,draft-mtp"), {"mtp": True}),
        (("-fit", "off"), {"fit": False}),
        (("-ncffn", "5"), {"n_cpu_ffn": 5}),
        (("-ngl", "20"), {"model": ModelFlags(n_gpu_layers=20)}),
        (("--n-gpu-layers", "all"), {"model": ModelFlags(n_gpu_layers=ALL_LAYERS)}),
        (("--gpu-layers", "auto"), {"model": ModelFlags()}),
        (("-cmoe",), {"model": ModelFlags(n_cpu_moe=ALL_LAYERS)}),
        (("--n-cpu-moe", "7"), {"model": ModelFlags(n_cpu_moe=7)}),
        (
            ("-ctk", "q8_0", "--cache-type-v", "q4_0"),
            {"model": ModelFlags(cache_type_k=BY_NAME["q8_0"], cache_type_v=BY_NAME["q4_0"])},
        ),
        (
            ("-ot", "a=CPU,b=CUDA0", "-ot", r"\.ffn_.*=CPU"),
            {"model": ModelFlags(overrides=(("a", "CPU"), ("b", "CUDA0"), (r"\.ffn_.*", "CPU")))},
        ),
        (
            ("-ngld", "3", "-ctkd", "q8_0"),
            {"draft": ModelFlags(n_gpu_layers=3, cache_type_k=BY_NAME["q8_0"])},
        ),
        (
            ("-dev", "none"),
            {"model": ModelFlags(device="none"), "draft": ModelFlags(device="none")},
        ),
    ],
)
def test_options_are_read(words: tuple[str, ...], expected: dict) -> None:
    """Each in its long and its short spelling, the last one counts, and overrides add up."""
    assert read(*words) == ServerFlags(**expected)


@pytest.mark.parametrize(
    "words",
    [("-c", "many"), ("-c", "-5"), ("-c",), ("-ctk", "q9"), ("-fa", "maybe"), ("-ngl", "x"), ()],
)
def test_wrong_values_change_nothing(words: tuple[str, ...]) -> None:
    """The program itself reports them."""
    assert read(*words) == ServerFlags()


def test_variables_are_read_and_options_go_before_them() -> None:
    """As in llama.cpp's own parser."""
    flags = read("-c", "5", LLAMA_ARG_CTX_SIZE="9", LLAMA_ARG_N_PARALLEL="2")
    assert (flags.n_ctx, flags.n_parallel) == (5, 2)
    assert read(LLAMA_ARG_CTX_SIZE="9").n_ctx == 9
    assert read(LLAMA_ARG_MMAP="off").mmap is False
    assert read(LLAMA_ARG_NO_MMAP="whatever").mmap is False
    assert read(LLAMA_ARG_CPU_MOE="true").model.n_cpu_moe == ALL_LAYERS
    assert read(LLAMA_ARG_SWA_FULL="0").swa_full is False
    assert read(CTX_SIZE="9") == ServerFlags()


def test_words_of_another_program_are_left_out() -> None:
    """``taskset -c`` is no context."""
    command = ["taskset", "-c", "3", "/opt/llama-server-vulkan", "-c", "8"]
    assert read_flags(command).n_ctx == 8
    embedded = ["python3", "-m", "llama_router.backends.embedded", "-c", "8"]
    assert read_flags(embedded).n_ctx == 8
    assert read_flags(["wrapper", "-c", "8"]).n_ctx == 8
    assert read_flags([]) == ServerFlags()


def test_every_spelling_is_one_of_llama_server() -> None:
    """The importer of presets has a table of all of them."""
    for spelling, option in module._OPTIONS.items():
        name = spelling.replace("LLAMA_ARG_NO_", "LLAMA_ARG_")
        known = llama_options.find(name.lstrip("-"))
        assert known is not None, name
        if not name.startswith("-"):
            assert known.env == name
            continue
        assert known.takes_value == (option.kind not in module._BARE), name
        assert (name in known.negations) == (option.kind == "off"), name
        assert known.env is None or module._OPTIONS[known.env].field == option.field, name
