"""The dashboard's files: which are served, and how."""

from __future__ import annotations

import gzip

import pytest

from llama_router.control.ui.static_files import StaticFiles


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("parts/a.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_the_name_says_the_media_type(tmp_path, name, media_type) -> None:
    """Browsers refuse scripts and styles of any other type."""
    (tmp_path / "parts").mkdir()
    (tmp_path / name).write_text("x" * 1000)
    file = StaticFiles(tmp_path).read(name)
    assert file.media_type == media_type
    assert gzip.decompress(file.packed or b"") == file.content


def test_a_changed_file_is_read_again(tmp_path) -> None:
    """An upgrade under a running router, or an edit, shows at once."""
    files = StaticFiles(tmp_path)
    (tmp_path / "a.js").write_text("one")
    former = files.read("a.js")
    assert files.read("a.js") is former
    (tmp_path / "new.js").write_text("two")
    (tmp_path / "new.js").replace(tmp_path / "a.js")
    now = files.read("a.js")
    assert (now.content, former.content) == (b"two", b"one")
    assert now.tag != former.tag


@pytest.mark.parametrize(
    "name", ["a.py", "a", ".a.js", "../a.js", "b/../a.js", "folder.js", "\n.js"]
)
def test_other_files_do_not_exist(tmp_path, name) -> None:
    """Neither those of other types, nor hidden ones, nor ones outside of the folder."""
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "a.js").write_text("x")
    (tmp_path / "folder.js").mkdir()
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / ".a.js").write_text("x")
    (inner / "a").write_text("x")
    (inner / "b").mkdir()
    folder = tmp_path if name in {"a.py", "folder.js"} else inner
    assert StaticFiles(folder).read(name) is None


def test_what_does_not_get_smaller_is_not_compressed(tmp_path) -> None:
    """A client decodes no more than it must."""
    (tmp_path / "a.js").write_text("x")
    assert StaticFiles(tmp_path).read("a.js").packed is None
