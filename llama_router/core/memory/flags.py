"""The options of llama-server on which its memory depends, from a command and its variables. Pure.

Source: llama.cpp, common/arg.cpp, of the release that the embedded server has (October 2026).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from ..config.kinds import is_llama_server
from .tensor_types import BY_NAME, F16, TensorType

#: Slots if ``--parallel`` does not say; they share one KV cache then.
AUTOMATIC_PARALLEL: Final = 4

#: All layers, for options that take a number of them.
ALL_LAYERS: Final = 2**31 - 1

#: The module of the embedded server, which takes the same options.
_EMBEDDED: Final = "llama_router.backends.embedded"


@attrs.frozen(kw_only=True)
class ModelFlags:
    """Options that a model and its draft model have each.

    Attributes:
        n_gpu_layers: Layers on GPUs; the output is one more. None for as many as fit.
        n_cpu_moe: The experts of that many layers stay in host memory.
        overrides: Pairs of a regular expression and a buffer type: a tensor with such a name is
            put there. The first that matches counts.
        cache_type_k: Type of the keys in the KV cache.
        cache_type_v: Type of the values in it.
        device: ``--device``; ``none`` for host memory only.
    """

    n_gpu_layers: int | None = None
    n_cpu_moe: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    cache_type_k: TensorType = F16
    cache_type_v: TensorType = F16
    device: str = ""


@attrs.frozen(kw_only=True)
class ServerFlags:
    """The options of a llama-server on which its memory depends; by default llama.cpp's own.

    Attributes:
        model: Those of its model.
        draft: Those of its draft model.
        n_ctx: Tokens of context; 0 for what the model was trained for.
        n_ctx_per_slot: Tokens that a slot may use at most; 0 without a limit.
        n_parallel: Slots; None for llama.cpp's choice.
        kv_unified: Whether all slots share one KV cache; None for llama.cpp's choice.
        n_batch: Tokens that are taken together.
        n_ubatch: Tokens that are computed together.
        flash_attention: Whether it is used; llama.cpp does wherever it can.
        swa_full: Whether layers with a sliding window keep the whole context.
        kv_offload: Whether the KV cache is where its layers are; else in host memory.
        n_cpu_ffn: The feed-forward weights of that many layers stay in host memory.
        repack: Whether weights in host memory may be copied into a form that computes faster.
        mmap: Whether the file is mapped.
        embeddings: Whether it serves embeddings or rerankings only.
        mmproj_offload: Whether a projector is put on a GPU.
        mtp: Whether draft layers in the model itself are loaded.
        fit: Whether llama.cpp reduces context and layers until they fit.
    """

    model: ModelFlags = ModelFlags()
    draft: ModelFlags = ModelFlags()
    n_ctx: int = 0
    n_ctx_per_slot: int = 0
    n_parallel: int | None = None
    kv_unified: bool | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    flash_attention: bool = True
    swa_full: bool = False
    kv_offload: bool = True
    n_cpu_ffn: int = 0
    repack: bool = True
    mmap: bool = True
    embeddings: bool = False
    mmproj_offload: bool = True
    mtp: bool = False
    fit: bool = True

    @property
    def slots(self) -> int:
        """Number of requests that are served at once."""
        return AUTOMATIC_PARALLEL if self.n_parallel is None else self.n_parallel

    @property
    def is_unified(self) -> bool:
        """True if all slots share one KV cache."""
        return self.n_parallel is None if self.kv_unified is None else self.kv_unified


#: Options, one a line: the field that they change, how their value is read, their spellings, and
#: their variable. Without a value are those that are read as ``on``, ``off`` and ``all``.
_TABLE: Final = """\
model.n_gpu_layers layers -ngl --gpu-layers --n-gpu-layers LLAMA_ARG_N_GPU_LAYERS
model.n_cpu_moe all -cmoe --cpu-moe LLAMA_ARG_CPU_MOE
model.n_cpu_moe number -ncmoe --n-cpu-moe LLAMA_ARG_N_CPU_MOE
model.overrides overrides -ot --override-tensor LLAMA_ARG_OVERRIDE_TENSOR
model.cache_type_k type -ctk --cache-type-k LLAMA_ARG_CACHE_TYPE_K
model.cache_type_v type -ctv --cache-type-v LLAMA_ARG_CACHE_TYPE_V
model.device text -dev --device LLAMA_ARG_DEVICE
draft.n_gpu_layers layers --spec-draft-ngl -ngld --gpu-layers-draft --n-gpu-layers-draft \
LLAMA_ARG_N_GPU_LAYERS_DRAFT
draft.n_cpu_moe all --spec-draft-cpu-moe -cmoed --cpu-moe-draft LLAMA_ARG_SPEC_DRAFT_CPU_MOE
draft.n_cpu_moe number --spec-draft-n-cpu-moe --spec-draft-ncmoe -ncmoed --n-cpu-moe-draft \
LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE
draft.overrides overrides --spec-draft-override-tensor -otd --override-tensor-draft
draft.cache_type_k type --spec-draft-type-k -ctkd --cache-type-k-draft \
LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K
draft.cache_type_v type --spec-draft-type-v -ctvd --cache-type-v-draft \
LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V
draft.device text --spec-draft-device -devd --device-draft
n_ctx number -c --ctx-size LLAMA_ARG_CTX_SIZE
n_ctx_per_slot number --kv-unified-per-slot LLAMA_ARG_KV_UNIFIED_PER_SLOT
n_parallel slots -np --parallel LLAMA_ARG_N_PARALLEL
kv_unified on -kvu --kv-unified LLAMA_ARG_KV_UNIFIED
kv_unified off -no-kvu --no-kv-unified LLAMA_ARG_NO_KV_UNIFIED
n_batch number -b --batch-size LLAMA_ARG_BATCH
n_ubatch number -ub --ubatch-size LLAMA_ARG_UBATCH
flash_attention switch -fa --flash-attn LLAMA_ARG_FLASH_ATTN
swa_full on --swa-full LLAMA_ARG_SWA_FULL
kv_offload on -kvo --kv-offload LLAMA_ARG_KV_OFFLOAD
kv_offload off -nkvo --no-kv-offload LLAMA_ARG_NO_KV_OFFLOAD
n_cpu_ffn number -ncffn --n-cpu-ffn LLAMA_ARG_N_CPU_FFN
repack on --repack LLAMA_ARG_REPACK
repack off -nr --no-repack LLAMA_ARG_NO_REPACK
mmap mode -lm --load-mode LLAMA_ARG_LOAD_MODE
mmap on --mmap LLAMA_ARG_MMAP
mmap off --no-mmap LLAMA_ARG_NO_MMAP
embeddings on --embedding --embeddings LLAMA_ARG_EMBEDDINGS
embeddings on --rerank --reranking LLAMA_ARG_RERANKING
mmproj_offload on --mmproj-offload LLAMA_ARG_MMPROJ_OFFLOAD
mmproj_offload off --no-mmproj-offload LLAMA_ARG_NO_MMPROJ_OFFLOAD
mtp mtp --spec-type LLAMA_ARG_SPEC_TYPE
fit switch -fit --fit LLAMA_ARG_FIT
"""

#: How the options are read that take no value.
_BARE: Final = frozenset(("all", "off", "on"))

_TRUE: Final = frozenset(("1", "enabled", "on", "true"))
_FALSE: Final = frozenset(("0", "disabled", "false", "off"))


@attrs.frozen
class _Option:
    """An option: the field that it changes, and how its value is read."""

    field: str
    kind: str


def _options() -> dict[str, _Option]:
    """Return the options by spelling and by variable."""
    found: dict[str, _Option] = {}
    for line in _TABLE.splitlines():
        field, kind, *names = line.split()
        found |= dict.fromkeys(names, _Option(field, kind))
    return found


_OPTIONS: Final = _options()


def read_flags(argv: Sequence[str], env: Mapping[str, str] | None = None) -> ServerFlags:
    """Return what *argv* and *env* say; an option of a command goes before its variable.

    Values that cannot be right are left out: the program itself reports them.

    Args:
        argv: A command line; words before the name of llama-server's program are left out.
        env: The environment of the program. Only ``LLAMA_ARG_*`` counts.
    """
    found: dict[str, Any] = {}
    for name, text in (env or {}).items():
        if name.startswith("LLAMA_ARG_") and (option := _OPTIONS.get(name)):
            _set(found, option, _of_variable(name, option, text))
    in_command: dict[str, Any] = {}
    words = iter(_own_words(argv))
    for word in words:
        # llama.cpp takes --ctx_size as well.
        name = word.replace("_", "-") if word.startswith("--") else word
        if option := _OPTIONS.get(name):
            _set(in_command, option, "1" if option.kind in _BARE else next(words, ""))
    found |= in_command
    model = {name.removeprefix("model."): found[name] for name in found if name[:6] == "model."}
    draft = {name.removeprefix("draft."): found[name] for name in found if name[:6] == "draft."}
    draft.setdefault("device", model.get("device", ""))
    own = {name: value for name, value in found.items() if "." not in name}
    return ServerFlags(model=ModelFlags(**model), draft=ModelFlags(**draft), **own)


def option_names(words: Iterable[str]) -> Iterator[str]:
    """Return the options in *words* without their values, as llama.cpp's help spells them.

    It takes ``--ctx_size`` as well.
    """
    for word in words:
        if word.startswith("-"):
            name = word.partition("=")[0]
            yield name.replace("_", "-") if name.startswith("--") else name


def _own_words(argv: Sequence[str]) -> Sequence[str]:
    """Return the words behind llama-server's program; all of them, if another program runs it."""
    for index, word in enumerate(argv):
        if is_llama_server(word) or word == _EMBEDDED:
            return argv[index + 1 :]
    return argv[1:]


def _of_variable(name: str, option: _Option, text: str) -> str:
    """Return the value of a variable as that of its option; empty if it changes nothing."""
    if option.kind not in _BARE:
        return text
    if name.startswith("LLAMA_ARG_NO_"):
        return "1"  # whatever its value
    return "1" if text in _TRUE else "0" if text in _FALSE else ""


def _set(found: dict[str, Any], option: _Option, text: str) -> None:
    """Change *found* as *option* with the value *text* does; a wrong value changes nothing."""
    try:
        value = _READERS[option.kind](text)
    except ValueError:
        return
    if option.kind == "overrides":
        value = found.get(option.field, ()) + value
    found[option.field] = value


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number <= ALL_LAYERS:
        raise ValueError
    return number


def _slots(text: str) -> int | None:
    return int(text) if int(text) > 0 else None


def _layers(text: str) -> int | None:
    if text in ("all", "-2"):
        return ALL_LAYERS
    return None if text in ("auto", "-1") else _number(text)


def _truth(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _type(text: str) -> TensorType:
    if text not in BY_NAME:
        raise ValueError
    return BY_NAME[text]


def _overrides(text: str) -> tuple[tuple[str, str], ...]:
    pairs = (pair.rpartition("=") for pair in text.split(","))
    return tuple((pattern, buffer) for pattern, _, buffer in pairs if pattern)


#: Functions by kind of option: they return the value that a text stands for.
_READERS: Final[Mapping[str, Callable[[str], Any]]] = {
    "all": lambda text: ALL_LAYERS if _truth(text) else 0,
    "layers": _layers,
    "mode": lambda text: text in ("auto", "mmap", "mmap+mlock"),
    "mtp": lambda text: "draft-mtp" in text.split(","),
    "number": _number,
    "off": lambda text: not _truth(text),
    "on": _truth,
    "overrides": _overrides,
    "slots": _slots,
    "switch": _truth,
    "text": str,
    "type": _type,
}
