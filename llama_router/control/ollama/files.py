"""What the files of models say, for Ollama's API; looked at once, until they change."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ...core.config.specs import ModelSpec
from ...models.discovery.naming import part_of
from ...models.gguf import GgufError, read_header
from ...threads import in_thread
from .listing import File

#: Models whose files are remembered.
_MAX_REMEMBERED: Final = 4096


class Files:
    """Looks at files, in a thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bool], File] = {}

    async def look(self, specs: Iterable[ModelSpec], *, whole: bool = False) -> list[File]:
        """Return what is known of the file of each model.

        Args:
            specs: The models.
            whole: Read on behind the vocabulary, for the chat template.
        """
        paths = [spec.path for spec in specs]
        return await in_thread(
            lambda: [File() if path is None else self._look(path, whole=whole) for path in paths],
            abandon_on_cancel=True,
        )

    def _look(self, path: str, *, whole: bool) -> File:
        try:
            found = Path(path).stat()
            real_path = os.path.realpath(path)
            size_bytes = _size_bytes(path)
        except (OSError, ValueError):
            return File()
        known = self._known.get((path, whole))
        now = File(size_bytes=size_bytes, modified_s=found.st_mtime, real_path=real_path)
        if known is not None and (known.size_bytes, known.modified_s, known.real_path) == (
            now.size_bytes,
            now.modified_s,
            now.real_path,
        ):
            return known
        try:
            header = read_header(path, whole=whole)
        except GgufError:
            header = None  # a backend of another kind, perhaps
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        file = File(
            size_bytes=now.size_bytes,
            modified_s=now.modified_s,
            real_path=real_path,
            header=header,
        )
        self._known[path, whole] = file
        return file


def _size_bytes(path: str) -> int:
    """Return the size of a file, or of all parts of a split model.

    Raises:
        OSError: if one is missing.
    """
    folder = Path(path).parent
    part = part_of(Path(path).name)
    if part is None:
        return Path(path).stat().st_size
    return sum(
        (folder / f"{part.stem}-{n:05}-of-{part.count:05}.gguf").stat().st_size
        for n in range(1, part.count + 1)
    )
