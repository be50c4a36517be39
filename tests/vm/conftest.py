"""The checks in a virtual machine are collected only when they are asked for: ``-m vm``."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the checks out of every other run of the tests."""
    return None if config.getoption("markexpr") == "vm" else True
