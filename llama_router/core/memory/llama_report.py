"""The memory that llama.cpp itself says it took, from the output of llama-server. Pure.

It says so while it loads, if its verbosity is 4 or more (``LLAMA_ARG_LOG_VERBOSITY``).

Source: llama.cpp, src/llama-model.cpp, src/llama-context.cpp, src/llama-kv-cache.cpp,
common/fit.cpp and tools/server/server-context.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs

from .footprint import Footprint, Source
from .process_footprint import process_footprint

#: The name of host memory in a report.
HOST: Final = "host"

# Every line of interest has one of these.
_MARKS: Final = re.compile(
    r"buffer size|llama_context: |fit|offloaded|reduced|overflowing|mmproj|CLIP using|n_vocab"
    r"|filling"
)

_BUFFER: Final = re.compile(
    r"(?P<buffer>\S+) +(?P<kind>model|KV|RS|compute|output) buffer size *= *(?P<mib>[\d.]+) MiB"
)
_NEW_CONTEXT: Final = "constructing llama_context"
_NUMBER: Final = re.compile(r"\b(n_ctx|n_seq_max|n_vocab) += (\d+)")
_OFFLOADED: Final = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")

_FITTING_BEGAN: Final = "fitting params to device memory"
_FITTING_ENDED: Final = "fitting params to free memory took"
_REDUCED: Final = re.compile(r"context size reduced from (\d+) to \d+")
_FILLING: Final = "filling dense"
_OVERFLOWING: Final = re.compile(
    r" - (?P<device>\S+) .*: +\d+ layers \( *(?P<count>\d+) overflowing\)"
)

#: A projector's weights and what encoding needs; its own lines about buffers say a part of that.
_PROJECTOR: Final = re.compile(r"memory usage of mmproj is ([\d.]+) MiB")
_PROJECTOR_DEVICE: Final = re.compile(r"CLIP using (\S+) backend")
_OF_PROJECTOR: Final = "compute_meta"

# Buffers in host memory, and endings that say how a buffer of a device came to be. Source: ggml,
# the names of buffer types.
_HOST_BUFFER: Final = re.compile(r"CPU.*|.*_Host|AMX|BLAS")
_SUFFIX: Final = re.compile(r"_(?:Mapped|Private|Split)$")


@attrs.frozen(kw_only=True)
class DeviceReport:
    """What llama.cpp took of one device, in MiB.

    Attributes:
        model_mib: Weights; those of a draft model and a projector included.
        context_mib: The KV cache, and the states of recurrent layers.
        compute_mib: Compute buffers.
    """

    model_mib: float = 0
    context_mib: float = 0
    compute_mib: float = 0

    @property
    def total_mib(self) -> float:
        """Everything together."""
        return self.model_mib + self.context_mib + self.compute_mib


@attrs.frozen(kw_only=True)
class Reported:
    """What llama.cpp took, and what fitting chose.

    Attributes:
        devices: By device; `HOST` is host memory, the others have llama.cpp's names (``CUDA0``).
        n_ctx: Tokens of context of all slots together.
        n_slots: Requests that are served at once.
        n_gpu_layers: Layers on GPUs, the output included; None without a GPU.
        n_layers: All layers, the output included; None without a GPU.
        n_overflowing: Layers on GPUs of which a part is in host memory, chosen by fitting.
        is_fitted: Whether fitting changed anything.
        n_ctx_wanted: The context before fitting reduced it; None if it did not.
        vocabulary: Tokens that the model knows.
    """

    devices: Mapping[str, DeviceReport]
    n_ctx: int
    n_slots: int = 1
    n_gpu_layers: int | None = None
    n_layers: int | None = None
    n_overflowing: int = 0
    is_fitted: bool = False
    n_ctx_wanted: int | None = None
    vocabulary: int = 0

    @property
    def host(self) -> DeviceReport:
        """Return what was taken of host memory."""
        return self.devices.get(HOST, DeviceReport())

    @property
    def gpus(self) -> Mapping[str, DeviceReport]:
        """Return what was taken of GPUs, by llama.cpp's names."""
        return {name: report for name, report in self.devices.items() if name != HOST}

    @property
    def footprint(self) -> Footprint:
        """The footprint of the process: with its program, and with the drivers of GPUs."""
        gpus = self.gpus.values()
        return process_footprint(
            Source.REPORTED,
            host_mib=self.host.total_mib,
            gpu_mib=sum(report.total_mib for report in gpus),
            gpu_compute_mib=max((report.compute_mib for report in gpus), default=0),
            vocabulary=self.vocabulary,
        )


class ReportReader:
    """Reads the output of one llama-server, line by line, until it is ready.

    While it fits, llama.cpp makes models and contexts on trial, and says the same about them as
    about real ones; those lines do not count.
    """

    def __init__(self) -> None:
        self._is_fitting = False
        self._is_fitted = False
        self._n_ctx_wanted: int | None = None
        self._n_overflowing: dict[str, int] = {}
        self._projector_mib = 0.0
        self._projector_device = HOST
        self._forget()

    def _forget(self) -> None:
        """Begin again, behind a trial."""
        self._numbers: dict[str, int] = {}
        self._models: list[_Buffer] = []
        self._contexts: list[_Buffer] = []
        # By context and buffer: a context may plan its compute buffers again.
        self._computes: dict[tuple[int, str, str], _Buffer] = {}
        self._n_contexts = 0

    def feed(self, line: str) -> None:
        """Take in one line of output."""
        if not _MARKS.search(line):
            return
        if _FITTING_BEGAN in line:
            self._is_fitting = True
        elif _FITTING_ENDED in line:
            self._is_fitting = False
            self._forget()
        elif self._is_fitting:
            self._feed_fitting(line)
        else:
            self._feed_loading(line)

    def _feed_fitting(self, line: str) -> None:
        if found := _REDUCED.search(line):
            self._n_ctx_wanted = int(found[1])
            self._is_fitted = True
        elif found := _OVERFLOWING.search(line):
            self._n_overflowing[found["device"]] = int(found["count"])
        elif _FILLING in line:
            self._is_fitted = True

    def _feed_loading(self, line: str) -> None:
        if found := _BUFFER.search(line):
            buffer = _Buffer(_device_of(found["buffer"]), float(found["mib"]))
            match found["kind"]:
                case "model":
                    self._models.append(buffer)
                case "KV" | "RS":
                    self._contexts.append(buffer)
                case kind if _OF_PROJECTOR not in line:
                    self._computes[self._n_contexts, kind, found["buffer"]] = buffer
        elif _NEW_CONTEXT in line:
            self._n_contexts += 1
        elif found := _NUMBER.search(line):
            # The first are those of the model itself; a draft model has others.
            self._numbers.setdefault(found[1], int(found[2]))
        elif found := _OFFLOADED.search(line):
            self._numbers.setdefault("n_gpu_layers", int(found[1]))
            self._numbers.setdefault("n_layers", int(found[2]))
        elif found := _PROJECTOR.search(line):
            self._projector_mib = float(found[1])
        elif found := _PROJECTOR_DEVICE.search(line):
            self._projector_device = _device_of(found[1])

    def report(self) -> Reported | None:
        """Return what the lines said; None if they did not say how large the model is."""
        if not self._models:
            return None
        devices: dict[str, DeviceReport] = {}
        projector = _Buffer(self._projector_device, self._projector_mib)
        for field, buffers in (
            ("model_mib", [*self._models, projector]),
            ("context_mib", self._contexts),
            ("compute_mib", self._computes.values()),
        ):
            for buffer in buffers:
                known = devices.get(buffer.device, DeviceReport())
                more = {field: getattr(known, field) + buffer.mib}
                devices[buffer.device] = attrs.evolve(known, **more)
        return Reported(
            devices={name: known for name, known in devices.items() if known.total_mib > 0},
            n_ctx=self._numbers.get("n_ctx", 0),
            n_slots=self._numbers.get("n_seq_max", 1),
            n_gpu_layers=self._numbers.get("n_gpu_layers"),
            n_layers=self._numbers.get("n_layers"),
            n_overflowing=sum(self._n_overflowing.values()),
            is_fitted=self._is_fitted,
            n_ctx_wanted=self._n_ctx_wanted,
            vocabulary=self._numbers.get("n_vocab", 0),
        )


@attrs.frozen
class _Buffer:
    """A buffer that was allocated."""

    device: str
    mib: float


def _device_of(buffer: str) -> str:
    """Return the device of a buffer by its name."""
    if _HOST_BUFFER.fullmatch(buffer):
        return HOST
    return _SUFFIX.sub("", buffer)
