"""Reads GGUF files forward, with limits for any content: keys, values, the table of tensors.

A header is a list of keys with values, and a vocabulary of a quarter of a million strings is
one of the values. Behind the keys is the table of tensors.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from typing import Final

import attrs

from ..core.memory.tensor_types import BY_NUMBER

#: Limits for one file. The largest vocabularies have a quarter of a million tokens and half a
#: million merges, in headers of about 20 MB.
MAX_KEYS: Final = 10_000
MAX_KEY_BYTES: Final = 65_535  # by the specification
MAX_STRINGS: Final = 1_500_000
MAX_READ_BYTES: Final = 64 * 2**20
MAX_TEXT_BYTES: Final = 2**20
MAX_TENSORS: Final = 200_000

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
    7: struct.Struct("<B"),  # a truth value
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
#: Of the data of tensors, unless ``general.alignment`` says otherwise.
DEFAULT_ALIGNMENT: Final = 32

#: The end of the key with the type of a decision model, behind its architecture.
DECISION_TYPE: Final = b".decision.type"

_TEXTS: Final = frozenset(
    (
        b"adapter.type",
        b"clip.projector_type",
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


@attrs.frozen
class Tensor:
    """One row of the table of tensors.

    Attributes:
        name: Its name.
        shape: Its dimensions; the first is that of a row.
        type_number: Its type, see `tensor_types`.
        offset: Where its data begins, from the beginning of all data, in bytes.
        size_bytes: Size of its data; 0 if the type is not known here.
    """

    name: bytes
    shape: tuple[int, ...]
    type_number: int
    offset: int
    size_bytes: int


def read_counts(reader: Reader) -> tuple[int, int]:
    """Read the fixed part; return the number of tensors and the number of keys.

    Raises:
        GgufError: if the file is no GGUF file, or of another version.
    """
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


def read_keys(
    reader: Reader, key_count: int, *, whole: bool
) -> tuple[dict[bytes, str], dict[bytes, tuple[int, ...]]]:
    """Read the keys; return the texts among them that are needed, and all integers.

    Truth values count as integers. A number is a tuple of one; long arrays are left out.

    Args:
        reader: It stands behind the fixed part.
        key_count: As the fixed part says.
        whole: Read to the end; otherwise only to the vocabulary.

    Raises:
        GgufError: if they are damaged.
    """
    texts: dict[bytes, str] = {}
    integers: dict[bytes, tuple[int, ...]] = {}
    for _ in range(key_count):
        key = reader.text(MAX_KEY_BYTES)
        if key is None:
            raise GgufError("its header has a key that is too long")
        if not whole and key.startswith(b"tokenizer.") and b"general.architecture" in texts:
            break
        (kind,) = _U32.unpack(reader.take(4))
        if kind == _STRING:
            is_needed = key in _TEXTS or key.endswith(DECISION_TYPE)
            text = reader.text(MAX_TEXT_BYTES if is_needed else 0)
            if text:
                texts[key] = text.decode("utf-8", "replace")
        elif numbers := _numbers(reader, kind):
            integers[key] = numbers
    return texts, integers


@attrs.frozen
class Vocabulary:
    """The tokens of a model.

    Attributes:
        kind: Its ``tokenizer.ggml.model``.
        tokens: Their texts, by number.
    """

    kind: bytes
    tokens: list[bytes]


def read_vocabulary(reader: Reader, key_count: int) -> Vocabulary:
    """Read the keys up to the vocabulary, and return it; an empty one if there is none.

    Raises:
        GgufError: if they are damaged.
    """
    kind, tokens = b"", list[bytes]()
    for _ in range(key_count):
        key = reader.text(MAX_KEY_BYTES)
        (type_number,) = _U32.unpack(reader.take(4))
        if key == b"tokenizer.ggml.model" and type_number == _STRING:
            kind = reader.text(MAX_KEY_BYTES) or b""
        elif key == b"tokenizer.ggml.tokens" and type_number == _ARRAY:
            of_what, count = _ARRAY_HEAD.unpack(reader.take(_ARRAY_HEAD.size))
            if of_what != _STRING or count > MAX_STRINGS:
                raise GgufError("its vocabulary is damaged")
            tokens = [reader.text(MAX_KEY_BYTES) or b"" for _ in range(count)]
        elif type_number == _STRING:
            reader.text(0)
        else:
            _numbers(reader, type_number)
        if kind and tokens:
            break
    return Vocabulary(kind, tokens)


def read_tensors(reader: Reader, count: int) -> Iterator[Tensor]:
    """Yield the rows of the table of tensors, which follows the keys.

    Raises:
        GgufError: if it is damaged.
    """
    for _ in range(count):
        name = reader.text(MAX_KEY_BYTES) or b""
        (dimensions,) = _U32.unpack(reader.take(4))
        if dimensions > _MAX_DIMENSIONS:
            raise GgufError("its table of tensors is damaged")
        shape = tuple(_U64.unpack(reader.take(8))[0] for _ in range(dimensions))
        number, offset = _TENSOR_END.unpack(reader.take(_TENSOR_END.size))
        # A type that is not known here counts as empty: llama.cpp may know it.
        type_ = BY_NUMBER.get(number)
        size_bytes = 0 if type_ is None else type_.size_bytes(math.prod(shape))
        yield Tensor(name, shape, number, offset, size_bytes)


def _numbers(reader: Reader, kind: int) -> tuple[int, ...]:
    """Skip a value that is no string; return its integers, unless there are many."""
    if kind in _INTEGERS:
        return _INTEGERS[kind].unpack(reader.take(_SIZES[kind]))
    if kind == _ARRAY:
        return _array(reader)
    if kind not in _SIZES:
        raise GgufError(f"its header has a value of the unknown type {kind}")
    reader.skip(_SIZES[kind])
    return ()


def _array(reader: Reader) -> tuple[int, ...]:
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


class Reader:
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
