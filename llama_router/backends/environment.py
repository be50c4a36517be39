"""What a backend inherits: the program that serves it, and the variables it may see."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

#: Variables that a child may see. Anything else stays with the router: its own
#: secrets, and settings such as LLAMA_ARG_* that would change a backend behind the
#: back of router.toml. ``env`` in router.toml adds whatever else is needed.
ALLOWED: Final = frozenset(
    (
        "CONDA_PREFIX",
        "DISPLAY",
        "DOCKER_HOST",
        "HOME",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LIBRARY_PATH",
        "LOGNAME",
        "NO_PROXY",
        "PATH",
        "PYTHONPATH",
        "SHELL",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TEMP",
        "TERM",
        "TMP",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    )
)

#: The same by prefix: locales, accelerators and their libraries, model caches.
ALLOWED_PREFIXES: Final = (
    "LC_",
    "XDG_",
    "CUDA",
    "NVIDIA_",
    "NCCL_",
    "HIP_",
    "HSA_",
    "ROCM_",
    "ROCR_",
    "GPU_",
    "AMD_",
    "ONEAPI_",
    "SYCL_",
    "ZE_",
    "GGML_",
    "VK_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "HF_",
    "HUGGINGFACE_",
    "TRANSFORMERS_",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
    "VLLM_",
    "SGLANG_",
)

#: llama.cpp's server by its usual name; the only program with a stand-in.
LLAMA_SERVER: Final = "llama-server"


@attrs.frozen
class Program:
    """A command line, ready to run.

    Attributes:
        argv: With the program found.
        speaks_child_protocol: Whether it announces how far its load is.
    """

    argv: tuple[str, ...]
    speaks_child_protocol: bool


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of *environ* that a backend may see."""
    return {
        name: value
        for name, value in environ.items()
        if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }


def find_program(argv: tuple[str, ...], *, path: str | None = None) -> Program:
    """Find the program that *argv* names.

    ``llama-server`` is looked for beside the running program, then on PATH; else
    the embedded backend serves in its place. Other names are left to PATH.

    Args:
        argv: Command line with all placeholders replaced.
        path: Where to look instead of the router's own PATH.
    """
    name = argv[0]
    if name != LLAMA_SERVER:
        return Program(argv, Path(name).name == LLAMA_SERVER)
    beside = os.pathsep.join(
        dict.fromkeys((str(Path(sys.argv[0]).parent), str(Path(sys.executable).parent)))
    )
    found = shutil.which(name, path=beside) or shutil.which(name, path=path)
    if found:
        return Program((found, *argv[1:]), speaks_child_protocol=True)
    # -P: a module in the working directory must not take the place of an installed one.
    embedded = (sys.executable, "-P", "-m", "llama_router.backends.embedded")
    return Program((*embedded, *argv[1:]), speaks_child_protocol=True)
