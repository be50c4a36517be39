"""The documentation that ships with the program: its pages, and the search in them."""

import pytest

from llama_router.cli.commands.docs import docs
from llama_router.manual.page import Page, Section, sections_of
from llama_router.manual.pages import find_page, pages, similar_topics
from llama_router.manual.search import search

PAGE = Page(
    "how-to/tea",
    "# Make `tea`\n\nHot water.\n\n## Leaves\n\n```sh\n# not a heading\n```\n\n## Empty\n\n"
    "## Cups\n\nA cup.\n\n| `size_ml` | 250 |\n",
)


def test_a_page_has_sections() -> None:
    """From heading to heading, and a row of a table each; a comment in an example is none."""
    assert sections_of(PAGE) == [
        Section("how-to/tea", "Make tea", "Hot water."),
        Section("how-to/tea", "Leaves", "```sh\n# not a heading\n```"),
        Section("how-to/tea", "Cups", "A cup."),
        Section("how-to/tea", "Cups: size_ml", "| `size_ml` | 250 |"),
    ]
    assert PAGE.title == "Make tea"


@pytest.mark.parametrize(
    ("query", "headings"),
    [
        ("cup", ["Cups", "Cups: size_ml"]),
        ("CUPS, water!", ["Cups", "Cups: size_ml", "Make tea"]),
        ("SIZE_ML leaves", ["Cups: size_ml", "Leaves"]),
        ("coffee", []),
        ("", []),
        ("...", []),
    ],
)
def test_the_best_sections_come_first(query, headings) -> None:
    """By words of the heading and of the text, whatever their case and number."""
    assert [found.heading for found in search(sections_of(PAGE), query, 5)] == headings


def test_a_search_is_limited() -> None:
    """To as many sections as are wanted."""
    assert len(search(sections_of(PAGE), "tea", 2)) == 2
    assert search([], "tea", 2) == []


@pytest.mark.parametrize(
    ("query", "topic"),
    [
        ("swap models that do not fit in memory", "how-to/fit-models-into-memory"),
        ("max_queue_wait_s", "reference/configuration"),
        ("how do I install a systemd service", "how-to/install-as-a-service"),
        ("secure the router with keys", "how-to/secure-it"),
        ("model_file_missing", "reference/errors"),
    ],
)
def test_questions_of_users_find_their_page(query, topic) -> None:
    """Among the first five sections."""
    sections = [section for page in pages() for section in sections_of(page)]
    assert topic in [found.topic for found in search(sections, query, 5)]


def test_a_page_is_found_by_its_name() -> None:
    """By its topic, the end of it, or its file."""
    for name in ("reference/configuration", "configuration", "configuration.md", "Configuration"):
        page = find_page(name)
        assert page is not None
        assert page.topic == "reference/configuration"
    assert find_page("nothing") is None
    assert similar_topics("configuraton") == ["reference/configuration"]


def test_the_command_lists_prints_and_searches(capsys) -> None:
    """All pages, one page as its file has it, and the sections with some words."""
    assert docs() == 0
    assert "reference/configuration" in capsys.readouterr().out
    assert docs("errors") == 0
    page = find_page("errors")
    assert page is not None
    assert capsys.readouterr().out == page.text
    assert docs("ttl_s idle") == 0
    assert "reference/configuration" in capsys.readouterr().out


def test_the_command_says_what_it_did_not_find(capsys) -> None:
    """With a page of a similar name, if there is one."""
    assert docs("configuraton") == 1
    assert "did you mean reference/configuration?" in capsys.readouterr().err
    assert docs("zzzz") == 1
    assert "'docs' lists all pages" in capsys.readouterr().err
