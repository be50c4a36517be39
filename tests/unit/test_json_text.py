"""JSON with names of files that are not UTF-8."""

from __future__ import annotations

import json

import attrs
import msgspec
import pytest

from llama_router.files.json_text import decode_kept, encode_kept, encode_shown
from llama_router.logs.rendering import json_line

NAME = b"/d\xff/\xe2\x98\x83".decode(errors="surrogateescape")


@attrs.frozen
class Found:
    """A value as the router's processes exchange it."""

    path: str
    size_bytes: int = 1


def test_other_programs_get_a_question_mark() -> None:
    """The JSON is strict, and all else in it is as it was."""
    assert msgspec.json.decode(encode_shown({"a": Found(NAME), "b": [True]})) == {
        "a": {"path": "/d?/\N{SNOWMAN}", "size_bytes": 1},
        "b": [True],
    }
    assert encode_shown({"a": "\N{SNOWMAN}"}) == '{"a":"\N{SNOWMAN}"}'.encode()


@pytest.mark.parametrize("path", [NAME, "/plain", "\\udcff"])
def test_another_process_gets_the_name(path: str) -> None:
    """Byte for byte."""
    found = Found(path)
    assert decode_kept(encode_kept(found), Found) == found


@pytest.mark.parametrize("data", [b"", b"{", b'{"path": 1}', b'{"path": "\\udcff"', b'["\\udcff"]'])
def test_anything_else_is_refused(data: bytes) -> None:
    """With an error of one kind."""
    with pytest.raises(msgspec.MsgspecError):
        decode_kept(data, Found)


def test_a_line_of_the_log_keeps_its_other_fields() -> None:
    """Only the one that cannot be encoded becomes a text."""
    line = json.loads(json_line({"path": NAME, "added": [1], "n": None}))
    assert line == {"path": "/d\\udcff/\N{SNOWMAN}", "added": [1], "n": None}
