"""The program of a backend, and the environment variables that it inherits."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import attrs

from ..core.config.kinds import LLAMA_SERVER, is_llama_server
from ..errors.backends import SpawnError
from ..errors.causes import Cause

#: Variables that a backend inherits; this module alone decides it. All others are withheld: the
#: router's secrets, and settings such as LLAMA_ARG_* that would change a backend without a line
#: in router.toml. ``env`` in router.toml adds others.
ALLOWED: Final = frozenset(
    (
        "CONDA_PREFIX",
        "CONTAINER_HOST",
        "CURL_CA_BUNDLE",
        "DBUS_SESSION_BUS_ADDRESS",
        "DISPLAY",
        "DRI_PRIME",
        "HOME",
        "LANG",
        "LANGUAGE",
        "LD_LIBRARY_PATH",
        "LIBRARY_PATH",
        "LLAMA_CACHE",
        "LOGNAME",
        "NIX_SSL_CERT_FILE",
        "OCL_ICD_FILENAMES",
        "OCL_ICD_VENDORS",
        "PATH",
        "PYTHONIOENCODING",
        "PYTHONPATH",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
        "REGISTRY_AUTH_FILE",
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
    )
)

#: The same by prefix.
ALLOWED_PREFIXES: Final = (
    # Locales and folders.
    "LC_",
    "XDG_",
    # NVIDIA.
    "CUBLAS",
    "CUDA",
    "CUDNN_",
    "NCCL_",
    "NVIDIA_",
    "__GLX_VENDOR_LIBRARY_NAME",
    "__NV_PRIME_",
    # AMD.
    "AMD_",
    "GPU_",
    "HIPBLAS",
    "HIP_",
    "HSA_",
    "MIOPEN_",
    "RADV_",
    "RCCL_",
    "ROCBLAS_",
    "ROCM_",
    "ROCR_",
    # Intel.
    "DNNL_",
    "NEO",
    "ONEAPI_",
    "ONEDNN_",
    "SYCL_",
    "UR_",
    "ZES_",
    "ZE_",
    # Others: Moore Threads, Huawei, Vulkan and OpenCL on any card.
    "ASCEND_",
    "HCCL_",
    "MESA_",
    "MTHREADS_",
    "MUSA_",
    "OPENCL_",
    "POCL_",
    "VK_",
    "VULKAN_",
    # Threads and mathematics on the CPU.
    "BLIS_",
    "GGML_",
    "GOMP_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NUMBA_",
    "OMP_",
    "OPENBLAS_",
    # Model libraries.
    "DIFFUSERS_",
    "FLASHINFER_",
    "HF_",
    "HUGGINGFACE_",
    "PYTORCH_",
    "RAY_",
    "SAFETENSORS_",
    "SGLANG_",
    "TIKTOKEN_",
    "TOKENIZERS_",
    "TORCH",
    "TRANSFORMERS_",
    "TRITON_",
    "UCX_",
    "VLLM_",
    # Containers.
    "CONTAINERS_",
    "CONTAINERD_",
    "DOCKER_",
    "PODMAN_",
)

#: The same by suffix, in any case: proxies, and certificates of every HTTP library.
ALLOWED_SUFFIXES: Final = ("_proxy", "_ca_bundle")

# Names that change what a model server does, whichever it is.
_WANTED_PREFIXES: Final = ("LLAMA_", "LD_")
_WANTED_SUFFIXES: Final = (
    "_VISIBLE_DEVICES",
    "_DEVICES",
    "_NUM_THREADS",
    "_LIBRARY_PATH",
    "_CACHE",
    "_CACHE_DIR",
)

# Variables of the router that look the same.
_OF_ROUTER_PREFIXES: Final = ("LLAMA_ROUTER_", "LLAMA_SERVER_ROUTER_")

_WORD: Final = re.compile(r"[A-Za-z0-9]+")


#: Why there is no llama-server, with every remedy; a sentence goes on with it.
NO_LLAMA_SERVER: Final = (
    "there is no program 'llama-server' on PATH or beside llama-router, and the embedded server "
    "(package xllamacpp) is not installed; install llama.cpp (llama_server of [router] names its "
    "program if it is elsewhere), or install llama-router[embedded]"
)


#: The module that is the embedded server.
EMBEDDED: Final = "llama_router.backends.embedded"


@attrs.frozen
class Program:
    """A command line, ready to run.

    Attributes:
        argv: The command line, with the path of the program.
        speaks_child_protocol: Whether it reports the progress of its load.
    """

    argv: tuple[str, ...]
    speaks_child_protocol: bool

    @property
    def is_embedded(self) -> bool:
        """True if it is the embedded server, which computes on the processor only."""
        return EMBEDDED in self.argv


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of *environ* that a backend inherits."""
    return {name: value for name, value in environ.items() if _is_inherited(name)}


def withheld(
    environ: Mapping[str, str], *, program: str, env: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the names of *environ* that *program* does not get though it may need them, sorted.

    Args:
        environ: The router's own environment.
        program: The program of the backend; a name that begins with its name may be its own.
        env: The names that the configuration sets.
    """
    words = _WORD.findall(Path(program).name)
    prefixes = (*_WANTED_PREFIXES, *(f"{word.upper()}_" for word in words[:1]))
    return tuple(
        sorted(
            name
            for name in environ
            if name not in env
            and not _is_inherited(name)
            and not name.startswith(_OF_ROUTER_PREFIXES)
            and (name.startswith(prefixes) or name.endswith(_WANTED_SUFFIXES))
        )
    )


def _is_inherited(name: str) -> bool:
    return (
        name in ALLOWED
        or name.startswith(ALLOWED_PREFIXES)
        or name.lower().endswith(ALLOWED_SUFFIXES)
    )


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
        return Program(argv, is_llama_server(name))
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
    return (sys.executable, "-P", "-m", EMBEDDED)


def embedded_version() -> str | None:
    """Return the version of the embedded server's package; None if it is not installed."""
    # It imports email and zipfile, which most routers never need.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- see above

    try:
        return version("xllamacpp")
    except PackageNotFoundError:
        return None
