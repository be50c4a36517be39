"""One model's memory: as estimated, and as a llama-server reports it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from bench.programs import HOST, StartError, free_port
from llama_router.core.memory.estimate import Estimate, estimate_parts
from llama_router.core.memory.flags import read_flags
from llama_router.core.memory.llama_report import Reported, ReportReader
from llama_router.models.tensors import read_weights

_MIB: Final = 2**20

#: Beyond this the estimate is wrong; the constant part is for models of a few MiB.
TOLERANCE: Final = 0.1
TOLERANCE_MIB: Final = 1.0

_READY: Final = "listening on http"
_START_S: Final = 300
_LAST_LINES: Final = 5


@attrs.frozen(kw_only=True)
class Comparison:
    """What was estimated, and what was reported, of one model with some options."""

    estimated: Estimate
    reported: Reported

    @property
    def estimated_mib(self) -> tuple[float, float, float]:
        """Weights, cache and compute buffers of all devices."""
        host, gpu = self.estimated.host, self.estimated.gpu
        return (
            (host.model + gpu.model) / _MIB,
            (host.context + gpu.context) / _MIB,
            (host.compute + gpu.compute) / _MIB,
        )

    @property
    def reported_mib(self) -> tuple[float, float, float]:
        """The same as reported."""
        devices = self.reported.devices.values()
        return (
            sum(device.model_mib for device in devices),
            sum(device.context_mib for device in devices),
            sum(device.compute_mib for device in devices),
        )

    @property
    def error(self) -> float:
        """The error of the estimate as a share of what was reported."""
        return sum(self.estimated_mib) / sum(self.reported_mib) - 1

    @property
    def is_near(self) -> bool:
        """True if the estimate is as near as it must be, on the host and on GPUs."""
        return all(
            abs(estimated / _MIB - reported) <= TOLERANCE * reported + TOLERANCE_MIB
            for estimated, reported in (
                (self.estimated.host.total, self.reported.host.total_mib),
                (
                    self.estimated.gpu.total,
                    sum(device.total_mib for device in self.reported.gpus.values()),
                ),
            )
        )


def compare(
    program: Sequence[str],
    model: Path,
    args: Sequence[str] = (),
    *,
    mmproj: Path | None = None,
    draft: Path | None = None,
) -> Comparison:
    """Load *model* with *program*, and return what both say.

    Args:
        program: The words that run llama-server.
        model: Its file.
        args: Further options.
        mmproj: The file of its projector.
        draft: The file of its draft model.

    Raises:
        StartError: if the server does not start, or says nothing about memory.
        GgufError: if a file cannot be read.
    """
    words = ["-m", str(model), *args]
    if mmproj is None:
        words.append("--no-warmup")  # it would only take time
    else:
        words += ["--mmproj", str(mmproj)]  # the report about it comes with the warm-up
    if draft is not None:
        words += ["--model-draft", str(draft)]
    reported = report_of(program, words)
    estimated = estimate_parts(
        read_weights(str(model)),
        read_flags(["llama-server", *words]),
        has_gpu=bool(reported.gpus),
        mmproj=None if mmproj is None else read_weights(str(mmproj)),
        draft=None if draft is None else read_weights(str(draft)),
    )
    return Comparison(estimated=estimated, reported=reported)


def report_of(program: Sequence[str], words: Sequence[str]) -> Reported:
    """Run llama-server until it is ready, and return what it reported.

    Raises:
        StartError: if it does not start, or says nothing about memory.
    """
    reader, last = ReportReader(), [""] * _LAST_LINES
    with _running([*program, *words]) as lines:
        for line in lines:
            reader.feed(line)
            last = [*last[1:], line.rstrip()]
            if _READY in line:
                break
        else:
            raise StartError("llama-server did not start: " + " / ".join(filter(None, last)))
    reported = reader.report()
    if reported is None:
        raise StartError("llama-server did not say what memory it took")
    return reported


@contextmanager
def _running(argv: Sequence[str]) -> Iterator[Iterator[str]]:
    """Yield the output of a llama-server, and end it."""
    process = subprocess.Popen(
        [*argv, "--host", HOST, "--port", str(free_port())],
        env=os.environ | {"LLAMA_ARG_LOG_VERBOSITY": "4"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    give_up = threading.Timer(_START_S, process.kill)
    give_up.start()
    try:
        yield iter(process.stdout)
    finally:
        give_up.cancel()
        process.kill()
        process.stdout.close()
        process.wait()
