"""What ``llama-router bench`` makes of measured requests, and the prompts that it asks with."""

from random import Random

import pytest

from llama_router.cli.bench.figures import COLUMNS, Level, Sample, explanation, remarks
from llama_router.cli.bench.prompts import LONG, SHORT, Counting, prompt_of
from llama_router.cli.tables import plain, table


def sample(sent_s: float, first_s: float, last_s: float, prompt: int | None, tokens: int) -> Sample:
    """Return a request and its answer."""
    return Sample(
        sent_s=sent_s, first_s=first_s, last_s=last_s, prompt_tokens=prompt, tokens=tokens
    )


@pytest.fixture
def level() -> Level:
    """Two clients, the second of which waits for its first token."""
    samples = [sample(0, 0.5, 1.5, 100, 11), sample(0, 1.0, 2.0, 100, 11)]
    return Level(prompt=100, clients=2, samples=samples)


def test_times_and_rates(level: Level) -> None:
    """The rate of an answer begins with its first token; together counts from the first request."""
    figures = level.to_json()
    assert figures["ttft_s"] == 0.75
    assert figures["ttft_max_s"] == 1.0
    assert figures["prompt_tokens_per_s"] == 150.0  # of 200 and 100
    assert figures["tokens_per_s"] == 10.0
    assert figures["all_tokens_per_s"] == 11.0  # 22 in 2 s


@pytest.mark.parametrize(
    "samples", [[], [sample(0, 0, 0, None, 1)], [sample(1, 1, 1, 0, 0)]], ids=str
)
def test_figures_that_cannot_be_known(samples: list[Sample]) -> None:
    """No answer, answers of one token, or a backend that counts nothing, divide by nothing."""
    level = Level(prompt=8, clients=1, samples=samples)
    assert level.to_json()["tokens_per_s"] is None
    assert level.row()[5].text == "-"


def test_a_prompt_is_shown_with_the_tokens_that_it_has(level: Level) -> None:
    """Where the backend does not say, with those that it should have."""
    assert level.row()[0].text == "100"
    unknown = Level(prompt=64, clients=1, samples=[sample(0, 1, 2, None, 3)])
    assert unknown.row()[0].text == "64"
    assert unknown.row()[4].text == "-"


def test_a_failure_is_told_once(level: Level) -> None:
    """With the prompts and clients that had it."""
    level.failures += ["too long", "too long"]
    other = Level(prompt=8, clients=1, failures=["too long"])
    assert remarks([level, other]) == ["100 tokens by 2 and 8 tokens by 1: too long"]
    assert level.row()[-1].text == "2"


def test_the_table_fits_a_narrow_terminal(level: Level) -> None:
    """The rate of an answer stays, and a column without a failure is left out."""
    lines = [plain(line) for line in table(COLUMNS, [level.row()], width=40)]
    assert max(map(len, lines)) <= 40
    assert "TOKENS/S" in lines[0]
    assert "FAILED" not in plain(table(COLUMNS, [level.row()])[0])
    level.failures.append("gone")
    assert "FAILED" in plain(table(COLUMNS, [level.row()])[0])


def test_every_column_is_explained() -> None:
    """A person who has never measured one understands the table."""
    text = " ".join(explanation(seconds=5.0, tokens=64))
    assert "for 5 s" in text
    for column in COLUMNS[2:7]:
        assert column.heading in text


def test_prompts_have_the_wanted_tokens() -> None:
    """The template's tokens are taken off, and a vocabulary may have two tokens for a word."""
    counting = Counting.of(10 + 2 * SHORT, 10 + 2 * LONG)
    assert counting.words(210) == 100
    assert counting.words(3) == 1
    assert Counting.of(None, None).words(50) == 50
    assert Counting.of(7, 7).words(50) == 50


def test_prompts_differ() -> None:
    """A cache of prompts would be measured otherwise."""
    choose = Random(1).choice
    assert prompt_of(20, choose) != prompt_of(20, choose)
    assert len(prompt_of(20, choose).split()) == 20
