"""Imports of hundreds of modules, with few looks for garbage meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..workers.interpreter_settings import thresholds

#: New objects between two looks. The usual 700 make a tenth of what the imports cost; no
#: look at all leaves 1.5 MiB of garbage.
_NEW_OBJECTS: Final = 20_000

#: Young collections between two of the middle generation: more than there will be.
_YOUNG_COLLECTIONS: Final = 1000


@contextmanager
def few_collections() -> Iterator[None]:
    """Seldom look for garbage in the ``with`` block; never again look at what it made.

    For imports: nearly all that they make stays until the process ends.
    """
    with thresholds.changed(lambda original: (_NEW_OBJECTS, _YOUNG_COLLECTIONS, original[2])):
        yield
        gc.freeze()
