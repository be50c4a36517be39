"""Starts and ends the router's own helper programs: a scan, a download.

A helper has a pipe of the router as its standard input, and ends when that does. It may be
killed at any time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import trio

from ..threads import refusals

#: Seconds to wait for the kernel after SIGKILL.
REAP_TIMEOUT_S: Final = 5.0


async def start_worker(module: str, *arguments: str, env: Mapping[str, str]) -> trio.Process:
    """Start *module* as a program, whose output is to be read. To be ended by `end_worker`.

    Raises:
        OSError: if it cannot be started.
    """
    with refusals():
        return await trio.lowlevel.open_process(
            # -P: a module in the working directory must not take the place of an installed one.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,  # never written to: it ends when this process does
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            # Ctrl-C is for us. No session of its own: that is how orphans are told.
            process_group=0,
        )


async def end_worker(process: trio.Process) -> None:
    """Make sure that a helper is gone; it gets no grace. Closes its pipes."""
    process.kill()
    with trio.move_on_after(REAP_TIMEOUT_S, shield=True):
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        assert isinstance(pipe, trio.lowlevel.FdStream)
        pipe.close()
