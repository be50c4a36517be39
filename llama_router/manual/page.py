"""A page of the documentation, and its sections. Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs

_HEADING: Final = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
_FENCE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_ROW: Final = re.compile(r"^\| `([^`]+)` \|.*$", re.MULTILINE)


@attrs.frozen
class Page:
    """One page.

    Attributes:
        topic: Its name: ``reference/configuration``.
        text: Markdown, with links relative to its folder.
    """

    topic: str
    text: str

    @property
    def title(self) -> str:
        """Return its first heading, without marks of code."""
        first, _, _ = self.text.partition("\n")
        return first.lstrip("# ").replace("`", "")


@attrs.frozen
class Section:
    """A part of a page, from one heading to the next.

    Attributes:
        topic: The name of its page.
        heading: Its heading, without marks of code.
        text: Markdown, without the heading.
    """

    topic: str
    heading: str
    text: str


def sections_of(page: Page) -> list[Section]:
    """Return the sections of *page* that have a text.

    A row of a table that begins with code, such as a setting or an error, is a section of its own.
    """
    # A comment in an example looks like a heading.
    hidden = _FENCE.sub(lambda fence: " " * len(fence[0]), page.text)
    starts = list(_HEADING.finditer(hidden))
    ends = [*(start.start() for start in starts[1:]), len(page.text)]
    found: list[Section] = []
    for start, end in zip(starts, ends, strict=True):
        heading, text = start[1].replace("`", ""), page.text[start.end() : end]
        found.append(Section(page.topic, heading, _ROW.sub("", text).strip()))
        found += (
            Section(page.topic, f"{heading}: {row[1]}", row[0]) for row in _ROW.finditer(text)
        )
    return [section for section in found if section.text]
