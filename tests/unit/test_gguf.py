"""The reader of GGUF headers: what it takes from right ones, and how it refuses the others."""

from __future__ import annotations

import os
import struct
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_router.models import gguf_reader
from llama_router.models.discovery.found import Header
from llama_router.models.gguf import TensorTable, read_header, read_tensor_table
from llama_router.models.gguf_reader import GgufError, KnownArrays
from llama_router.models.tiny.bert import make_rerank_model
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.projector import make_projector
from tests.gguf_bytes import (
    ARRAY,
    FLOAT32,
    FORMATS,
    INT32,
    INT64,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    Items,
    Typed,
    header,
    model_keys,
    projector_keys,
    string,
    table,
    value,
    write,
)
from tests.privileges import like_anybody

#: No file may take longer than this, in seconds, on a busy machine.
LIMIT_S = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of a test is."""
    return tmp_path / "x.gguf"


def refusal(path: Path, *, whole: bool = True) -> str:
    with pytest.raises(GgufError) as caught:
        read_header(str(path), whole=whole)
    return str(caught.value)


# --- Right ones ----------------------------------------------------------------------


def test_a_quick_look_reads_what_stands_before_the_vocabulary(path: Path) -> None:
    """Architecture, sizes and name are there; what is behind the tokens is not."""
    write(path, model_keys(vocabulary=1000))
    assert read_header(str(path)) == Header(
        architecture="llama",
        name="A model",
        context_length=8192,
        embedding_length=64,
        block_count=4,
        head_count=8,
    )


def test_a_whole_look_reads_behind_the_vocabulary_too(path: Path) -> None:
    """The chat template and the file type are there, also behind many reads."""
    write(path, model_keys(vocabulary=200_000))
    found = read_header(str(path), whole=True)
    assert (found.chat_template, found.quant) == ("{{ messages }}", "Q4_K_M")


def test_a_vocabulary_before_the_architecture_is_walked(path: Path) -> None:
    """The order of keys is a custom, not a rule."""
    keys = {"tokenizer.ggml.tokens": Items(STRING, ["a", "b"])} | model_keys()
    write(path, keys)
    assert read_header(str(path)).architecture == "llama"


def test_real_files_are_read_as_the_gguf_package_wrote_them(tmp_path: Path) -> None:
    """Files by llama.cpp's own writer say the same here."""
    pytest.importorskip("gguf", reason="the extra 'embedded' is not installed")
    make_chat_model(tmp_path / "chat.gguf", name="chatty", n_ctx=512)
    found = read_header(str(tmp_path / "chat.gguf"), whole=True)
    assert (found.architecture, found.name, found.context_length) == ("llama", "chatty", 512)
    assert (found.block_count, found.head_count, found.embedding_length) == (2, 2, 64)
    assert found.quant == "F32"
    assert "im_start" in (found.chat_template or "")
    make_rerank_model(tmp_path / "rank.gguf")
    found = read_header(str(tmp_path / "rank.gguf"))
    assert (found.architecture, found.pooling_type) == ("bert", 4)


def test_a_projector_says_the_width_of_its_output(path: Path) -> None:
    """Whether it is for pictures or for sound."""
    write(path, projector_keys(projection_dim=2560))
    found = read_header(str(path))
    assert (found.is_projector, found.projection_dim) == (True, 2560)
    keys = {"general.architecture": "clip", "clip.audio.projection_dim": 99}
    write(path, keys)
    assert read_header(str(path)).projection_dim == 99


@pytest.mark.parametrize(("key", "expected"), [("laya.decision.type", True), ("x", False)])
def test_a_decision_model_is_known_by_its_header(path: Path, key: str, *, expected: bool) -> None:
    """By a key of its architecture."""
    path.write_bytes(header({"general.architecture": "laya", key: "laya"}))
    assert read_header(str(path)).is_decision_model is expected


def test_heads_that_differ_by_layer_count_as_the_most_of_them(path: Path) -> None:
    """Some architectures have an array there."""
    write(path, model_keys() | {"llama.attention.head_count": Items(INT32, [4, 16, 8])})
    assert read_header(str(path)).head_count == 16


def test_a_matrix_without_an_architecture_is_no_mistake(path: Path) -> None:
    """An importance matrix says its type only."""
    write(path, {"general.type": "imatrix"})
    assert read_header(str(path)).type == "imatrix"


def test_an_older_adapter_without_a_type_is_an_adapter(path: Path) -> None:
    """It has the architecture of its model."""
    write(path, {"general.architecture": "llama", "adapter.type": "lora"})
    found = read_header(str(path))
    assert (found.type, found.is_side_file) == ("adapter", True)


def test_control_characters_do_not_leave_the_header(path: Path) -> None:
    """A name may end up on a terminal."""
    write(path, model_keys() | {"general.name": "a\x1b[31m\nb"})
    assert read_header(str(path)).name == "a[31mb"


@pytest.mark.parametrize("number", [-1, 2**31, 2**63])
def test_impossible_sizes_count_as_not_said(path: Path, number: int) -> None:
    """Nobody computes with them."""
    kind = INT64 if number < 0 else UINT64
    write(path, model_keys(context_length=Typed(kind, number)))
    assert read_header(str(path)).context_length is None


def test_version_2_is_read(path: Path) -> None:
    """It differs from version 3 in nothing that matters here."""
    write(path, version=2)
    assert read_header(str(path)).architecture == "llama"


# --- Wrong ones ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<html>", "does not begin like"),
        (b"GGUF", "ends in the middle"),
        (b"GGML" + bytes(100), "does not begin like"),
        (b"\x00" * 24, "does not begin like"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(100), "big-endian"),
        (header({}, version=1), "version 1"),
        (header({}, version=4), "version 4"),
        (header({}, version=0), "version 0"),
        (header({}), "names no architecture"),
        (header({}, count=2**63), "announces more"),
        (header({}, tensors=2**40), "announces more"),
        (header({}, count=1), "ends in the middle"),
        (header({"general.architecture": "a b\n"}), "architecture that cannot be"),
        (header({"general.architecture": ""}), "names no architecture"),
        (header({}, count=1) + struct.pack("<Q", 2**31) + b"x", "key that is too long|ends in"),
        (header({}, count=1) + struct.pack("<Q", 2**64 - 1), "key that is too long|ends in"),
        (header({}, count=1) + string("k") + struct.pack("<IQ", STRING, 2**31), "ends in"),
        (header({}, count=1) + string("k") + struct.pack("<IQ", STRING, 2**64 - 1), "ends in"),
        (header({}, count=1) + string("k") + struct.pack("<I", 13), "unknown type 13"),
        (header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, 77, 1), "unknown type 77"),
        (header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1), "of arrays"),
        (header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, STRING, 2**60), "ends in"),
        (header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, UINT64, 2**63), "ends in"),
        (header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, UINT8, 9), "ends in"),
    ],
)
def test_what_is_wrong_is_said(path: Path, data: bytes, reason: str) -> None:
    """Each is refused with a sentence of its own."""
    path.write_bytes(data)
    assert any(part in refusal(path) for part in reason.split("|"))


def test_a_header_that_ends_anywhere_is_refused(path: Path) -> None:
    """At every byte, also in a quick look."""
    whole = header(model_keys(vocabulary=3))
    quick_end = whole.index(b"tokenizer.ggml.model")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
        if length < quick_end:
            refusal(path, whole=False)


@pytest.mark.parametrize("text_bytes", [2**31, 2**40])
def test_a_huge_string_in_a_huge_file_costs_nothing(path: Path, text_bytes: int) -> None:
    """It is skipped, not read: 2 GiB that are a hole in the file, or more."""
    before = header({}, count=8) + string("general.description")
    before += struct.pack("<IQ", STRING, text_bytes)
    rest = header(model_keys())[24:]
    with path.open("wb") as file:
        file.write(before)
        file.truncate(len(before) + text_bytes)
        file.seek(0, os.SEEK_END)
        file.write(rest)
    begun_s = time.perf_counter()
    assert read_header(str(path)).architecture == "llama"
    assert time.perf_counter() - begun_s < LIMIT_S


def test_a_sparse_file_of_empty_strings_is_given_up(path: Path) -> None:
    """A hole of a terabyte holds as many of them as one likes to announce."""
    head = header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, STRING, 2**36)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(2**40)
    begun_s = time.perf_counter()
    assert "more strings" in refusal(path, whole=False)
    assert time.perf_counter() - begun_s < LIMIT_S


def test_many_large_arrays_of_strings_are_given_up(path: Path) -> None:
    """The bound is for all of them together."""
    array = struct.pack("<IIQ", ARRAY, STRING, gguf_reader.MAX_STRINGS // 2)
    with path.open("wb") as file:
        file.write(header({}, count=9))
        for name in "abcdefghi":
            file.write(string(name) + array)
            file.seek(gguf_reader.MAX_STRINGS // 2 * 8, os.SEEK_CUR)
        file.truncate(2**30)
    begun_s = time.perf_counter()
    assert "more strings" in refusal(path)
    assert time.perf_counter() - begun_s < LIMIT_S


def test_reading_is_bounded_in_bytes(path: Path) -> None:
    """Strings that are farther apart than a read each cost one, up to a limit."""
    length = 2**20
    count = 3 * gguf_reader.MAX_READ_BYTES // length
    with path.open("wb") as file:
        file.write(header({}, count=1) + string("k") + struct.pack("<IIQ", ARRAY, STRING, count))
        for _ in range(count):
            file.write(struct.pack("<Q", length))
            file.seek(length, os.SEEK_CUR)
        file.truncate(2**30)
    assert "larger than" in refusal(path)


def test_a_folder_a_fifo_and_a_device_are_not_read(tmp_path: Path) -> None:
    """Nobody waits for a writer that never comes."""
    (tmp_path / "folder.gguf").mkdir()
    os.mkfifo(tmp_path / "fifo.gguf")
    assert "it is not a file" in refusal(tmp_path / "folder.gguf")
    assert "it is not a file" in refusal(tmp_path / "fifo.gguf")
    assert "it is not a file" in refusal(Path("/dev/zero"))


def test_what_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """Missing, a circle of links, a name that is none."""
    (tmp_path / "loop").symlink_to("loop")
    assert "No such file" in refusal(tmp_path / "missing")
    assert "symbolic links" in refusal(tmp_path / "loop")
    with pytest.raises(GgufError, match="not a file name"):
        read_header("a\0b")


def test_what_may_not_be_read_is_refused(path: Path) -> None:
    """The reason is the system's."""
    write(path)
    path.chmod(0)
    with like_anybody():
        assert "Permission denied" in refusal(path)


# --- The table of tensors ------------------------------------------------------------


def test_the_table_of_tensors_says_which_layers_are_there(path: Path) -> None:
    """A file with the last ones only has draft layers."""
    write(path, names=["token_embd.weight", "blk.10.x.weight", "blk.9.y.weight"])
    assert read_tensor_table(str(path)) == TensorTable(9, None, 1)
    write(path, names=["v.blk.3.x.weight", "block.weight"])
    assert read_tensor_table(str(path)).first_layer is None


def test_a_part_of_a_split_model_says_its_number(path: Path) -> None:
    """Behind the vocabulary, and without an architecture in all parts but the first."""
    write(path, {"split.no": Typed(UINT16, 1), "split.count": Typed(UINT16, 3)})
    assert read_tensor_table(str(path)) == TensorTable(None, 2, 3)


def test_a_file_that_ends_anywhere_is_refused(path: Path) -> None:
    """At every byte before the end of its last tensor."""
    write(path, model_keys(vocabulary=3), names=["a", "b", "c"])
    whole = path.read_bytes()
    read_tensor_table(str(path))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(GgufError, match=r"truncated|ends in the middle|is empty|begin like"):
            read_tensor_table(str(path))
    path.write_bytes(whole[:-5])
    with pytest.raises(GgufError, match="its last 5 bytes are missing"):
        read_tensor_table(str(path))


@pytest.mark.parametrize(
    ("kind", "numbers", "size_bytes"),
    [(0, 32, 128), (1, 32, 64), (8, 64, 68), (12, 256, 144), (14, 512, 420), (39, 32, 17)],
)
def test_tensors_of_every_type_have_their_size(path, kind, numbers, size_bytes) -> None:
    """Quantized numbers come in blocks."""
    data = header(model_keys()) + table(["x"], kind=kind, numbers=numbers)
    data += bytes(-len(data) % 32)
    path.write_bytes(data + bytes(size_bytes))
    read_tensor_table(str(path))
    path.write_bytes(data + bytes(size_bytes - 1))
    with pytest.raises(GgufError, match="its last 1 bytes are missing"):
        read_tensor_table(str(path))


def test_the_alignment_of_the_header_counts(path: Path) -> None:
    """The data begin at its next multiple."""
    data = header(model_keys() | {"general.alignment": 4096}) + table(["x"])
    path.write_bytes(data + bytes(-len(data) % 4096 + 32))
    read_tensor_table(str(path))
    path.write_bytes(data + bytes(-len(data) % 4096 + 31))
    with pytest.raises(GgufError, match="truncated"):
        read_tensor_table(str(path))
    path.write_bytes(header(model_keys() | {"general.alignment": 0}) + table(["x"]) + bytes(99))
    with pytest.raises(GgufError, match="no power of two"):
        read_tensor_table(str(path))


def test_an_unknown_type_of_a_tensor_is_no_mistake(path: Path) -> None:
    """A later llama.cpp may know it."""
    path.write_bytes(header(model_keys()) + table(["x"], kind=999) + bytes(32))
    read_tensor_table(str(path))


def test_a_damaged_table_is_refused(path: Path) -> None:
    """A tensor has four dimensions at most."""
    path.write_bytes(header(model_keys()) + string("x") + struct.pack("<I", 5) + bytes(99))
    with pytest.raises(GgufError, match="table of tensors is damaged"):
        read_tensor_table(str(path))


def test_a_vocabulary_that_was_read_before_is_not_read_again(tmp_path, monkeypatch) -> None:
    """Most models of a collection share a few; one that only begins like another is read."""
    tokens = [f"token {n}" for n in range(20_000)]
    files: list[Any] = []
    for last in ("the end", "the end", "another end", "tokenizer."):
        keys = model_keys() | {"tokenizer.tokens": Items(STRING, [*tokens, last])}
        keys |= {"tokenizer.more": Items(STRING, tokens), "general.file_type": 15}
        files.append(write(tmp_path / f"{len(files)}.gguf", keys, names=["blk.7.x"]))
    read_bytes: list[int] = []
    pread = os.pread

    def counted(descriptor: int, count: int, position: int) -> bytes:
        data = pread(descriptor, count, position)
        read_bytes[-1] += len(data)
        return data

    monkeypatch.setattr(os, "pread", counted)
    known = KnownArrays()
    for file in files:
        read_bytes.append(0)
        assert read_tensor_table(str(file), known) == TensorTable(7, None, 1)
    first, same, *others = read_bytes
    assert same < 100_000 < first / 3
    assert min(others) > first / 3
    os.truncate(files[1], files[1].stat().st_size - 1)
    with pytest.raises(GgufError, match="truncated"):
        read_tensor_table(str(files[1]), known)


def test_real_files_are_complete(tmp_path: Path) -> None:
    """Those by llama.cpp's own writer have all of their data, and miss their last byte."""
    pytest.importorskip("gguf", reason="the extra 'embedded' is not installed")
    for make in (make_chat_model, make_rerank_model, make_projector):
        file = tmp_path / f"{make.__name__}.gguf"
        make(file, name="x")
        first_layer = read_tensor_table(str(file)).first_layer
        assert first_layer == (None if make is make_projector else 0)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 64)
        with pytest.raises(GgufError, match="truncated"):
            read_tensor_table(str(file))


# --- Anything ------------------------------------------------------------------------

numbers = st.sampled_from(sorted(FORMATS)).flatmap(
    lambda kind: st.binary(min_size=8, max_size=8).map(
        lambda data: Typed(kind, struct.unpack(f"<{FORMATS[kind]}", data[: _size(kind)])[0])
    )
)


def _size(kind: int) -> int:
    return struct.calcsize(FORMATS[kind])


values = st.one_of(
    st.binary(max_size=50),
    numbers,
    st.lists(st.binary(max_size=9), max_size=9).map(lambda items: Items(STRING, items)),
    st.lists(st.integers(0, 2**32 - 1), max_size=9).map(lambda items: Items(UINT32, items)),
    st.lists(st.floats(width=32), max_size=9).map(lambda items: Items(FLOAT32, items)),
)
keys = st.one_of(
    st.sampled_from([*model_keys(vocabulary=1), *projector_keys(), "bert.pooling_type"]),
    st.text(max_size=20),
)
headers = st.dictionaries(keys, values, max_size=12)


def _quiet(path: Path, *, whole: bool) -> Header | None:
    """Return the header, or None if it is refused; anything else is a failure."""
    begun_s = time.perf_counter()
    try:
        if whole:
            with suppress(GgufError):
                read_tensor_table(str(path))
        return read_header(str(path), whole=whole)
    except GgufError:
        return None
    finally:
        assert time.perf_counter() - begun_s < LIMIT_S


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(b"GGUF".__add__)))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data: bytes) -> None:
    """Never another exception, never a long time."""
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    path.write_bytes(data)
    for whole in (False, True):
        _quiet(path, whole=whole)


@settings(max_examples=300, deadline=None)
@given(
    keys=headers,
    edits=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=5),
    length=st.integers(0, 4000),
)
def test_damaged_headers_are_read_or_refused(tmp_path_factory, keys, edits, length) -> None:
    """Bytes are changed and the end is cut off, as on a broken disk."""
    data = bytearray(header(keys))
    for position, byte in edits:
        data[position % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(data[: max(length, 24)])
    for whole in (False, True):
        _quiet(path, whole=whole)


@settings(max_examples=200, deadline=None)
@given(keys=headers, architecture=st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True))
def test_right_headers_are_never_refused(tmp_path_factory, keys, architecture) -> None:
    """Whatever else is in them, and in whatever order."""
    path = tmp_path_factory.getbasetemp() / "right.gguf"
    typed = {"general.type": "model", "general.architecture": architecture}
    write(path, {**keys, **typed})
    for whole in (False, True):
        found = _quiet(path, whole=whole)
        assert found is not None
        assert found.architecture == architecture


def test_memory_does_not_grow_with_what_a_header_announces(path: Path) -> None:
    """The buffer of a walk through a large vocabulary is bounded."""
    import tracemalloc  # noqa: PLC0415 -- only here

    write(path, model_keys(vocabulary=300_000))
    assert path.stat().st_size > 4 * 2**20
    tracemalloc.start()
    try:
        read_header(str(path), whole=True)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * 2**20


def test_a_value_of_every_type_is_passed_over(path: Path) -> None:
    """All thirteen types of the specification are known."""
    odd = {f"odd.{kind}": Typed(kind, 1) for kind in FORMATS}
    arrays = {f"array.{kind}": Items(kind, [1] * 2000) for kind in FORMATS}
    write(path, {**odd, **arrays, **model_keys()})
    assert read_header(str(path)).architecture == "llama"
    assert value("x").startswith(struct.pack("<I", STRING))
