"""Why a backend's process ended: asks the kernel and the port, too, and says it in an error."""

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
from ..process.port_owner import anybody_on
from ..process.process import SpawnedProcess
from ..threads import ThreadRefusedError, in_thread
from .diagnosis import KILLED, LOOK_BACK_LINES, Explanation, explain

#: Lines of output quoted when a backend fails.
LAST_LINES: Final = 8

#: Seconds that may go into finding out why a backend exited.
EXPLAIN_TIMEOUT_S: Final = 3.0


async def exit_error(
    model: ModelId,
    process: SpawnedProcess,
    model_log: ModelLog,
    *,
    kernel: OomDetector,
    oom_counters: dict[Path, int],
    missed_port: int | None,
) -> BackendExitedError:
    """Return the error that says how *process* ended, and why as far as can be told.

    Args:
        model: Whose it was.
        process: It, with all that it started, is gone.
        model_log: What it said; how it ended is noted there.
        kernel: Asked whether it killed it.
        oom_counters: What that had counted when the process began.
        missed_port: The port that it was to listen on, if it was never ready.
    """
    returncode = process.returncode or 0
    tail = model_log.tail(LOOK_BACK_LINES, since_mark=True)

    def find_out() -> Explanation:
        since_s = process.start_time / os.sysconf("SC_CLK_TCK")
        oom_killed = returncode in KILLED and kernel.oom_killed(
            process.pid, oom_counters, since_s=since_s
        )
        found = explain(returncode, tail, oom_killed=oom_killed)
        # Not all programs say so, or live long enough for that.
        if found.cause is Cause.UNKNOWN and missed_port and anybody_on(missed_port):
            return Explanation(
                Cause.PORT_IN_USE,
                f"another program listens on port {missed_port}, which was meant for it",
            )
        return found

    found = explain(returncode, ())
    with trio.move_on_after(EXPLAIN_TIMEOUT_S):
        with suppress(ThreadRefusedError):
            found = await in_thread(find_out, abandon_on_cancel=True)
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
