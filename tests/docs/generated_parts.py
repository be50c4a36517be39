"""Pages with generated parts, between ``<!-- generated: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

_PART: Final = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def with_parts(page: str, parts: Mapping[str, Callable[[], str]]) -> str:
    """Return the text of *page* with the content of each part made anew by its function."""
    return _PART.sub(lambda found: found[1] + parts[found[2]]() + found[3], page)
