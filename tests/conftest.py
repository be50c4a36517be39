"""Fixtures that every kind of test may use."""

import signal
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is, and nothing about the program.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# A shell lets what it starts in the background ignore Ctrl-C, and `nohup` a hangup, and so all
# that this starts in turn: programs that tests end like that would go on. A handler of Python's
# is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture
def py() -> Callable[..., list[str]]:
    """Return a function that makes a command line out of Python source."""
    return lambda code, *arguments: [sys.executable, "-u", "-c", code, *arguments]
