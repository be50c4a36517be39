"""Images for a model, read from files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

from ...files import read_up_to, reason_of
from ..failures import CliError

#: The beginnings of image files, and their types. WebP's is behind a length.
_KINDS: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"RIFF", "image/webp"),
)

#: Largest image that is read, in bytes: below the usual ``max_body_mib`` when encoded.
_MOST_BYTES: Final = 20 * 2**20


def image_url(path: Path) -> str:
    """Return the image in *path* as a ``data:`` URL.

    Raises:
        CliError: if it cannot be read, or is none.
    """
    try:
        content = read_up_to(path.expanduser(), _MOST_BYTES)
    except (OSError, RuntimeError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else str(exc)
        raise CliError(f"the image {path} cannot be read: {reason}") from exc
    kind = next((kind for start, kind in _KINDS if content.startswith(start)), None)
    if kind is None:
        raise CliError(f"{path} is no image", cure="PNG, JPEG, GIF, BMP and WebP are understood")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
