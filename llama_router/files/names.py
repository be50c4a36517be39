"""Names of files for models, whose own names may have any characters."""

from __future__ import annotations

import hashlib
from typing import Final
from urllib.parse import quote

#: Most bytes of such a name, and those that are kept of a longer one. The system takes 255.
_MOST: Final = 180
_KEPT: Final = 150


def file_name_of(model: str, *, visible: bool = False) -> str:
    """Return the name of the file or folder of *model*; another one for each model.

    Args:
        model: The name of the model.
        visible: Whether a name with a dot at its beginning, which hides a file, is replaced, too.
    """
    name = quote(model, safe="", errors="surrogatepass")
    if len(name) <= _MOST and not (visible and name.startswith(".")):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    beginning = name[:_KEPT].lstrip(".") if visible else name[:_KEPT]
    return f"{beginning}-{digest[:16]}"
