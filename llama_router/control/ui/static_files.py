"""The files of the dashboard: read at first use, compressed once, kept until they change."""

from __future__ import annotations

import gzip
import hashlib
import re
import stat
from pathlib import Path
from typing import Final

import attrs

#: The media types of files that are served; any other file is not.
_MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mjs": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}

#: Files that are compressed already.
_PACKED: Final = frozenset((".ico", ".png", ".woff2"))

#: Paths of files. No part begins with a dot, so no path leaves the folder.
_PATH: Final = re.compile(r"(?:[A-Za-z0-9_@-][A-Za-z0-9_@.-]*/){0,8}[A-Za-z0-9_@-][A-Za-z0-9_@.-]*")

#: Largest path, in characters.
_MAX_PATH: Final = 200


@attrs.frozen(kw_only=True)
class StaticFile:
    """A file, ready to be sent.

    Attributes:
        content: Its bytes.
        packed: The same, as gzip; None if that is not smaller.
        media_type: Its media type.
        tag: A text that changes with the content.
    """

    content: bytes
    packed: bytes | None
    media_type: str
    tag: str


class StaticFiles:
    """The files below *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, tuple[tuple[int, int, int], StaticFile]] = {}

    def read(self, path: str) -> StaticFile | None:
        """Return the file at *path*, from memory if it has not changed. Blocks on files.

        Args:
            path: Relative to the folder, with slashes.

        Returns:
            None if there is no such file, or it is of no type that is served.
        """
        suffix = path[path.rfind(".") :]
        if len(path) > _MAX_PATH or suffix not in _MEDIA_TYPES or not _PATH.fullmatch(path):
            return None
        place = self._folder / path
        try:
            found = place.stat()
            if not stat.S_ISREG(found.st_mode):
                return None
            version = (found.st_mtime_ns, found.st_size, found.st_ino)
            kept = self._kept.get(path)
            if kept is not None and kept[0] == version:
                return kept[1]
            file = _file(place.read_bytes(), suffix)
        except OSError:
            return None
        self._kept[path] = version, file
        return file


def _file(content: bytes, suffix: str) -> StaticFile:
    packed = None if suffix in _PACKED else gzip.compress(content, mtime=0)
    return StaticFile(
        content=content,
        packed=packed if packed is not None and len(packed) < len(content) else None,
        media_type=_MEDIA_TYPES[suffix],
        tag=hashlib.sha256(content).hexdigest()[:20],
    )
