"""The process that scans for a router: ``python -m llama_router.config.scan_process REQUEST``.

It begins quickly, because it imports neither Trio nor anything else of a server.
"""

from __future__ import annotations

import os
import sys
import threading

import msgspec

from ..logs import quick_structlog  # noqa: F401 -- first, as its own first line says
from .catalog import Catalog, Request


def main() -> int:
    """Scan as the argument says; write the answer to standard output."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    request = msgspec.json.decode(sys.argv[1], type=Request)
    sys.stdout.buffer.write(msgspec.json.encode(Catalog.answer(request, os.environ)))
    return 0


def _end_with_stdin() -> None:
    """End this process once nobody holds the other end of its standard input."""
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
