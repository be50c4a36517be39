"""A file is missing only if that is sure."""

from pathlib import Path

import pytest

from llama_router.absence import is_absent


def test_a_file_that_is_there_is_not_absent(tmp_path: Path) -> None:
    """Nor is a folder."""
    (tmp_path / "a").touch()
    assert not is_absent(tmp_path / "a")
    assert not is_absent(str(tmp_path))


@pytest.mark.parametrize("name", ["a", "a/b", "file/b", "loop", "\0"])
def test_what_cannot_be_there_is_absent(tmp_path: Path, name: str) -> None:
    """Also below something that is no folder, and behind a link to itself."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert is_absent(f"{tmp_path}/{name}")


def test_what_cannot_be_looked_at_may_be_there(tmp_path: Path) -> None:
    """An error of the file system is no news about the file, and is not raised."""
    assert not is_absent(tmp_path / ("x" * 300))
