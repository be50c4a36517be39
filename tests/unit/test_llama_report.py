"""The lines in which llama-server says what memory it took: read as one value."""

from __future__ import annotations

import pytest

from llama_router.core.memory.footprint import Source
from llama_router.core.memory.llama_report import DeviceReport, Reported, ReportReader

#: Lines of the embedded server that fitted a model into host memory, and of its draft model.
FITTED_ON_HOST = """\
0.00.012.402 I cmn  common_init_: fitting params to device memory ...
0.01.874.905 I load_tensors:          CPU model buffer size =     0.00 MiB
0.01.874.907 I sched_reserve:        CPU compute buffer size =    52.78 MiB
0.01.874.927 I common_memory_breakdown_print: | - Host | 408 = 222 + 133 + 52 |
0.04.586.282 I common_params_fit_impl: context size reduced from 32768 to 11264
0.04.586.298 I common_params_fit_impl: entire model can be fit by reducing context
0.04.586.305 I common_fit_params: fitting params to free memory took 4.57 seconds
0.05.603.621 I print_info: n_vocab               = 262144
0.06.693.668 I load_tensors:   CPU_Mapped model buffer size =   235.00 MiB
0.06.695.044 I load_tensors:   CPU_REPACK model buffer size =    12.50 MiB
0.06.700.912 I llama_context: constructing llama_context
0.06.701.023 I llama_context: n_seq_max             = 4
0.06.701.033 I llama_context: n_ctx                 = 11264
0.06.701.034 I llama_context: n_ctx_seq             = 11264
0.06.738.743 I llama_context:        CPU  output buffer size =     4.00 MiB
0.06.739.583 I llama_kv_cache:        CPU KV buffer size =    33.00 MiB
0.06.809.620 I llama_kv_cache:        CPU KV buffer size =    37.50 MiB
0.06.881.189 I sched_reserve:        CPU compute buffer size =    99.00 MiB
0.06.891.189 I sched_reserve:        CPU compute buffer size =    31.75 MiB
0.07.002.055 D ~llama_context:        CPU compute buffer size is  31.7800 MiB
0.07.102.055 I load_tensors:   CPU_Mapped model buffer size =     1.00 MiB
0.07.102.100 I llama_context: constructing llama_context
0.07.102.103 I llama_context: n_ctx                 = 512
0.07.105.591 I llama_memory_recurrent:        CPU RS buffer size =     0.50 MiB
0.07.108.379 I sched_reserve:        CPU compute buffer size =     3.25 MiB
"""

#: The same of a model that was put on a GPU as far as it fits, with experts in host memory.
FITTED_ON_GPU = """\
srv    load_model: [mtmd] estimated worst-case memory usage of mmproj is 900.50 MiB (took 8.1 ms)
cmn  common_init_: fitting params to device memory ...
common_params_fit_impl: cannot meet free memory target of 1024 MiB
common_params_fit_impl: context size set by user to 4096 -> no change
common_params_fit_impl: filling dense-only layers back-to-front:
common_params_fit_impl:   - CUDA0 (RTX 4090): 49 layers,  12000 MiB used,  8000 MiB free
common_params_fit_impl: converting dense-only layers to full layers
common_params_fit_impl:   - CUDA0 (RTX 4090): 49 layers (12 overflowing), 20000 MiB used
common_fit_params: fitting params to free memory took 1.00 seconds
load_tensors: offloading 48 repeating layers to GPU
load_tensors: offloaded 49/49 layers to GPU
load_tensors:   CPU_Mapped model buffer size =  9000.00 MiB
load_tensors:        CUDA0 model buffer size = 18000.00 MiB
llama_context: constructing llama_context
llama_context: n_seq_max     = 1
llama_context: n_ctx         = 4096
llama_context:  CUDA_Host  output buffer size =     0.50 MiB
llama_kv_cache:      CUDA0 KV buffer size =   384.00 MiB
sched_reserve:      CUDA0 compute buffer size =   300.00 MiB
sched_reserve:  CUDA_Host compute buffer size =    12.00 MiB
clip_ctx: CLIP using CUDA0 backend
alloc_compute_meta:      CUDA0 compute buffer size =   100.00 MiB
"""


def read(text: str) -> Reported | None:
    reader = ReportReader()
    for line in text.splitlines():
        reader.feed(line)
    return reader.report()


def test_buffers_are_added_up() -> None:
    """Those of a draft model too, but neither trials nor what a context planned before."""
    assert read(FITTED_ON_HOST) == Reported(
        devices={
            "host": DeviceReport(
                model_mib=235 + 12.5 + 1, context_mib=33 + 37.5 + 0.5, compute_mib=4 + 31.75 + 3.25
            )
        },
        n_ctx=11264,
        n_slots=4,
        is_fitted=True,
        n_ctx_wanted=32768,
        vocabulary=262144,
    )


def test_memory_of_gpus_is_told_apart() -> None:
    """Memory of the host that a GPU can read is memory of the host."""
    reported = read(FITTED_ON_GPU)
    assert reported is not None
    assert reported.host == DeviceReport(model_mib=9000, compute_mib=12.5)
    assert reported.gpus == {
        "CUDA0": DeviceReport(model_mib=18000 + 900.5, context_mib=384, compute_mib=300)
    }
    assert (reported.n_gpu_layers, reported.n_layers, reported.n_overflowing) == (49, 49, 12)
    assert (reported.is_fitted, reported.n_ctx_wanted) == (True, None)


def test_a_footprint_has_the_program_as_well() -> None:
    """And the driver of a GPU."""
    reported = read(FITTED_ON_GPU)
    assert reported is not None
    footprint = reported.footprint
    assert footprint.source is Source.REPORTED
    assert footprint.host_mib > 9012
    assert footprint.gpu_mib > 18000 + 900 + 384 + 300
    assert 300 < footprint.per_gpu_mib < 1000


def test_a_model_that_fits_is_not_fitted() -> None:
    """Trials alone change nothing."""
    reported = read("""\
common_init_: fitting params to device memory ...
common_params_fit_impl: will leave 23849 >= 1024 MiB of system memory, no changes needed
common_fit_params: fitting params to free memory took 0.01 seconds
load_tensors:   CPU_Mapped model buffer size =   205.61 MiB
""")
    assert reported is not None
    assert not reported.is_fitted


@pytest.mark.parametrize(
    ("buffer", "device"),
    [
        ("CPU", "host"),
        ("CPU_REPACK", "host"),
        ("Vulkan_Host", "host"),
        ("AMX", "host"),
        ("CUDA1_Split", "CUDA1"),
        ("Metal_Mapped", "Metal"),
        ("RPC0[10.0.0.1:50052]", "RPC0[10.0.0.1:50052]"),
        ("ROCm0", "ROCm0"),
    ],
)
def test_a_buffer_belongs_to_a_device(buffer: str, device: str) -> None:
    """By its name."""
    reported = read(f"load_tensors: {buffer} model buffer size = 5.00 MiB")
    assert reported is not None
    assert list(reported.devices) == [device]


@pytest.mark.parametrize(
    "text", ["", "buffer size", "x compute buffer size = 5.00 MiB", "n_ctx = a"]
)
def test_without_a_model_there_is_no_report(text: str) -> None:
    """Verbosity may be too low, or the program another one."""
    assert read(text) is None
