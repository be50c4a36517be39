"""What is said of a backend that failed."""

from __future__ import annotations

from llama_router.errors.backends import BackendExitedError


def test_the_last_lines_are_quoted() -> None:
    """In their order, in one sentence."""
    error = BackendExitedError("m", 3, ("one", "two"))
    assert str(error) == "the backend of model 'm' exited with code 3; its last output: one | two"


def test_only_the_beginning_of_a_very_long_line_is_quoted() -> None:
    """A backend that prints binary data does not fill the log, nor each client's screen."""
    lines = ("x" * 16_000,) * 8
    for error in (BackendExitedError("m", 3, lines), BackendExitedError("m", 3, evidence=lines)):
        assert len(str(error)) < 3000
        assert "x" * 300 + "…" in str(error)
    assert BackendExitedError("m", 3, lines).log_tail == lines
