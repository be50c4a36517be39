"""The program of a backend, and the environment variables that it inherits."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

#: Variables that a backend inherits. All others are withheld: the router's secrets, and
#: settings such as LLAMA_ARG_* that would change a backend without a line in router.toml.
#: ``env`` in router.toml adds others.
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

#: The usual name of llama.cpp's server; the embedded backend replaces it if it is missing.
LLAMA_SERVER: Final = "llama-server"


@attrs.frozen
class Program:
    """A command line, ready to run.

    Attributes:
        argv: The command line, with the path of the program.
        speaks_child_protocol: Whether it reports the progress of its load.
    """

    argv: tuple[str, ...]
    speaks_child_protocol: bool


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of *environ* that a backend inherits."""
    return {
        name: value
        for name, value in environ.items()
        if name in ALLOWED or name.startswith(ALLOWED_PREFIXES)
    }


def find_program(argv: tuple[str, ...], *, path: str | None = None) -> Program:
    """Return *argv* with the program found.

    ``llama-server`` is searched beside the running program, then on PATH; if it is missing,
    the embedded backend replaces it. Other names are left to PATH.

    Args:
        argv: Command line with all placeholders replaced.
        path: A PATH to search instead of the router's own.
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
