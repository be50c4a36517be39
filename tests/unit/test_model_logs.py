"""What ``llama-router logs`` prints of what it reads."""

from __future__ import annotations

import pytest

from llama_router.cli.commands.model_logs import _Printer
from llama_router.model_logs.record import LogRecord


def test_a_gap_is_said_beside_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """Once, on standard error: the log itself stays what the backend printed."""
    lines = [LogRecord(f"2026-11-25T18:00:00.00{n}Z", str(n)) for n in range(6)]
    printer = _Printer("m", as_json=False)
    printer.print(lines[:2])
    printer.restart()
    printer.print(lines[1:3])
    assert capsys.readouterr().err == ""
    printer.restart()
    printer.print(lines[4:])
    shown = capsys.readouterr()
    assert shown.err.count("lines may be missing here") == 1
    assert [line.rpartition(" ")[2] for line in shown.out.splitlines()] == ["4", "5"]
