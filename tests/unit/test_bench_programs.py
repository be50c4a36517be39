"""Free ports and versions of programs for the benchmarks."""

from __future__ import annotations

import socket
import sys
import sysconfig
from typing import Self

import pytest

from bench import programs, versions


def test_a_range_of_ports_is_free_as_a_whole() -> None:
    """Each port of the range can be bound, at the same time."""
    first = programs.free_ports(3)
    listeners = [socket.create_server((programs.HOST, first + more)) for more in range(3)]
    assert [one.getsockname()[1] for one in listeners] == [first, first + 1, first + 2]
    for listener in listeners:
        listener.close()


def test_a_taken_neighbour_moves_the_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free port next to a taken one is not the start of a range."""
    asked: list[int] = []
    candidates = iter([100, 200])

    class Server:
        """A socket on a port of this test; 101 is taken."""

        def __init__(self, address: tuple[str, int]) -> None:
            self.port = address[1] or next(candidates)
            asked.append(self.port)
            if self.port == 101:
                raise OSError

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            """Close nothing."""

        def getsockname(self) -> tuple[str, int]:
            """Return the address."""
            return (programs.HOST, self.port)

    monkeypatch.setattr("bench.programs.socket.create_server", Server)
    assert programs.free_ports(2) == 200
    assert asked == [100, 101, 200, 201]


def test_no_range_of_ports_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search ends where no port is free."""

    def refuse(_: tuple[str, int]) -> None:
        raise OSError

    monkeypatch.setattr("bench.programs.socket.create_server", refuse)
    with pytest.raises(programs.StartError, match="no 2 free ports in a row"):
        programs.free_ports(2)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nginx version: nginx/1.22.1", "nginx version: nginx/1.22.1"),
        ("ggml_init: found a device\nversion: 6700 (abc)\nbuilt with cc", "version: 6700 (abc)"),
        ("curl 7.88.1\nRelease-Date: today", "curl 7.88.1"),
        ("", "unknown (no output)"),
    ],
)
def test_the_line_with_the_version_is_named(said: str, version: str) -> None:
    """Programs print it to either stream, and some print other lines around it."""
    code = f"import sys; sys.stderr.write({said!r})"
    assert versions.of_program(sys.executable, "-S", "-c", code) == version


def test_a_program_without_a_version_is_unknown() -> None:
    """A report is not lost to a program that fails or is not there."""
    assert versions.of_program("/nonexistent/program").startswith("unknown (")
    assert versions.of_program(sys.executable, "-S", "-c", "exit(3)").startswith("unknown (")


def test_a_report_names_machine_and_programs() -> None:
    """Python, kernel and CPU come first, then what was measured."""
    lines = list(versions.lines({"nginx": "1.22"}))
    names = [line.partition(":")[0] for line in lines]
    assert names == ["llama-router", "Python", "kernel", "CPU", "nginx"]
    assert sys.executable in lines[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("'--enable-optimizations' '--with-lto=full'", "with profile-guided optimization and LTO"),
        ("'--enable-optimizations'", "with profile-guided optimization"),
        ("'--prefix=/usr'", "built by the distribution"),
        ("'--prefix=/home/me/.pyenv'", "built without profile-guided optimization"),
    ],
)
def test_the_build_of_python_is_told(
    arguments: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of a Python without profile-guided optimization are a fifth higher."""
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: arguments)
    assert versions.optimization().endswith(expected)
