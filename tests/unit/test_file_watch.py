"""When a file has changed and come to rest."""

from hypothesis import given
from hypothesis import strategies as st

from llama_router.config.file_watch import Absence, AbsenceNews, FileWatch, NextStep

WAIT, RECHECK, READ = NextStep.WAIT, NextStep.RECHECK, NextStep.READ


def steps(*stamps: int | None) -> list[NextStep]:
    """Return the step after each poll; a number stands for a stamp."""
    watch = FileWatch()
    return [watch.observe(None if stamp is None else (stamp,)) for stamp in stamps]


def test_a_change_counts_once_it_has_settled() -> None:
    """Two looks in a row see the same."""
    assert steps(1, 1, 1, 2, 3, 3, 3) == [RECHECK, READ, WAIT, RECHECK, RECHECK, READ, WAIT]


def test_a_file_that_vanished_has_not_changed() -> None:
    """When it is back as it was, nothing happened; as another one, it changed."""
    assert steps(1, 1, None, 1, None, 2, None, 2, 2)[2:] == [
        WAIT, WAIT, WAIT, RECHECK, WAIT, RECHECK, READ,
    ]  # fmt: skip


def test_what_was_read_anyhow_is_not_read_again() -> None:
    """What changed during that is."""
    watch = FileWatch()
    watch.mark_read((1,))
    watch.mark_read(None)
    assert [watch.observe((stamp,)) for stamp in (1, 1, 2, 2)] == [WAIT, WAIT, RECHECK, READ]


def test_a_change_that_is_taken_back_is_none() -> None:
    """The file is the one that was read."""
    assert steps(1, 1, 2, 1, 1) == [RECHECK, READ, RECHECK, WAIT, WAIT]


@given(st.lists(st.integers(0, 3) | st.none(), max_size=30), st.integers(0, 3))
def test_the_last_version_is_always_read(stamps: list[int | None], last: int) -> None:
    """Whatever happened before: once nothing changes any more, what is there was read."""
    watch = FileWatch()
    read = None
    for stamp in [*stamps, last, last, last]:
        now = None if stamp is None else (stamp,)
        if watch.observe(now) is READ:
            read = now
    assert read == (last,)
    assert watch.observe((last,)) is WAIT


def test_a_file_that_stays_away_is_news_once_and_its_return_too() -> None:
    """One that is missing for a moment is being replaced."""
    absence = Absence(5)
    polls = [(True, 0), (True, 4), (False, 5), (True, 6), (True, 11), (True, 20), (False, 21)]
    news = [absence.observe(is_gone=is_gone, now_s=now_s) for is_gone, now_s in polls]
    assert [each for each in news if each is not AbsenceNews.NONE] == [
        AbsenceNews.GONE,
        AbsenceNews.BACK,
    ]
    assert news[4] is AbsenceNews.GONE
    assert absence.observe(is_gone=False, now_s=22) is AbsenceNews.NONE
