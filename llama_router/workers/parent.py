"""The router's side of worker processes (a scan, a download): starts and ends them.

A worker's standard input is a pipe from the router, and it exits at end-of-file. It must tolerate
SIGKILL at any time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Final

import trio

from ..threads import thread_refusals

#: Seconds to wait for the kernel after SIGKILL.
REAP_TIMEOUT_S: Final = 5.0


async def start_worker(module: str, *arguments: str, env: Mapping[str, str]) -> trio.Process:
    """Start *module* as a program and return it; end it with `end_worker`.

    Its stdout and stderr are one pipe, which the caller reads.

    Raises:
        OSError: if it cannot be started.
    """
    with thread_refusals():
        return await trio.lowlevel.open_process(
            # -P: a module in the working directory must not take the place of an installed one.
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,  # never written to; closed when this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            # A group of its own, so that Ctrl-C reaches the router only. Not a session of its own:
            # `process.orphans` takes children in other sessions for orphans.
            process_group=0,
        )


async def end_worker(process: trio.Process) -> None:
    """Kill a worker without grace, reap it, and close its pipes."""
    process.kill()
    with trio.move_on_after(REAP_TIMEOUT_S, shield=True):
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        assert isinstance(pipe, trio.lowlevel.FdStream)
        pipe.close()
