"""The line that ``systemctl status`` shows."""

from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.scheduling.lifecycle import Phase
from llama_router.systemd.status_line import MAX_CHARACTERS, status_line


def test_running_models_are_named_first() -> None:
    """What runs, what loads, what failed; models that do nothing are only counted."""
    phases = {
        "a": Phase.STOPPED,
        "b": Phase.STARTING,
        "c": Phase.READY,
        "d": Phase.FAILED,
        "e": Phase.READY,
    }
    assert status_line(phases) == "5 models; running: c, e; loading: b; failed: d"


def test_nothing_running_is_said() -> None:
    """An idle router is not an empty line."""
    assert status_line({"a": Phase.STOPPED}) == "1 model; no model is running"
    assert status_line({}) == "0 models; no model is running"


@given(st.dictionaries(st.text(), st.sampled_from(Phase), max_size=80))
def test_it_is_one_short_line_whatever_models_are_called(phases: dict[str, Phase]) -> None:
    """A name cannot smuggle another field into the message, nor make it too long."""
    line = status_line(phases)
    assert len(line) <= MAX_CHARACTERS
    assert len(line.splitlines()) == 1
    assert "\n" not in line
