"""structlog, imported without rich; must be imported before any other import of structlog.

structlog imports rich, if it can, for a renderer that this program does not use. That takes 40 of
88 ms, and structlog has no setting for it. So imports of rich fail while structlog is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _failing_imports_of(name: str) -> Iterator[None]:
    """Make imports of *name* fail in the ``with`` block, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # documented to make imports fail
    try:
        yield
    finally:
        del sys.modules[name]


with _failing_imports_of("rich"):
    import structlog

__all__ = ["structlog"]
