"""The process that scans for a router: ``python -m llama_router.config.scan_worker.child REQUEST``.

It starts quickly, because it imports neither Trio nor other parts of a server.
"""

from __future__ import annotations

import os
import sys

import msgspec

from ...workers.child import end_with_router
from ..catalog import Catalog, ScanRequest


def main() -> int:
    """Run the scan that the argument requests; write the result to standard output."""
    end_with_router()
    request = msgspec.json.decode(sys.argv[1], type=ScanRequest)
    sys.stdout.buffer.write(msgspec.json.encode(Catalog.serve(request, os.environ)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
