"""Names of processes, on a tree of ordinary files that stands for /proc."""

from pathlib import Path

import pytest

from llama_router.process.names import name_of

PID = 4711


def name(proc: Path, comm: str, *argv: str, cwd: str | None = None) -> str:
    folder = proc / str(PID)
    folder.mkdir()
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in argv))
    if cwd is not None:
        (folder / "cwd").symlink_to(cwd)
    return name_of(PID, proc)


@pytest.mark.parametrize(
    ("comm", "argv", "expected"),
    [
        ("ollama", ("/usr/bin/ollama", "serve"), "ollama"),
        ("llama-server-cu", ("/opt/llama-server-cuda", "-m", "a"), "llama-server-cuda"),
        ("kthreadd", (), "kthreadd"),
        ("VLLM::EngineCor", ("VLLM::EngineCore",), "VLLM::EngineCore"),
        ("python", ("python3.12", "-u", "/home/ann/ComfyUI/main.py"), "ComfyUI/main.py"),
        ("python", ("/usr/bin/python3", "train_lora.py"), "train_lora.py"),
        ("python3", ("python3", "-m", "vllm.entrypoints.openai"), "vllm.entrypoints.openai"),
        ("python3", ("python3",), "python3"),
        ("a\x1b[31m", (), "a?[31m"),
    ],
)
def test_a_process_is_named_by_what_it_runs(
    tmp_path: Path, comm: str, argv: tuple[str, ...], expected: str
) -> None:
    """The program, or the script or module that an interpreter was given."""
    assert name(tmp_path, comm, *argv) == expected


def test_a_common_name_has_its_folder(tmp_path: Path) -> None:
    """That in which the process was started, if the command does not say."""
    assert name(tmp_path, "python", "python", "main.py", cwd="/srv/ComfyUI") == "ComfyUI/main.py"


def test_a_common_name_stands_alone_if_its_folder_is_secret(tmp_path: Path) -> None:
    """Another user's process."""
    assert name(tmp_path, "python", "python", "main.py") == "main.py"


def test_a_process_that_is_gone_has_no_name(tmp_path: Path) -> None:
    """Nothing can be read about it."""
    assert name_of(PID, tmp_path) == ""
