"""``docs``: reads the documentation of the installed version in the terminal."""

from __future__ import annotations

import re
import sys

from ...logs.lines import escape_controls
from ...manual.page import Page, sections_of
from ...manual.pages import find_page, pages, similar_topics
from ..printing import fail, print_line, print_table


def docs(topic: str | None = None, /) -> int:
    """Print a page of the documentation, or the list of all pages.

    Args:
        topic: A page by its name, such as ``configuration``, or words to search for. Without it,
            all pages are listed.
    """
    if not pages():
        return fail("this installation has no documentation: install the package from its wheel")
    if topic is None:
        print_table([("PAGE", "TITLE"), *((page.topic, page.title) for page in pages())])
        return 0
    page = find_page(topic)
    if page is not None:
        _print(page)
        return 0
    return _print_found(topic)


def _print(page: Page) -> None:
    if not sys.stdout.isatty():
        sys.stdout.write(page.text)
        return
    from rich.console import Console  # noqa: PLC0415 -- a tenth of a second, for a terminal only
    from rich.markdown import Markdown  # noqa: PLC0415 -- see above

    console = Console()
    # Links are relative to the folder of the page; their text is enough here.
    text = re.sub(r"\[([^\]]*)\]\([^)\s]+\)", r"\1", page.text)
    with console.pager(styles=True):
        console.print(Markdown(text))


def _print_found(words: str) -> int:
    from ...manual.search import search  # noqa: PLC0415 -- only for a search

    found = search([section for page in pages() for section in sections_of(page)], words, 8)
    if not found:
        near = similar_topics(words)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; 'docs' lists all pages"
        return fail(f"no page is named {words!r}, and none has these words{hint}")
    print_line(f"No page is named {escape_controls(words)!r}. These have the words:")
    print_table([(section.topic, section.heading) for section in found])
    return 0
