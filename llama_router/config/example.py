"""The documented example of ``router.toml``, and what its comments say about each key."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Final

#: ``[models."qwen-7b"]`` and ``# [models."qwen-7b"]``; the section is its first key.
_TABLE: Final = re.compile(r"(?:# )?\[(?P<section>[a-z_]+)(?P<rest>\..+)?\]")

#: ``# port = 8082``, or ``# # memory_mib = 9000`` for what contradicts another example.
_KEY: Final = re.compile(r"(?:# ){1,2}(?P<key>[a-z_0-9]+) = .+")

#: The first line: the schema, for editors.
_SCHEMA_LINE: Final = re.compile(r"\A#:schema \S+$", re.MULTILINE)

#: The name of the schema that ``init`` writes beside the example.
SCHEMA_NAME: Final = "router.schema.json"

#: The first line of a file that is beside it.
SCHEMA_BESIDE: Final = f"#:schema ./{SCHEMA_NAME}"


def example_config() -> str:
    """Return the documented example, from the package or from the repository."""
    packaged = resources.files("llama_router.cli").joinpath("router.toml")
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    # An editable installation: the example is at the top of the repository.
    return Path(__file__).parents[2].joinpath("router.toml").read_text(encoding="utf-8")


def with_schema_beside(example: str) -> str:
    """Return *example* with a first line that names the schema in the same folder."""
    return _SCHEMA_LINE.sub(SCHEMA_BESIDE, example, count=1)


def meanings(example: str) -> dict[tuple[str, str], str]:
    """Return the comment above each key of *example*, by section and key.

    A model's table ``spawn`` counts as its key.
    """
    found: dict[tuple[str, str], str] = {}
    section, comment = "", list[str]()
    after_key = False
    for line in example.splitlines():
        if key := _KEY.fullmatch(line):
            if comment:
                found.setdefault((section, key["key"]), " ".join(comment))
            after_key = True  # a key right below has the same comment
            continue
        if after_key:
            after_key, comment = False, []
        if table := _TABLE.fullmatch(line):
            if comment and table["rest"] and table["rest"].endswith(".spawn"):
                found[section, "spawn"] = " ".join(comment)
            section, comment = table["section"], []
        elif line.startswith("# "):
            comment.append(line.removeprefix("# ").strip())
        else:
            comment = []
    return found
