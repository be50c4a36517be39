"""A GGUF file that is written under a temporary name, and renamed when it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...files import replacing
from .optional import optional
from .random_weights import Weights


class GgufFile:
    """A GGUF file that is being written: gguf's writer, and the types of its tensors."""

    def __init__(self, path: Path, architecture: str, *, half_precision: bool) -> None:
        self.gguf = optional("gguf")
        self._np = optional("numpy")
        self._matrix_type = self._np.float16 if half_precision else self._np.float32
        self.writer = self.gguf.GGUFWriter(path, architecture)

    def add(self, name: str, weights: Weights) -> None:
        """Store a matrix."""
        self.writer.add_tensor(name, weights.astype(self._matrix_type))

    def fill(self, name: str, length: int, value: float) -> None:
        """Store a vector of equal numbers; llama.cpp needs vectors in full precision."""
        self.writer.add_tensor(name, self._np.full(length, value, self._np.float32))


@contextmanager
def new_gguf_file(
    path: Path,
    architecture: str,
    name: str,
    *,
    half_precision: bool = False,
    type_: str = "MODEL",
) -> Iterator[GgufFile]:
    """Yield a file to fill; it appears at *path* complete, or not at all."""
    with replacing(path) as temporary:
        gguf_file = GgufFile(temporary, architecture, half_precision=half_precision)
        file_types, writer = gguf_file.gguf.LlamaFileType, gguf_file.writer
        writer.add_type(getattr(gguf_file.gguf.GGUFType, type_))
        writer.add_name(name)
        writer.add_file_type(file_types.MOSTLY_F16 if half_precision else file_types.ALL_F32)
        yield gguf_file
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
