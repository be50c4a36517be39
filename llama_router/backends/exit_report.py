"""The error for a backend that exited: its cause, from output, kernel and port."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ..core.config.names import ModelId
from ..errors.backends import BackendExitedError
from ..errors.causes import Cause
from ..model_logs.model_log import ModelLog
from ..process.oom import OomDetector
from ..process.port_owner import has_listener
from ..process.process import SpawnedProcess
from ..threads import ThreadRefusedError, in_thread
from .diagnosis import EXAMINED_LINES, SIGKILL_STATUSES, Diagnosis, diagnose

#: Lines of output quoted when a backend fails.
LAST_LINES: Final = 8

#: Seconds for the diagnosis of an exit.
DIAGNOSIS_TIMEOUT_S: Final = 3.0


async def exit_error(
    model: ModelId,
    process: SpawnedProcess,
    model_log: ModelLog,
    *,
    oom_detector: OomDetector,
    oom_counters: dict[Path, int],
    missed_port: int | None,
) -> BackendExitedError:
    """Return the error for the end of *process*, with its cause as far as it is known.

    Args:
        model: The model of the backend.
        process: Its process; the whole tree is gone.
        model_log: Its output; the result is noted there, too.
        oom_detector: Detects that the kernel killed it.
        oom_counters: The counters of *oom_detector* when the process began.
        missed_port: Its port, if it was to listen there and was never ready.
    """
    returncode = process.returncode or 0
    tail = model_log.tail(EXAMINED_LINES, since_mark=True)

    def full_diagnosis() -> Diagnosis:
        since_s = process.start_time / os.sysconf("SC_CLK_TCK")
        oom_killed = returncode in SIGKILL_STATUSES and oom_detector.has_killed(
            process.pid, oom_counters, since_s=since_s
        )
        found = diagnose(returncode, tail, oom_killed=oom_killed)
        # Not every program prints that, or lives long enough to do so.
        if found.cause is Cause.UNKNOWN and missed_port and has_listener(missed_port):
            return Diagnosis(
                Cause.PORT_IN_USE,
                f"another program listens on port {missed_port}, which was meant for it",
            )
        return found

    found = diagnose(returncode, ())
    with trio.move_on_after(DIAGNOSIS_TIMEOUT_S):
        with suppress(ThreadRefusedError):
            found = await in_thread(full_diagnosis, abandon_on_cancel=True)
    error = BackendExitedError(
        model,
        returncode,
        tail[-LAST_LINES:],
        cause=found.cause,
        reason=found.sentence,
        evidence=found.evidence,
    )
    how = f"code {returncode}" if returncode >= 0 else f"signal {-returncode}"
    why = f": {found.sentence}" if found.sentence else ""
    model_log.note(f"pid {process.pid} ended with {how}{why}")
    return error
