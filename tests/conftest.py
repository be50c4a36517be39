"""Fixtures that every kind of test may use."""

import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def py() -> Callable[..., list[str]]:
    """Return a function that makes a command line out of Python source."""
    return lambda code, *arguments: [sys.executable, "-u", "-c", code, *arguments]
