"""The lists of models of services, as they are kept and as they are read."""

from pathlib import Path

import pytest

from llama_router.backends.service import is_usable_name
from llama_router.config import service_lists
from llama_router.core.config.service import matching_names


def test_a_list_is_kept_per_service(tmp_path: Path) -> None:
    """Only another one is news."""
    folder = tmp_path / "state"
    assert service_lists.read(folder) == {}
    assert service_lists.store(folder, "http://a", ("x", "y"))
    assert service_lists.store(folder, "http://b", ("z",))
    assert not service_lists.store(folder, "http://a", ("x", "y"))
    assert service_lists.read(folder) == {"http://a": ("x", "y"), "http://b": ("z",)}


@pytest.mark.parametrize("damage", [b"", b"{", b'{"http://a": [1]}', b"\xff", b"[]"])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, damage: bytes) -> None:
    """The services are asked again anyway."""
    (tmp_path / service_lists.NAME).write_bytes(damage)
    assert service_lists.read(tmp_path) == {}
    assert service_lists.store(tmp_path, "http://a", ("x",))
    assert service_lists.read(tmp_path) == {"http://a": ("x",)}


def test_patterns_and_names() -> None:
    """A star is all that is special."""
    names = ["a", "ab", "b[1]", "c?"]
    assert matching_names(["*"], names) == names
    assert matching_names(["a*", "c?"], names) == ["a", "ab", "c?"]
    assert matching_names(["x"], names) == []
    assert matching_names(["b[1*", "?*"], names) == ["b[1]"]


@pytest.mark.parametrize("name", ["", "a\nb", "\x1b[31m", "a*"])
def test_names_that_are_none_here(name: str) -> None:
    """What a service lists is not trusted."""
    assert not is_usable_name(name)
