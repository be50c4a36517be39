"""The pages of the documentation, which are in the wheel, or in the repository beside it."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path

from .page import Page

#: The folder of the installed package; an editable installation has the one of the repository.
_FOLDERS = (Path(__file__).parents[1] / "docs", Path(__file__).parents[2] / "docs")


@cache
def pages() -> tuple[Page, ...]:
    """Return all pages, by topic; none if the package was installed without them. Blocks on files.

    Raises:
        OSError: if one cannot be read.
    """
    folder = next(filter(Path.is_dir, _FOLDERS), None)
    if folder is None:
        return ()
    return tuple(
        Page(str(path.relative_to(folder).with_suffix("")), path.read_text(encoding="utf-8"))
        for path in sorted(folder.rglob("*.md"))
        if path.name != "README.md"
    )


def find_page(name: str) -> Page | None:
    """Return the page with the topic *name*, or whose topic ends in it; None if there is none."""
    wanted = name.strip("/").lower().removesuffix(".md")
    by_topic = {page.topic: page for page in pages()}
    if wanted in by_topic:
        return by_topic[wanted]
    return next((page for page in pages() if page.topic.rpartition("/")[2] == wanted), None)


def similar_topics(name: str) -> list[str]:
    """Return the topics that look like *name*, the most similar first."""
    last = {page.topic.rpartition("/")[2]: page.topic for page in pages()}
    return [last[each] for each in difflib.get_close_matches(name.lower(), last, n=3)]
