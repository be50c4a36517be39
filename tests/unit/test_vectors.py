"""Texts in batches, vectors in answers, and the table about them."""

import pytest

from llama_router.cli.tables import plain, table
from llama_router.cli.vectors import (
    BATCH,
    COLUMNS,
    MOST_BYTES,
    Embedded,
    Summary,
    TextTooLongError,
    batches_of,
    cosine,
    vectors_in,
)


@pytest.mark.parametrize(
    ("pieces", "batches"),
    [
        ([], []),
        ([b"one\ntwo\n"], [[b"one", b"two"]]),
        ([b"one\r\n\r\n"], [[b"one", b""]]),
        ([b"o", b"n", b"e\nt", b"wo"], [[b"one"], [b"two"]]),
        ([b"one\n", b"two\n"], [[b"one"], [b"two"]]),
    ],
)
def test_lines_come_as_soon_as_they_are_there(pieces, batches) -> None:
    """A line may come in several pieces, and the last one may lack its end."""
    assert list(batches_of(pieces)) == batches


def test_a_batch_is_small() -> None:
    """Many lines that are there at once become several requests."""
    sizes = [len(batch) for batch in batches_of([b"line\n" * (2 * BATCH + 1)])]
    assert sizes == [BATCH, BATCH, 1]


def test_a_line_without_end_is_refused() -> None:
    """The memory of the command is bounded."""
    endless = iter(lambda: b"x" * 2**20, None)
    with pytest.raises(TextTooLongError):
        list(batches_of(endless))
    assert MOST_BYTES < 2**30


def test_vectors_are_in_the_order_of_their_texts() -> None:
    """An answer may have another order, and says so."""
    data = [{"index": 1, "embedding": [2, 3.5]}, {"index": 0, "embedding": [1.0]}]
    assert vectors_in({"data": data}, 2) == [[1.0], [2, 3.5]]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"data": 3},
        {"data": [{"index": 0}]},
        {"data": [{"index": 0, "embedding": "AAAA"}]},
        {"data": [{"index": 0, "embedding": [[1.0]]}]},
        {"data": []},
    ],
)
def test_an_answer_without_the_vectors_is_refused(answer) -> None:
    """A backend may answer anything."""
    with pytest.raises(ValueError, match="it has"):
        vectors_in(answer, 1)


def test_likeness_is_the_cosine() -> None:
    """It does not depend on the lengths; a vector of zeros is like none."""
    assert cosine([1.0, 0.0], [5.0, 0.0]) == 1.0
    assert cosine([1.0, 0.0], [0.0, 2.0]) == 0.0
    assert cosine([0.0, 0.0], [0.0, 2.0]) == 0.0
    assert cosine([1.0], [0.0, 2.0]) == 0.0


def test_the_table_fits() -> None:
    """The text and its likeness stay on a narrow terminal; a single text has no likeness."""
    summary = Summary()
    summary.add(Embedded("one\n" * 40, [3.0, 4.0, 0.0, 0.0]))
    assert "LIKE" not in plain(table(COLUMNS, summary.rows)[0])
    summary.add(Embedded(" ", None))
    summary.add(Embedded("\x1b[31mred", [4.0, 3.0, 0.0, 0.0]))
    wide = [plain(line) for line in table(COLUMNS, summary.rows)]
    assert wide[1].split()[-5:] == ["4", "5.000", "3.0000", "4.0000", "0.0000"]
    assert "0.960" in wide[3]
    assert "\x1b" not in "".join(wide)
    narrow = [plain(line) for line in table(COLUMNS, summary.rows, width=40)]
    assert max(map(len, narrow)) <= 40
    assert "0.960" in narrow[3]
