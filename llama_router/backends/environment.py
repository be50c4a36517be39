"""The program of a backend, and the environment variables that it inherits."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

from ..errors.backends import SpawnError
from ..errors.causes import Cause

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


#: Why there is no llama-server, with every remedy; a sentence goes on with it.
NO_LLAMA_SERVER: Final = (
    "there is no program 'llama-server' on PATH or beside llama-router, and the embedded server "
    "(package xllamacpp) is not installed; install llama.cpp, or install llama-router[embedded]"
)


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

    Raises:
        SpawnError: if neither llama-server nor the embedded backend is installed.
    """
    name = argv[0]
    if name != LLAMA_SERVER:
        return Program(argv, Path(name).name == LLAMA_SERVER)
    program = find_llama_server(path=path)
    if program is None:
        error = SpawnError(f"cannot start a backend: {NO_LLAMA_SERVER}")
        error.cause = Cause.COMMAND_MISSING
        raise error
    return Program((*program, *argv[1:]), speaks_child_protocol=True)


def find_llama_server(*, path: str | None = None) -> tuple[str, ...] | None:
    """Return the words that run llama-server or the embedded backend; None if both are missing.

    Args:
        path: A PATH to search instead of the router's own.
    """
    beside = os.pathsep.join(
        dict.fromkeys((str(Path(sys.argv[0]).parent), str(Path(sys.executable).parent)))
    )
    found = shutil.which(LLAMA_SERVER, path=beside) or shutil.which(LLAMA_SERVER, path=path)
    if found:
        return (found,)
    if find_spec("xllamacpp") is None:
        return None
    # -P: a module in the working directory must not take the place of an installed one.
    return (sys.executable, "-P", "-m", "llama_router.backends.embedded")
