"""The page about the task tree says what the code starts."""

import ast

from tests.docs.task_tree_page import (
    PAGE,
    SUPERVISOR,
    flowchart,
    generated,
    opens_nursery,
    parsed,
    tree,
)


def test_the_generated_part_is_that_of_the_code() -> None:
    """If this fails: ``python -m tests.docs.task_tree_page``."""
    text = PAGE.read_text()
    assert generated(text) == text
    assert tree() in text


def test_every_nursery_of_the_supervisor_is_in_the_tree() -> None:
    """A function that opens one and is not in the tree belongs into ``FUNCTIONS``."""
    with_nurseries = {
        (path.stem, function.name)
        for path in SUPERVISOR.glob("*.py")
        for function in ast.walk(parsed(path.stem))
        if isinstance(function, ast.AsyncFunctionDef)
        and any(opens_nursery(node) for node in ast.walk(function))
    }
    assert with_nurseries == flowchart().functions
