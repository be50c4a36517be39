"""The footprint of a whole llama-server: what llama.cpp counts, its program, and drivers. Pure."""

from __future__ import annotations

import math
from typing import Final

from .footprint import Footprint, Source

#: A process without a model: its program, its libraries, its threads. Measured: 20 MiB.
_PROGRAM_MIB: Final = 48

#: Each token of the vocabulary, in tables of the tokenizer. Measured: 250 bytes.
_TOKEN_MIB: Final = 320 / 2**20

#: The context and the kernels of a driver: on each GPU, and in host memory. CUDA takes 200 to
#: 500 MiB on a GPU.
_GPU_MIB: Final = 400
_GPU_HOST_MIB: Final = 200


def process_footprint(
    source: Source,
    *,
    host_mib: float,
    gpu_mib: float,
    gpu_compute_mib: float,
    vocabulary: int = 0,
) -> Footprint:
    """Return what a llama-server takes altogether.

    Args:
        source: How the figures are known.
        host_mib: What llama.cpp counts in host memory.
        gpu_mib: The same on all GPUs together.
        gpu_compute_mib: The part of it that each GPU of a split needs.
        vocabulary: Tokens that its model knows.
    """
    host_mib += _PROGRAM_MIB + vocabulary * _TOKEN_MIB
    if gpu_mib <= 0:
        return Footprint(source=source, host_mib=math.ceil(host_mib))
    return Footprint(
        source=source,
        host_mib=math.ceil(host_mib + _GPU_HOST_MIB),
        gpu_mib=math.ceil(gpu_mib + _GPU_MIB),
        per_gpu_mib=math.ceil(gpu_compute_mib + _GPU_MIB),
    )
