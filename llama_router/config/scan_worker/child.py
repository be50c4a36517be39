"""The process that scans for a router: ``python -m llama_router.config.scan_worker.child REQUEST``.

It starts quickly, because it imports neither Trio nor other parts of a server.
"""

from __future__ import annotations

import os
import sys

from ...files.json_text import decode_kept, encode_kept
from ...workers.child import end_with_router
from ..catalog import Catalog, ScanRequest


def main() -> int:
    """Run the scan that the argument requests; write the result to standard output."""
    end_with_router()
    request = decode_kept(os.fsencode(sys.argv[1]), ScanRequest)
    sys.stdout.buffer.write(encode_kept(Catalog.serve(request, os.environ)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
