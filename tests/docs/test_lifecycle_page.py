"""The page about the lifecycle says what the tables say."""

from tests.docs.lifecycle_page import PAGE, generated, intents, phases


def test_the_generated_parts_are_those_of_the_code() -> None:
    """If this fails: ``python -m tests.docs.lifecycle_page``."""
    text = PAGE.read_text()
    assert generated(text) == text


def test_both_tables_are_in_the_page() -> None:
    """The markers of the generated parts were not lost."""
    text = PAGE.read_text()
    assert phases() in text
    assert intents() in text
