"""Fixtures that every kind of test may use."""

import signal
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the program.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell lets what it starts in the background ignore Ctrl-C, and so all that this starts in
# turn: the programs that tests end by SIGINT would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def py() -> Callable[..., list[str]]:
    """Return a function that makes a command line out of Python source."""
    return lambda code, *arguments: [sys.executable, "-u", "-c", code, *arguments]
