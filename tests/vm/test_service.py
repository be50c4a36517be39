"""The service under a systemd of its own: each check of `tests/vm/guest` in a virtual machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vm.machine import run_checks

pytestmark = pytest.mark.vm

CHECKS = sorted(path.stem for path in (Path(__file__).parent / "guest").glob("check_*.py"))


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """The reports of the wanted checks: they run one after another in one machine.

    The first one installs the service for all others.
    """
    names = " ".join(item.name for item in request.session.items)
    return run_checks([check for check in CHECKS if f"[{check}]" in names or check == CHECKS[0]])


@pytest.mark.parametrize("check", CHECKS)
def test_check(reports: dict[str, dict[str, Any]], check: str) -> None:
    """The check succeeds in the machine; its docstring says what it shows."""
    assert check in reports, f"the machine ended before it; it did {', '.join(reports)}"
    report = reports[check]
    print(f"{report['took_s']} s in the machine\n{report['output']}")
    assert report["ok"], report["output"]
