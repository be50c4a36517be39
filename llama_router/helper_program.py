"""What the router's own helper programs share: a scan, a download. Each may be killed any time.

A helper has a pipe of the router as its standard input, and ends when that does.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import trio

#: Seconds to wait for the kernel after SIGKILL.
REAP_TIMEOUT_S: Final = 5.0


def end_with_router() -> None:
    """In a helper: end this process once nobody holds the other end of its standard input."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


async def end_helper(process: trio.Process) -> None:
    """In the router: make sure that a helper is gone; it gets no grace. Closes its pipes."""
    import trio  # noqa: PLC0415 -- late: a helper needs none

    process.kill()
    with trio.move_on_after(REAP_TIMEOUT_S, shield=True):
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        assert isinstance(pipe, trio.lowlevel.FdStream)
        pipe.close()
