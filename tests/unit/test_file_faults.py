"""Files that a model needs, and what keeps them from being used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_router.core.config.file_needs import FileKind, FileNeed, needs_of
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.files.faults import fault_of, first_fault
from tests.privileges import like_anybody


@pytest.mark.parametrize(
    ("name", "kind", "fault"),
    [
        ("file", FileKind.MODEL, None),
        ("file", FileKind.FILE, None),
        ("file", FileKind.FOLDER, "is not a folder"),
        ("file", FileKind.PROGRAM, "is not executable for this user"),
        ("folder", FileKind.MODEL, None),
        ("folder", FileKind.FILE, "is a folder, not a file"),
        ("folder", FileKind.FOLDER, None),
        ("folder", FileKind.PROGRAM, "is a folder, not a file"),
        ("program", FileKind.PROGRAM, None),
        ("closed/x", FileKind.FILE, "cannot be reached by this user"),
        ("nothing", FileKind.MODEL, "is not there"),
        ("file/x", FileKind.MODEL, "is not there"),
        ("loop", FileKind.MODEL, "is not there"),
        ("\0", FileKind.MODEL, "is not there"),
        ("x" * 300, FileKind.MODEL, None),  # whoever opens it says what is wrong
    ],
)
def test_what_keeps_a_file_from_being_used(
    tmp_path: Path, name: str, kind: FileKind, fault: str | None
) -> None:
    """It depends on the use; what cannot be told is left to the program."""
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "program").touch(mode=0o755)
    (tmp_path / "closed").mkdir(mode=0o000)
    (tmp_path / "loop").symlink_to("loop")
    with like_anybody():
        assert fault_of(FileNeed(f"{tmp_path}/{name}", kind)) == fault


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says so, also of one that is there."""
    monkeypatch.setattr(os, "access", lambda _path, mode, **_: mode != os.R_OK)
    (tmp_path / "m").touch()
    need = FileNeed(f"{tmp_path}/m", FileKind.MODEL)
    assert fault_of(need) == "is not readable for this user"


def test_capabilities_count(tmp_path: Path) -> None:
    """`access` asks for the real user; what counts is what this thread may do."""
    (tmp_path / "m").touch(mode=0)
    need = FileNeed(str(tmp_path / "m"), FileKind.MODEL)
    with like_anybody():
        assert fault_of(need) == "is not readable for this user"


def test_the_first_fault_counts(tmp_path: Path) -> None:
    """One file is named; what follows it is not looked at."""
    needs = [FileNeed(str(tmp_path / name), FileKind.FILE) for name in ("", "b", "c")]
    fault = first_fault(needs)
    assert fault is not None
    assert fault.need == needs[0]
    assert first_fault([]) is None


def needed(**table: object) -> list[tuple[str, str]]:
    spec = parse_config({"models": {"a": table}}).models[ModelId("a")]
    return [(need.path, need.kind.value) for need in needs_of(spec)]


def test_a_model_of_llama_server_is_a_file() -> None:
    """For other programs it may be a folder, and their arguments are theirs."""
    command = ["vllm", "serve", "$path", "--lora", "/l"]
    assert needed(path="/m", spawn={"command": command}) == [("/m", "model")]
    assert needed(path="/m", mmproj="/p", args=["--mmproj", "$mmproj", "--lora", "/l,/k"]) == [
        ("/m", "file"),
        ("/p", "file"),
        ("/l", "file"),
        ("/k", "file"),
    ]


def test_a_program_with_a_path_and_its_folder_are_needed() -> None:
    """One whose name is a placeholder is known when it is started."""
    spawn = {"command": ["/bin/llama-server", "-md", "d.gguf"], "cwd": "/w"}
    assert needed(spawn=spawn) == [
        ("/w", "folder"),
        ("/bin/llama-server", "program"),
        ("/w/d.gguf", "file"),
    ]
    assert needed(path="/m", spawn={"command": ["$path"]}) == [("/m", "model")]
