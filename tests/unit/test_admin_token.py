"""Where the admin token comes from, and how commands find a router."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_router import runtime_file
from llama_router.admin_token import AdminTokenFileError, admin_token, read_token
from llama_router.runtime_file import RuntimeFile
from tests.privileges import like_anybody


def test_a_token_is_made_once(tmp_path: Path) -> None:
    """The next start uses the same; only its owner may read it, whatever the umask."""
    before = os.umask(0)
    try:
        first = admin_token(tmp_path / "state", {})
    finally:
        os.umask(before)
    assert len(first.value) >= 40
    assert first.path == tmp_path / "state" / "admin-token"
    assert first.path.stat().st_mode & 0o777 == 0o600
    assert admin_token(tmp_path / "state", {}) == first
    assert [path.name for path in first.path.parent.iterdir()] == ["admin-token"]
    assert admin_token(tmp_path / "other", {}).value != first.value


def test_a_credential_comes_first(tmp_path: Path) -> None:
    """Nothing is made then; an environment without one changes nothing."""
    (tmp_path / "admin_token").write_text("from-the-manager-0123\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert admin_token(tmp_path / "state", environ).value == "from-the-manager-0123"
    assert not (tmp_path / "state").exists()
    (tmp_path / "admin_token").unlink()
    assert len(admin_token(tmp_path / "state", environ).value) >= 40


@pytest.mark.parametrize("content", [b"", b"short\n", b"\xff" * 32])
def test_a_file_without_a_token_is_refused(tmp_path: Path, content: bytes) -> None:
    """Rather than to accept an empty one from everybody."""
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(AdminTokenFileError, match=str(path)):
        read_token(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """A pipe that nobody writes to holds up no start, nor does one without an end."""
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "admin-token"
    make(path)
    with pytest.raises(AdminTokenFileError, match=f"{path}: .* regular file|{path}: Is a dir"):
        admin_token(path.parent, {})


def test_a_command_takes_a_pipe(tmp_path: Path) -> None:
    """As a shell makes one of another program's output."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=("from-a-program-01\n",))
    writer.start()
    assert read_token(path, any_kind=True) == "from-a-program-01"
    writer.join()


@pytest.mark.parametrize(
    ("mode", "warning"),
    [
        (0o600, None),
        (0o400, None),
        (0o640, None),  # perhaps of those who operate the router
        (0o644, "other users may read it, because its mode is 0644"),
        (0o606, "may read it"),
        (0o602, "may change it"),
        (0o620, "may change it"),
    ],
)
def test_a_file_that_others_may_read_is_doubted(
    tmp_path: Path, mode: int, warning: str | None
) -> None:
    """It is used all the same: a router that does not start helps nobody."""
    made = admin_token(tmp_path, {})
    made.path.chmod(mode)
    again = admin_token(tmp_path, {})
    assert again.value == made.value
    assert warning in (again.warning or "") if warning else again.warning is None


def test_a_token_does_not_show(tmp_path: Path) -> None:
    """Whoever logs the value logs its path."""
    token = admin_token(tmp_path, {})
    assert token.value not in repr(token)


def content(pid: int) -> RuntimeFile:
    return RuntimeFile(pid=pid, urls=("http://127.0.0.1:1",), config="/c", token_file="/t")


def test_a_running_router_is_found(tmp_path: Path) -> None:
    """In the runtime directory if there is one, else in the state directory."""
    assert runtime_file.runtime_path(tmp_path, {}) == tmp_path / "router.json"
    there = {"RUNTIME_DIRECTORY": f"{tmp_path}/a:{tmp_path}/b"}
    path = runtime_file.runtime_path(tmp_path, there)
    assert path == tmp_path / "a" / "router.json"
    runtime_file.write(path, content(os.getpid()))
    assert runtime_file.read(path) == content(os.getpid())
    runtime_file.remove(path)
    assert not path.exists()
    runtime_file.remove(path)


def test_a_token_of_the_configuration_is_kept_beside_it(tmp_path: Path) -> None:
    """For its owner only, whatever the umask; and only for as long as it counts."""
    path = tmp_path / "router.json"
    before = os.umask(0)
    try:
        runtime_file.write(path, content(os.getpid()), "a-secret-0123456789")
    finally:
        os.umask(before)
    kept = runtime_file.token_path(path)
    assert (read_token(kept), kept.stat().st_mode & 0o777) == ("a-secret-0123456789", 0o600)
    assert b"a-secret" not in path.read_bytes()
    runtime_file.write(path, content(os.getpid()))
    assert [each.name for each in tmp_path.iterdir()] == ["router.json"]
    runtime_file.write(path, content(os.getpid()), "a-secret-0123456789")
    runtime_file.remove(path)
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_gone_is_not(tmp_path: Path) -> None:
    """Nor is a file that says something else."""
    path = tmp_path / "router.json"
    assert runtime_file.read(path) is None
    empty = '{"pid": 1, "urls": [], "config": "", "token_file": ""}'
    for text in ("", "[]", "{}", '{"pid": "x"}', empty, "\xff"):
        path.write_text(text, encoding="latin-1")
        assert runtime_file.read(path) is None, text
    runtime_file.write(path, content(2**22 + 1))  # above the largest pid that Linux gives
    assert runtime_file.read(path) is None


def test_the_file_of_another_router_is_left(tmp_path: Path) -> None:
    """It took the place of this one's."""
    path = tmp_path / "router.json"
    runtime_file.write(path, content(os.getppid()))
    runtime_file.remove(path)
    assert path.exists()


def test_a_second_router_does_not_hide_the_first(tmp_path: Path) -> None:
    """It would take the file with it at its end; that of a router that ended is replaced."""
    path = tmp_path / "router.json"
    words = (sys.executable, "-c", "print('up', flush=True); input()", "llama-router")
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        try:
            # Popen returns in the middle of exec, when /proc does not know the words yet.
            assert first.stdout is not None
            assert first.stdout.readline() == b"up\n"
            runtime_file.write(path, content(first.pid))
            with pytest.raises(OSError, match=f"another router, pid {first.pid}, has the file"):
                runtime_file.write(path, content(os.getpid()))
            assert runtime_file.read(path) == content(first.pid)
        finally:
            first.kill()
    runtime_file.write(path, content(os.getpid()))
    assert runtime_file.read(path) == content(os.getpid())


def test_a_disk_that_is_full_is_not_littered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unfinished file is removed."""

    def fail(path: Path, _: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        runtime_file.write(tmp_path / "router.json", content(os.getpid()))
    assert list(tmp_path.iterdir()) == []


def test_a_token_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    """Another user's, for instance: nothing is made in its place."""
    made = admin_token(tmp_path, {})
    made.path.chmod(0)
    with like_anybody(), pytest.raises(AdminTokenFileError, match="Permission denied"):
        admin_token(tmp_path, {})
