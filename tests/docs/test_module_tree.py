"""The page of modules lists what there is."""

from tests.docs.module_tree import PAGE, page


def test_the_page_is_that_of_the_code() -> None:
    """If this fails: ``python -m tests.docs.module_tree``."""
    assert PAGE.read_text() == page()
