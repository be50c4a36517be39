"""llama.cpp's fitting: what it chose for a model, read from its output, and said as options. Pure.

With ``--fit`` (its default) llama.cpp measures a model before it loads it, and reduces what the
command leaves open: the context, then the layers on GPUs. At a log verbosity of 4 it says what it
does. Source: llama.cpp, common/fit.cpp, at 08033df.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import attrs
from msgspec import Meta

from ..config.kinds import is_llama_server
from ..config.specs import DEFAULT_SPAWN, ModelSpec
from .flags import option_names
from .footprint import Footprint

#: The variable with which llama.cpp is asked to say what its fitting does, and the value. An
#: option in the command goes before it.
VERBOSITY: Final = ("LLAMA_ARG_LOG_VERBOSITY", "4")

#: The variable that says how much memory the fitting leaves free, and the options, in MiB.
TARGET: Final = "LLAMA_ARG_FIT_TARGET"
_TARGET_OPTIONS: Final = frozenset(("-fitt", "--fit-target"))

#: What it leaves without any of them.
_TARGET_MIB: Final = 1024

#: A context that is smaller by less than this part counts as the same.
_SAME_CONTEXT: Final = 0.9

#: Free memory that differs by less counts as the same: as a part of it, and in MiB.
_SAME_FREE: Final = 0.02
_SAME_FREE_MIB: Final = 256

_Count = Annotated[int, Meta(ge=0)]


@attrs.frozen(kw_only=True)
class Fit:
    """What the fitting chose, and the memory that it found.

    Attributes:
        n_ctx: The context, of all slots together, in tokens.
        n_ctx_full: The context with enough memory, in tokens.
        n_gpu_layers: Layers on GPUs; None for all of them.
        n_layers: All layers, the output included; None without a GPU.
        tensor_split: Layers on each GPU; empty if that was left to llama.cpp's default.
        is_exact: False if parts of layers were moved: no option says that in short.
        gpus: Number of GPUs; 0 for host memory.
        need_mib: What the model takes without any reduction.
        free_mib: The memory that it could have: all of host memory, or what was free on GPUs.
        total_mib: All memory of these devices.
        margin_mib: What was to be left free of it.
        visible: The setting of the devices that it could see.
        took_s: How long the fitting took, in seconds.
    """

    n_ctx: _Count
    n_ctx_full: _Count
    n_gpu_layers: _Count | None = None
    n_layers: _Count | None = None
    tensor_split: tuple[_Count, ...] = ()
    is_exact: bool = True
    gpus: _Count = 0
    need_mib: _Count = 0
    free_mib: _Count = 0
    total_mib: _Count = 0
    margin_mib: _Count = 0
    visible: str = ""
    took_s: Annotated[float, Meta(ge=0)] = 0.0

    @property
    def is_reduced(self) -> bool:
        """True if the model has less than with enough memory."""
        return self.n_ctx < self.n_ctx_full or self.n_gpu_layers is not None

    @property
    def width(self) -> tuple[float, int]:
        """What two choices for one launch are compared by: layers on GPUs, then the context."""
        return (math.inf if self.n_gpu_layers is None else self.n_gpu_layers, self.n_ctx)

    def describe(self) -> str:
        """Return it in words: ``context 6144 of 32768, 20 of 33 layers on the GPU``."""
        full = f" of {self.n_ctx_full}" if self.n_ctx < self.n_ctx_full else ""
        words = [f"context {self.n_ctx}{full}"]
        if self.n_layers is not None and self.gpus:
            on = self.n_layers if self.n_gpu_layers is None else self.n_gpu_layers
            words.append(f"{on} of {self.n_layers} layers on the GPU")
        return ", ".join(words)


@attrs.frozen(kw_only=True)
class FreeMemory:
    """The memory that a start finds.

    Attributes:
        host_mib: All host memory.
        gpus_mib: What is free on each GPU; None if that is not known.
        visible: As in `Fit`.
        host_target_mib: What the fitting is to leave free of host memory; None if it is the same
            as ever.
    """

    host_mib: int
    gpus_mib: tuple[int, ...] | None = None
    visible: str = ""
    host_target_mib: int | None = None


def would_repeat(fit: Fit, memory: FreeMemory) -> bool:
    """Return whether the fitting would choose the same again, so that it can be skipped."""
    if not fit.is_exact or fit.visible != memory.visible:
        return False
    if not fit.gpus:
        # What it is to leave free may have changed: it then has so much more or less.
        target_mib = memory.host_target_mib
        free_mib = memory.host_mib - (0 if target_mib is None else target_mib - fit.margin_mib)
    elif memory.gpus_mib is None or len(memory.gpus_mib) < fit.gpus:
        return False
    elif fit.gpus == 1:
        free_mib = min(memory.gpus_mib)  # which of them it is, is not known
    elif len(memory.gpus_mib) > fit.gpus:
        return False
    else:
        free_mib = sum(memory.gpus_mib)
    if fit.gpus <= 1 and not fit.is_reduced:
        return free_mib >= fit.need_mib + fit.margin_mib
    # Of several GPUs each must have room, and a reduced model must get what has become free.
    return abs(free_mib - fit.free_mib) <= max(_SAME_FREE_MIB, _SAME_FREE * fit.free_mib)


def host_target_mib(spec: ModelSpec) -> int | None:
    """Return what the fitting of *spec* leaves free of host memory; None if its options say it."""
    words, _, _ = spec.spawn.env.get(TARGET, str(_TARGET_MIB)).partition(",")
    says = bool(_own_options(spec) & _TARGET_OPTIONS) or not words.isdecimal()
    return None if says else int(words)


def within_host(
    spec: ModelSpec, footprint: Footprint, host_mib: int, total_mib: int
) -> dict[str, str]:
    """Return the variables with which llama.cpp fits a model into its share of host memory.

    By itself it compares with all memory of the machine, of which others have a part, and which
    a control group may limit. Empty if the share is enough for the whole model, or if llama.cpp
    does not fit it, or is told otherwise.

    Args:
        spec: Its settings.
        footprint: What it takes in full.
        host_mib: Its share.
        total_mib: All memory of the machine.
    """
    full_mib = footprint.host_mib + footprint.gpu_mib
    if not footprint.shrinks or host_mib >= full_mib or not is_fitted(spec):
        return {}
    if _own_options(spec) & {*_TARGET_OPTIONS, *_CONTEXT, TARGET}:
        return {}
    return {TARGET: str(max(0, total_mib - host_mib + footprint.uncounted_mib))}


def is_squeezed(fit: Fit, widest: Fit | None) -> bool:
    """Return whether a model has less because something else held memory.

    Either an earlier load of the same launch had more, or its GPUs would have had room if they
    had been empty.
    """
    if not fit.is_reduced:
        return False
    if widest is not None:
        layers, n_ctx = fit.width
        most_layers, most_ctx = widest.width
        if layers < most_layers or n_ctx < _SAME_CONTEXT * most_ctx:
            return True
    wanted_mib = fit.need_mib + fit.margin_mib * max(1, fit.gpus)
    return bool(fit.gpus) and wanted_mib <= fit.total_mib


def unsqueezed_mib(fit: Fit, widest: Fit | None) -> int:
    """Return the free memory with which a squeezed model would have as much as it ever had.

    That is what it takes in full, or what was free when it had the most, if that is less.
    """
    wanted_mib = fit.need_mib + fit.margin_mib * max(1, fit.gpus)
    if widest is not None and widest.is_reduced and widest.free_mib > fit.free_mib:
        return min(wanted_mib, widest.free_mib)
    return wanted_mib


def options_of(fit: Fit, spec: ModelSpec) -> tuple[str, ...]:
    """Return the options that say *fit*, without those that the command of *spec* has."""
    own = _own_options(spec)
    options: list[str] = []
    if not own & _CONTEXT:
        options += ["--ctx-size", str(fit.n_ctx)]
    if fit.n_gpu_layers is not None and not own & _LAYERS:
        options += ["--n-gpu-layers", str(fit.n_gpu_layers)]
    if fit.tensor_split and not own & _SPLIT:
        options += ["--tensor-split", ",".join(map(str, fit.tensor_split))]
    return (*options, "--fit", "off")


def is_fitted(spec: ModelSpec) -> bool:
    """Return whether the choice of the fitting may be passed to *spec*'s backend as options.

    That is so for the default command only: what a user writes is what runs.
    """
    program, *words = spec.spawn.command
    return (
        is_llama_server(program)
        and tuple(words) == DEFAULT_SPAWN.command[1:]
        and not _own_options(spec) & _PREVENTING
    )


_CONTEXT: Final = frozenset(("-c", "--ctx-size", "LLAMA_ARG_CTX_SIZE"))
_LAYERS: Final = frozenset(("-ngl", "--gpu-layers", "--n-gpu-layers", "LLAMA_ARG_N_GPU_LAYERS"))
_SPLIT: Final = frozenset(("-ts", "--tensor-split", "LLAMA_ARG_TENSOR_SPLIT"))

#: Options about the fitting itself; and one that means something else beside ``--ctx-size``.
_PREVENTING: Final = frozenset(
    (
        *("-fit", "--fit", "LLAMA_ARG_FIT"),
        *("--kv-unified-per-slot", "LLAMA_ARG_KV_UNIFIED_PER_SLOT"),
    )
)


def says_verbosity(argv: Sequence[str], env: Mapping[str, str]) -> bool:
    """Return whether a command or its environment chooses the verbosity of llama.cpp's log."""
    return VERBOSITY[0] in env or not _VERBOSITY_OPTIONS.isdisjoint(option_names(argv))


_VERBOSITY_OPTIONS: Final = frozenset(
    (
        *("-lv", "--verbosity", "--log-verbosity"),
        *("-v", "--verbose", "--log-verbose", "--log-disable"),
    )
)


def _own_options(spec: ModelSpec) -> frozenset[str]:
    """Return the options and variables that the user gave the backend of *spec*."""
    return frozenset((*option_names(spec.spawn.args), *spec.spawn.env))


# Every line of interest has one of these; most lines of a load have none.
_MARKS: Final = re.compile(r"_fit_|llama_context: n_ctx |offloaded|memory_breakdown_print")

_FIT_LINE: Final = re.compile(r"(?:common|llama)_params_fit_impl: (.*)")
_PROJECTED: Final = re.compile(r"projected to use (\d+) MiB of (host|device) memory vs\. (\d+) MiB")
_MARGIN: Final = re.compile(
    r"will leave -?\d+ >= (\d+) MiB|cannot meet free memory target of (\d+) MiB"
)
_DEVICE: Final = re.compile(
    r" +- (.+?) *: +(\d+) total, +(\d+) used, +-?\d+ free vs\. target of +(\d+)"
)
_REDUCED: Final = re.compile(r"context size reduced from (\d+) to (\d+)")
_FILLED: Final = re.compile(r" +- (.+?) *: +(\d+) layers(?: \( *(\d+) overflowing\))?,")
_TOOK: Final = re.compile(r"_fit_params: fitting params to free memory took ([0-9.]+) seconds")
_TOTAL: Final = re.compile(r"memory_breakdown_print: \| +- (.+?) +\| +(\d+) = ")
_CONTEXT_SIZE: Final = re.compile(r"llama_context: n_ctx += (\d+)$")
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")


class FitReader:
    """Reads what llama.cpp's fitting chose, line by line."""

    def __init__(self) -> None:
        self._is_successful = False
        self._need_mib: int | None = None
        self._free_mib = 0
        self._margins_mib: list[int] = []
        self._totals_mib: dict[str, int] = {}
        self._devices: list[str] = []
        self._uses_gpus = False
        self._n_ctx_full: int | None = None
        self._n_ctx: int | None = None
        self._n_layers: int | None = None
        self._layers: dict[str, int] = {}
        self._is_moe = False
        self._parts: dict[str, int] = {}
        self._took_s = 0.0

    def read(self, line: str) -> None:
        """Read one line of output; most say nothing about the fitting."""
        if not _MARKS.search(line):
            return
        if (found := _FIT_LINE.search(line)) is not None:
            self._read_fitting(found[1])
        elif "_fit_params: successfully fit" in line:
            self._is_successful = True
        elif (found := _TOOK.search(line)) is not None:
            self._took_s = float(found[1])
        elif self._n_ctx is None and (found := _CONTEXT_SIZE.search(line)) is not None:
            self._n_ctx = int(found[1])
        elif self._n_layers is None and (found := _OFFLOADED.search(line)) is not None:
            self._n_layers = int(found[2])
        elif (found := _TOTAL.search(line)) is not None:
            self._totals_mib.setdefault(found[1], int(found[2]))

    def _read_fitting(self, text: str) -> None:
        if (found := _PROJECTED.search(text)) is not None:
            self._need_mib, self._free_mib = int(found[1]), int(found[3])
            self._uses_gpus = found[2] == "device"
        elif (found := _MARGIN.search(text)) is not None:
            self._margins_mib = [int(found[1] or found[2])]
        elif (found := _DEVICE.match(text)) is not None:
            self._devices.append(found[1])
            self._margins_mib.append(int(found[4]))
        elif (found := _REDUCED.search(text)) is not None:
            self._n_ctx_full = int(found[1])
        elif (found := _FILLED.match(text)) is not None:
            self._layers[found[1]] = int(found[2])
            if found[3] is not None:
                self._parts[found[1]] = int(found[3])
        elif "filling dense-only layers" in text:
            self._is_moe = True

    def fit(self, *, visible: str = "") -> Fit | None:
        """Return the choice; None if there was no fitting, or it failed.

        Args:
            visible: As in `Fit`.
        """
        if not self._is_successful or self._need_mib is None or self._n_ctx is None:
            return None
        order = self._devices or list(self._layers)
        split = tuple(self._layers.get(device, 0) for device in order) if self._layers else ()
        gpus = max(1, len(self._devices)) if self._uses_gpus else 0
        moved = sum(split) < self._n_layers if split and self._n_layers else bool(split)
        is_exact = not self._is_moe or (bool(self._parts) and not any(self._parts.values()))
        return Fit(
            n_ctx=self._n_ctx,
            n_ctx_full=max(self._n_ctx, self._n_ctx_full or 0),
            n_gpu_layers=sum(split) if moved else None,
            n_layers=self._n_layers,
            tensor_split=split if len(split) > 1 else (),
            is_exact=is_exact,
            gpus=gpus,
            need_mib=self._need_mib,
            free_mib=self._free_mib,
            total_mib=sum(self._totals_mib.values()) if gpus else self._free_mib,
            margin_mib=max(self._margins_mib, default=0),
            visible=visible,
            took_s=self._took_s,
        )
