"""Reads the header of a GGUF file in microseconds, with limits for any content.

A header is a list of keys with values, and a vocabulary of a quarter of a million strings is
one of the values. Converters write the needed keys before it, so reading stops there by default.
Behind the keys is the table of tensors, which says how long the file must be.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import os
import re
import struct
from typing import Final

import attrs

from ..core.config.kinds import CONTROL
from ..files import opened, reason_of
from .discovery.found import Header

#: Limits for one file. The largest vocabularies have a quarter of a million tokens and half a
#: million merges, in headers of about 20 MB.
MAX_KEYS: Final = 10_000
MAX_KEY_BYTES: Final = 65_535  # by the specification
MAX_STRINGS: Final = 1_500_000
MAX_READ_BYTES: Final = 64 * 2**20
MAX_TEXT_BYTES: Final = 2**20
MAX_TENSORS: Final = 1_000_000

_FIRST_READ_BYTES: Final = 8 * 1024
_MAX_READ_AT_ONCE_BYTES: Final = 2**20

_SIZES: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_INTEGERS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
}
_STRING: Final = 8
_ARRAY: Final = 9
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_HEAD: Final = struct.Struct("<IQQ")
_ARRAY_HEAD: Final = struct.Struct("<IQ")
_TENSOR_END: Final = struct.Struct("<IQ")

# Numbers in a block, and its size in bytes, by type of tensor. Source: ggml.h and ggml.c.
_BLOCKS: Final = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 40),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
# Arrays that `KnownArrays` remembers, and the prefixes of keys and tensors that may follow them.
_MAX_KNOWN_ARRAYS: Final = 256
_MIN_KNOWN_COUNT: Final = 10_000
_BEGINNING_BYTES: Final = 1024
_NAME_PREFIXES: Final = (
    *(b"general.", b"quantize.", b"split.", b"tokenizer."),
    *(b"blk.", b"output", b"token_embd"),
)
_LONGEST_PREFIX_BYTES: Final = 10

_MAX_DIMENSIONS: Final = 4
_DEFAULT_ALIGNMENT: Final = 32
_LAYER: Final = re.compile(rb"blk\.(\d{1,5})\.")

_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TEXTS: Final = frozenset(
    (
        b"adapter.type",
        b"general.architecture",
        b"general.name",
        b"general.size_label",
        b"general.type",
        b"tokenizer.chat_template",
    )
)
#: Layers with different numbers of heads have an array; real ones have some hundred layers.
_MAX_INTEGERS: Final = 1024


class GgufError(Exception):
    """A file is not a GGUF file that llama.cpp could load; the message says why."""


def read_header(path: str, *, whole: bool = False) -> Header:
    """Return the header of *path*. Blocks on the file, within limits.

    Args:
        path: A regular file; anything else is refused without reading it.
        whole: Read the keys after the vocabulary, too: the chat template and the file type.
            That takes about ten milliseconds.

    Raises:
        GgufError: if it cannot be read or is no GGUF file.
    """
    try:
        with opened(path) as (descriptor, size_bytes):
            if size_bytes == 0:
                raise GgufError("it is empty")
            return _parse(_Reader(descriptor, size_bytes), whole=whole)
    except OSError as exc:
        raise GgufError(f"it cannot be read: {reason_of(exc)}") from exc


@attrs.frozen
class TensorTable:
    """Facts about a complete file from its table of tensors, and from keys behind a vocabulary.

    Attributes:
        first_layer: The lowest number of a layer; None if there are no layers.
        split_number: Number of this file among the parts of a split model, from 1; None without
            such a key.
        split_count: Number of those parts.
    """

    first_layer: int | None
    split_number: int | None
    split_count: int


class KnownArrays:
    """Sizes of long arrays of strings that were read before: most models share a vocabulary.

    An array is known by its count and its beginning. Its end is checked: a name must follow.
    """

    def __init__(self) -> None:
        self._sizes_bytes: dict[tuple[int, bytes], int] = {}

    def size_bytes(self, count: int, beginning: bytes) -> int | None:
        """Return the size of an array with that *count* and *beginning*, or None."""
        return self._sizes_bytes.get((count, beginning))

    def add(self, count: int, beginning: bytes, size_bytes: int) -> None:
        """Remember the size of an array; of all sizes after too many."""
        if len(self._sizes_bytes) >= _MAX_KNOWN_ARRAYS:
            self._sizes_bytes.clear()
        self._sizes_bytes[count, beginning] = size_bytes


def read_tensor_table(path: str, known_arrays: KnownArrays | None = None) -> TensorTable:
    """Return facts from the table of tensors in *path*, which has all data of its tensors.

    It takes some ten milliseconds for a vocabulary that is not in *known_arrays*, because the
    whole header is read.

    Raises:
        GgufError: if it cannot be read, is no GGUF file, or was truncated.
    """
    try:
        with opened(path) as (descriptor, size_bytes):
            reader = _Reader(descriptor, size_bytes, known_arrays)
            tensor_count, key_count = _counts(reader)
            _, integers = _keys(reader, key_count, whole=True)
            first_layer, data_bytes = _tensors(reader, tensor_count)
            alignment = integers.get(b"general.alignment", _DEFAULT_ALIGNMENT)
            if alignment <= 0 or alignment & (alignment - 1):
                raise GgufError("the alignment in its header is no power of two")
            if tensor_count:
                begin = -(-reader.position // alignment) * alignment
                if (missing_bytes := begin + data_bytes - size_bytes) > 0:
                    raise GgufError(f"it was truncated: its last {missing_bytes} bytes are missing")
    except OSError as exc:
        raise GgufError(f"it cannot be read: {reason_of(exc)}") from exc
    number = integers.get(b"split.no")
    return TensorTable(
        first_layer=first_layer,
        split_number=None if number is None else number + 1,
        split_count=integers.get(b"split.count", 1),
    )


def _tensors(reader: _Reader, count: int) -> tuple[int | None, int]:
    """Read the table; return the first layer, and the size in bytes of the data of all tensors."""
    first_layer: int | None = None
    data_bytes = 0
    for _ in range(count):
        name = reader.text(MAX_KEY_BYTES) or b""
        if found := _LAYER.match(name):
            layer = int(found[1])
            first_layer = layer if first_layer is None else min(layer, first_layer)
        (dimensions,) = _U32.unpack(reader.take(4))
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError("its table of tensors is damaged")
        numbers = 1
        for _ in range(dimensions):
            numbers *= _U64.unpack(reader.take(8))[0]
        kind, offset = _TENSOR_END.unpack(reader.take(_TENSOR_END.size))
        # A type that is not known here counts as empty: llama.cpp may know it.
        block, block_bytes = _BLOCKS.get(kind, (1, 0))
        data_bytes = max(data_bytes, offset + numbers // block * block_bytes)
    return first_layer, data_bytes


def _parse(reader: _Reader, *, whole: bool) -> Header:
    tensor_count, key_count = _counts(reader)
    return _header(*_keys(reader, key_count, whole=whole), tensor_count)


def _keys(
    reader: _Reader, key_count: int, *, whole: bool
) -> tuple[dict[bytes, str], dict[bytes, int]]:
    """Read the keys; return the texts among them that are needed, and all integers."""
    texts: dict[bytes, str] = {}
    integers: dict[bytes, int] = {}
    for _ in range(key_count):
        key = reader.text(MAX_KEY_BYTES)
        if key is None:
            raise GgufError("its header has a key that is too long")
        if not whole and key.startswith(b"tokenizer.") and b"general.architecture" in texts:
            break
        (kind,) = _U32.unpack(reader.take(4))
        if kind == _STRING:
            text = reader.text(MAX_TEXT_BYTES if key in _TEXTS else 0)
            if text:
                texts[key] = text.decode("utf-8", "replace")
        elif numbers := _numbers(reader, kind):
            integers[key] = max(numbers)
    return texts, integers


def _counts(reader: _Reader) -> tuple[int, int]:
    """Read the fixed part; return the number of tensors and the number of keys."""
    if reader.take(4) != b"GGUF":
        raise GgufError("it does not begin like a GGUF file")
    version, tensor_count, key_count = _HEAD.unpack(reader.take(_HEAD.size))
    if version & 0xFFFF == 0 and version != 0:
        raise GgufError("it is made for big-endian machines")
    if version not in (2, 3):
        raise GgufError(f"it has version {version} of the GGUF format; 2 and 3 are known")
    if key_count > MAX_KEYS or tensor_count > MAX_TENSORS:
        raise GgufError("its header announces more than a model can have")
    return tensor_count, key_count


def _numbers(reader: _Reader, kind: int) -> tuple[int, ...]:
    """Skip a value that is no string; return its integers, unless there are many."""
    if kind in _INTEGERS:
        return _INTEGERS[kind].unpack(reader.take(_SIZES[kind]))
    if kind == _ARRAY:
        return _array(reader)
    if kind not in _SIZES:
        raise GgufError(f"its header has a value of the unknown type {kind}")
    reader.skip(_SIZES[kind])
    return ()


def _array(reader: _Reader) -> tuple[int, ...]:
    kind, count = _ARRAY_HEAD.unpack(reader.take(_ARRAY_HEAD.size))
    if kind == _STRING:
        reader.skip_strings(count)
    elif kind == _ARRAY:
        raise GgufError("its header has an array of arrays")
    elif kind not in _SIZES:
        raise GgufError(f"its header has an array of the unknown type {kind}")
    elif kind in _INTEGERS and count <= _MAX_INTEGERS:
        number, data = _INTEGERS[kind], reader.take(count * _SIZES[kind])
        return tuple(value for (value,) in number.iter_unpack(data))
    else:
        reader.skip(count * _SIZES[kind])
    return ()


def _header(texts: dict[bytes, str], integers: dict[bytes, int], tensor_count: int) -> Header:
    architecture = texts.get(b"general.architecture", "")
    # Older adapters have no general type.
    type_ = texts.get(b"general.type", "adapter" if b"adapter.type" in texts else "model")
    if architecture or type_ == "model":
        if not architecture:
            raise GgufError("its header names no architecture")
        if not _ARCHITECTURE.fullmatch(architecture):
            raise GgufError("its header names an architecture that cannot be one")
    prefix = architecture.encode()

    def own(name: bytes) -> int | None:
        value = integers.get(prefix + name)
        return value if value is not None and 0 <= value < 2**31 else None

    projection_dim = own(b".vision.projection_dim")
    return Header(
        architecture=architecture,
        type=CONTROL.sub("", type_)[:64],
        name=CONTROL.sub("", texts.get(b"general.name", ""))[:256] or None,
        file_type=integers.get(b"general.file_type"),
        tensor_count=tensor_count,
        context_length=own(b".context_length"),
        embedding_length=own(b".embedding_length"),
        block_count=own(b".block_count"),
        head_count=own(b".attention.head_count"),
        pooling_type=own(b".pooling_type"),
        projection_dim=own(b".audio.projection_dim") if projection_dim is None else projection_dim,
        chat_template=texts.get(b"tokenizer.chat_template"),
        size_label=CONTROL.sub("", texts.get(b"general.size_label", ""))[:64] or None,
    )


class _Reader:
    """A forward reader with a buffer and few reads; checks the end of the file and the limits."""

    def __init__(
        self, descriptor: int, size_bytes: int, known_arrays: KnownArrays | None = None
    ) -> None:
        self._known_arrays = known_arrays
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._begin = 0  # where in the file the buffer begins
        self._buffer = b""
        self._at = 0  # in the buffer
        self._read_bytes = 0
        self._next_read_bytes = _FIRST_READ_BYTES
        self._strings = 0

    @property
    def position(self) -> int:
        """Return the position in the file of the next byte."""
        return self._begin + self._at

    def take(self, count: int) -> bytes:
        """Return the next *count* bytes.

        Raises:
            GgufError: if there are fewer, or a limit is reached.
        """
        end = self._at + count
        if end > len(self._buffer):
            self._fill(count)
            end = count
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def skip(self, count: int) -> None:
        """Skip the next *count* bytes; most of them are not even read.

        Raises:
            GgufError: if there are fewer.
        """
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        position = self._begin + self._at + count
        if position > self._size_bytes:
            raise GgufError("it ends in the middle of its header")
        self._begin, self._buffer, self._at = position, b"", 0

    def text(self, max_bytes: int) -> bytes | None:
        """Return the next string; skip it and return None if it is longer than *max_bytes*."""
        (length,) = _U64.unpack(self.take(8))
        if length > max_bytes:
            self.skip(length)
            return None
        return self.take(length)

    def skip_strings(self, count: int) -> None:
        """Skip *count* strings.

        Raises:
            GgufError: if there are fewer, or a limit is reached.
        """
        if count * 8 > self._size_bytes:
            raise GgufError("it ends in the middle of its header")
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise GgufError("its header has more strings than a vocabulary can have")
        known, begin = self._known_arrays, self.position
        if known is None or count < _MIN_KNOWN_COUNT or begin + _BEGINNING_BYTES > self._size_bytes:
            self._walk_strings(count)
            return
        beginning = self._peek(_BEGINNING_BYTES)
        size_bytes = known.size_bytes(count, beginning)
        if size_bytes is not None and self._is_name_at(begin + size_bytes):
            self.skip(size_bytes)
        else:
            self._walk_strings(count)
            known.add(count, beginning, self.position - begin)

    def _peek(self, count: int) -> bytes:
        """Return the next *count* bytes without passing them."""
        data = self.take(count)
        self._at -= count
        return data

    def _is_name_at(self, position: int) -> bool:
        """Return whether a key of a header, or the name of a tensor, begins at *position*."""
        data = os.pread(self._descriptor, 8 + _LONGEST_PREFIX_BYTES, position)
        return (
            len(data) > 8
            and _U64.unpack_from(data)[0] <= MAX_KEY_BYTES
            and data[8:].startswith(_NAME_PREFIXES)
        )

    def _walk_strings(self, count: int) -> None:
        # As take() and skip(), without calls and attributes: there are half a million strings.
        unpack = _U64.unpack_from
        buffer, at = self._buffer, self._at
        last = len(buffer) - 8
        for _ in range(count):
            if at > last:
                self._at = at
                self._fill(8)
                buffer, at = self._buffer, 0
                last = len(buffer) - 8
            at += 8 + unpack(buffer, at)[0]
            if at - 8 > last:
                self._at = len(buffer)
                self.skip(at - len(buffer))
                buffer, at = self._buffer, self._at
                last = len(buffer) - 8
        self._at = at

    def _fill(self, count: int) -> None:
        """Refill the buffer from the current position with at least *count* bytes."""
        begin = self._begin + self._at
        if begin + count > self._size_bytes:
            raise GgufError("it ends in the middle of its header")
        wanted = max(count, self._next_read_bytes)
        self._read_bytes += wanted
        if self._read_bytes > MAX_READ_BYTES:
            raise GgufError("its header is larger than that of a model can be")
        self._next_read_bytes = min(2 * self._next_read_bytes, _MAX_READ_AT_ONCE_BYTES)
        self._buffer = os.pread(self._descriptor, wanted, begin)
        self._begin, self._at = begin, 0
        if len(self._buffer) < count:  # the file was truncated meanwhile
            raise GgufError("it ends in the middle of its header")
