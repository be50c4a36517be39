"""Sizes, times and headers of models' files for Ollama's API, read again only after a change."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from ...core.config.specs import ModelSpec
from ...models.file_facts import size_of_parts
from ...models.gguf import read_header
from ...models.gguf_reader import GgufError
from ...threads import in_thread
from ...workers.interpreter_settings import loop_goes_first
from .listing import ModelFile

#: Most files in the cache.
_MAX_CACHED: Final = 4096


class FileReader:
    """Reads facts about models' files, in a thread, and caches them."""

    def __init__(self) -> None:
        self._cached: dict[str, ModelFile] = {}

    async def read(self, specs: Iterable[ModelSpec]) -> list[ModelFile]:
        """Return the facts about each model's file, with the whole header."""
        paths = [spec.path for spec in specs]
        return await in_thread(lambda: [self._read(path) for path in paths], abandon_on_cancel=True)

    def _read(self, path: str | None) -> ModelFile:
        if path is None:
            return ModelFile()
        try:
            file = ModelFile(
                size_bytes=size_of_parts(path),
                modified_s=Path(path).stat().st_mtime,
                real_path=os.path.realpath(path),
            )
        except (OSError, ValueError):
            return ModelFile()
        cached = self._cached.get(path)
        if cached is not None and attrs.evolve(cached, header=None) == file:
            return cached
        # The chat template is at the end of the header, and to get there takes ten milliseconds.
        with loop_goes_first(), suppress(GgufError):  # or a file for another kind of backend
            file = attrs.evolve(file, header=read_header(path, whole=True))
        if len(self._cached) >= _MAX_CACHED:
            self._cached.clear()
        self._cached[path] = file
        return file
