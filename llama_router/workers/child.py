"""The worker's side of a worker process (a scan, a download); `parent` is the router's side."""

from __future__ import annotations

import os
import threading


def end_with_router() -> None:
    """End this process at end-of-file on its standard input: when the router is gone."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)
