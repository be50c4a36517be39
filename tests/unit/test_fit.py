"""Unit tests of llama.cpp's fitting: what its output says, and the options that repeat it."""

# ruff: noqa: E501 -- lines as llama.cpp prints them

from __future__ import annotations

from typing import Any

import attrs
import pytest

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.fit import (
    TARGET,
    Fit,
    FitReader,
    FreeMemory,
    is_fitted,
    is_squeezed,
    options_of,
    within_host,
    would_repeat,
)
from llama_router.core.memory.footprint import Footprint, Source

#: Without a GPU, and nothing to change. The real output of the embedded server.
HOST = """\
0.00.004.526 I common_params_fit_impl: getting device memory data for initial parameters:
0.01.536.403 I common_memory_breakdown_print: |   - Host               |                  408 =   222 +     133 +      52                |
0.01.745.927 I common_params_fit_impl: projected to use 408 MiB of host memory vs. 24105 MiB of total host memory
0.01.745.939 I common_params_fit_impl: will leave 23696 >= 1024 MiB of system memory, no changes needed
0.01.745.940 I common_fit_params: successfully fit params to free device memory
0.01.745.947 I common_fit_params: fitting params to free memory took 1.74 seconds
0.03.241.844 I print_info: n_ctx_train           = 32768
0.03.330.868 I llama_context: n_ctx                 = 32768
0.03.330.868 I llama_context: n_ctx_seq             = 32768
"""

#: The same with less memory.
HOST_REDUCED = """\
0.02.394.149 I common_params_fit_impl: projected to use 408 MiB of host memory vs. 24105 MiB of total host memory
0.02.394.969 I common_params_fit_impl: cannot meet free memory target of 23800 MiB, need to reduce device memory by 103 MiB
0.03.926.736 I common_params_fit_impl: context size reduced from 32768 to 6144 -> need 104 MiB less memory in total
0.03.935.984 I common_params_fit_impl: entire model can be fit by reducing context
0.03.936.001 I common_fit_params: successfully fit params to free device memory
0.03.936.020 I common_fit_params: fitting params to free memory took 3.93 seconds
0.05.482.448 I llama_context: n_ctx                 = 6144
"""

#: One GPU that is too small. In the form of llama.cpp, common/fit.cpp, at 08033df.
GPU = """\
common_memory_breakdown_print: |   - CUDA0 (RTX 4090)   | 24080 = 23000 + (25000 = 17000 + 7500 +     500) +           0 |
common_params_fit_impl: projected to use 25000 MiB of device memory vs. 12000 MiB of free device memory
common_params_fit_impl: cannot meet free memory target of 1024 MiB, need to reduce device memory by 14024 MiB
common_params_fit_impl: context size reduced from 131072 to 4096 -> need 7200 MiB less memory in total
common_params_fit_impl: filling dense layers back-to-front:
common_params_fit_impl:   - CUDA0 (NVIDIA GeForce RTX 4090): 20 layers,  10900 MiB used,   1100 MiB free
common_fit_params: successfully fit params to free device memory
common_fit_params: fitting params to free memory took 2.50 seconds
load_tensors: offloaded 20/33 layers to GPU
llama_context: n_ctx                 = 4096
"""

#: Two GPUs, filled from the last one.
GPUS = """\
common_params_fit_impl: projected memory use with initial parameters [MiB]:
common_params_fit_impl:   - CUDA0 (A):  24080 total,  13000 used,  -3000 free vs. target of   1024
common_params_fit_impl:   - CUDA1 (B):  12000 total,  13000 used,  -3000 free vs. target of   1024
common_params_fit_impl: projected to use 26000 MiB of device memory vs. 20000 MiB of free device memory
common_params_fit_impl: cannot meet free memory targets on all devices, need to use 8048 MiB less in total
common_params_fit_impl: filling dense layers back-to-front:
common_params_fit_impl:   - CUDA1 (B): 9 layers,   8900 MiB used,   1100 MiB free
common_params_fit_impl:   - CUDA0 (A): 14 layers,   8900 MiB used,   1100 MiB free
common_fit_params: successfully fit params to free device memory
load_tensors: offloaded 23/33 layers to GPU
llama_context: n_ctx                 = 8192
"""

#: A mixture of experts, of which some stay in host memory.
EXPERTS = """\
common_params_fit_impl: projected to use 26000 MiB of device memory vs. 20000 MiB of free device memory
common_params_fit_impl: filling dense-only layers back-to-front:
common_params_fit_impl:   - CUDA0 (A): 33 layers,   8900 MiB used,   1100 MiB free
common_params_fit_impl:   - CUDA0 (A): 33 layers (%s overflowing),   8900 MiB used,   1100 MiB free
common_fit_params: successfully fit params to free device memory
load_tensors: offloaded 33/33 layers to GPU
llama_context: n_ctx                 = 8192
"""

FAILED = """\
common_params_fit_impl: projected to use 26000 MiB of device memory vs. 20000 MiB of free device memory
common_fit_params: failed to fit params to free device memory: n_gpu_layers already set by user to 9, abort
llama_context: n_ctx                 = 8192
"""


def read(output: str) -> Fit | None:
    reader = FitReader()
    for line in output.splitlines():
        reader.read(line)
    return reader.fit()


def fit_of(output: str) -> Fit:
    found = read(output)
    assert found is not None
    return found


def spec_of(**fields: Any) -> ModelSpec:
    return parse_config({"models": {"a": {"path": "a.gguf", **fields}}}).models[ModelId("a")]


def test_nothing_to_change() -> None:
    """The model has all that it could have."""
    fit = fit_of(HOST)
    assert (fit.n_ctx, fit.need_mib, fit.free_mib, fit.margin_mib) == (32768, 408, 24105, 1024)
    assert (fit.is_reduced, fit.took_s, fit.describe()) == (False, 1.74, "context 32768")


def test_a_smaller_context() -> None:
    """It is the first thing that is reduced."""
    fit = fit_of(HOST_REDUCED)
    assert (fit.n_ctx, fit.n_ctx_full, fit.is_reduced) == (6144, 32768, True)
    assert fit.describe() == "context 6144 of 32768"


def test_fewer_layers_on_the_gpu() -> None:
    """They are the second."""
    fit = fit_of(GPU)
    assert (fit.gpus, fit.n_gpu_layers, fit.n_layers, fit.tensor_split) == (1, 20, 33, ())
    assert (fit.free_mib, fit.total_mib) == (12000, 24080)
    assert fit.describe() == "context 4096 of 131072, 20 of 33 layers on the GPU"


def test_layers_on_several_gpus() -> None:
    """The split has the order of the GPUs, not that of the output."""
    fit = fit_of(GPUS)
    assert (fit.gpus, fit.n_gpu_layers, fit.tensor_split) == (2, 23, (14, 9))


@pytest.mark.parametrize(("overflowing", "is_exact"), [("0", True), ("12", False)])
def test_experts_in_host_memory(overflowing: str, is_exact: bool) -> None:  # noqa: FBT001 -- a column
    """No short option says which, so such a choice is not repeated."""
    assert fit_of(EXPERTS % overflowing).is_exact is is_exact


@pytest.mark.parametrize("output", ["", FAILED, HOST.partition("successfully")[0]])
def test_no_fitting(output: str) -> None:
    """An option of the user may prevent it, and a start may end before."""
    assert read(output) is None


@pytest.mark.parametrize(
    ("output", "fields", "options"),
    [
        (HOST, {}, "--ctx-size 32768 --fit off"),
        (HOST_REDUCED, {}, "--ctx-size 6144 --fit off"),
        (GPU, {}, "--ctx-size 4096 --n-gpu-layers 20 --fit off"),
        (GPUS, {}, "--ctx-size 8192 --n-gpu-layers 23 --tensor-split 14,9 --fit off"),
        (GPU, {"args": ["-c", "4096"]}, "--n-gpu-layers 20 --fit off"),
        (GPU, {"args": ["--ctx_size", "4096"]}, "--n-gpu-layers 20 --fit off"),
        (
            GPU,
            {"spawn": {"env": {"LLAMA_ARG_CTX_SIZE": "4096"}}},
            "--n-gpu-layers 20 --fit off",
        ),
    ],
)
def test_options_that_repeat_a_choice(output: str, fields: dict[str, Any], options: str) -> None:
    """An option of the user takes the place of each."""
    assert " ".join(options_of(fit_of(output), spec_of(**fields))) == options


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"args": ["--embeddings"]}, True),
        ({"args": ["--fit", "on"]}, False),
        ({"args": ["-fit", "off"]}, False),
        ({"spawn": {"env": {"LLAMA_ARG_FIT": "off"}}}, False),
        ({"spawn": {"command": ["llama-server", "-m", "$path", "--port", "$port"]}}, False),
    ],
)
def test_what_a_user_writes_is_what_runs(fields: dict[str, Any], expected: bool) -> None:  # noqa: FBT001 -- a column
    """Only the default command gets options of the router, and none beside an own --fit."""
    assert is_fitted(spec_of(**fields)) is expected


def memory(*gpus_mib: int, host_mib: int = 24105, visible: str = "") -> FreeMemory:
    return FreeMemory(host_mib=host_mib, gpus_mib=gpus_mib or None, visible=visible)


def test_a_model_is_fitted_into_its_share_of_host_memory() -> None:
    """llama.cpp compares what it counts with all memory, so the rest of that is to be left free."""
    takes = Footprint(
        source=Source.ESTIMATED, host_mib=6000, least_host_mib=2000, least_gpu_mib=0,
        uncounted_mib=100,
    )  # fmt: skip
    assert within_host(spec_of(), takes, 4000, 16000) == {TARGET: "12100"}
    assert within_host(spec_of(), takes, 6000, 16000) == {}  # all of it has room
    assert within_host(spec_of(), attrs.evolve(takes, least_gpu_mib=None), 4000, 16000) == {}
    assert within_host(spec_of(args=["--fit-target", "9"]), takes, 4000, 16000) == {}
    assert within_host(spec_of(args=["--fit", "off"]), takes, 4000, 16000) == {}


ROOMY = attrs.evolve(fit_of(GPU), n_ctx=131072, n_gpu_layers=None, free_mib=30000)


@pytest.mark.parametrize(
    ("fit", "found", "expected"),
    [
        (fit_of(HOST), memory(), True),
        (fit_of(HOST), memory(host_mib=1000), False),
        (fit_of(HOST_REDUCED), memory(), True),
        (fit_of(HOST_REDUCED), memory(host_mib=32000), False),
        (fit_of(GPU), memory(), False),
        (fit_of(GPU), memory(12100), True),
        (fit_of(GPU), memory(20000), False),
        (fit_of(GPU), memory(11000), False),
        (fit_of(GPU), memory(12000, visible="CUDA_VISIBLE_DEVICES=1"), False),
        (ROOMY, memory(40000), True),
        (ROOMY, memory(25000), False),
        (ROOMY, memory(40000, 12000), False),
        (fit_of(GPUS), memory(10000, 10000), True),
        (fit_of(GPUS), memory(10000, 14000), False),
        (fit_of(GPUS), memory(20000), False),
        (fit_of(EXPERTS % "12"), memory(20000), False),
    ],
)
def test_when_a_choice_holds(fit: Fit, found: FreeMemory, expected: bool) -> None:  # noqa: FBT001 -- a column
    """As long as llama.cpp would choose the same: a reduced model also gets what became free."""
    assert would_repeat(fit, found) is expected


@pytest.mark.parametrize(
    ("fit", "widest", "expected"),
    [
        (fit_of(HOST), None, False),
        (fit_of(HOST_REDUCED), None, False),
        (fit_of(HOST_REDUCED), fit_of(HOST_REDUCED), False),
        (fit_of(HOST_REDUCED), fit_of(HOST), True),
        (attrs.evolve(fit_of(HOST), n_ctx=30000), fit_of(HOST), False),
        (fit_of(GPU), None, False),
        (fit_of(GPU), attrs.evolve(fit_of(GPU), n_gpu_layers=21), True),
        (attrs.evolve(fit_of(GPU), need_mib=23000), None, True),
    ],
)
def test_a_squeezed_model(fit: Fit, widest: Fit | None, expected: bool) -> None:  # noqa: FBT001 -- a column
    """It had more at an earlier load, or its GPU has room for it when nothing else is there."""
    assert is_squeezed(fit, widest) is expected
