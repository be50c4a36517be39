"""Fixtures that every kind of test may use, and how many tests run at a time."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from llama_router.build_kind import PURE, build_kind

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

# Or each of the many programs that tests start compiles all modules that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A llama-server's threads that spin while they wait take the processors from all other tests, and
# from each other: measured, a test took 36 s of processor time where 1 s does.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of processes that run tests: one for each core, none for one file.

    A file by itself is done before other processes have come up, and its output is seen live.
    """
    if len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file():
        return 0
    return len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs interpreted modules, where the compiled build is tested (`.ci/compiled`)."""
    if build_kind() == PURE:
        return
    for item in items:
        if item.get_closest_marker("interpreted"):
            item.add_marker(pytest.mark.skip(reason="needs interpreted modules"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests that skipped."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("interpreted" in report.keywords for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests need interpreted modules and were skipped")


@pytest.fixture
def py() -> Callable[..., list[str]]:
    """Return a function that makes a command line out of Python source."""
    return lambda code, *arguments: [sys.executable, "-u", "-c", code, *arguments]
