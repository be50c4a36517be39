"""The benchmark of logs runs, and what it counts adds up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import LIMIT_S

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


def test_every_line_of_a_flood_is_accounted_for(tmp_path: Path) -> None:
    """Seen by the follower or counted as left out; how fast this machine is does not matter."""
    figures_path = tmp_path / "figures.json"
    command = ["logs", "--seconds", "3", "--json", str(figures_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert "met: every line is accounted for" in done.stdout, done.stdout + done.stderr
    figures = json.loads(figures_path.read_text())
    assert figures["printed"] > 100_000
    assert figures["seen"] > 0
    assert figures["counted"] > 0
