"""The change of a configuration file as a unified diff, with secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Final

from ..core.config.redaction import MASK
from .masking import masked

#: The number of a mask: it would differ in every line after a new secret.
_NUMBERED: Final = re.compile(re.escape(MASK) + r"[0-9]+")

#: Lines around a change.
_CONTEXT: Final = 3


def masked_diff(before: str, after: str, name: str) -> list[str]:
    """Return the lines of a unified diff of two texts of the file *name*; none if they are equal.

    A secret that changed shows as a changed line, with a mask on both sides.
    """
    old, new = before.splitlines(), after.splitlines()
    old_shown, new_shown = _shown(before), _shown(after)
    if len(old_shown) != len(old) or len(new_shown) != len(new):
        old, new = old_shown, new_shown  # a secret of several lines
    lines = [*_changes(old, new, old_shown, new_shown)]
    return [f"--- {name}", f"+++ {name}", *lines] if lines else []


def _shown(text: str) -> list[str]:
    return _NUMBERED.sub(MASK, masked(text).text).splitlines()


def _changes(
    old: Sequence[str], new: Sequence[str], old_shown: Sequence[str], new_shown: Sequence[str]
) -> Iterator[str]:
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for group in matcher.get_grouped_opcodes(_CONTEXT):
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@"
        for tag, old_start, old_end, new_start, new_end in group:
            if tag == "equal":
                yield from (f" {line}" for line in old_shown[old_start:old_end])
                continue
            yield from (f"-{line}" for line in old_shown[old_start:old_end])
            yield from (f"+{line}" for line in new_shown[new_start:new_end])


def _range(start: int, end: int) -> str:
    """Return a range of lines as diffs write it: an empty one has the line before it."""
    length = end - start
    if length == 1:
        return str(start + 1)
    return f"{start + 1 if length else start},{length}"
