"""The generated parts of docs/explanation/lifecycle.md.

``python -m tests.docs.lifecycle_page`` writes them into the page.
"""

from __future__ import annotations

from pathlib import Path

from llama_router.core.scheduling.lifecycle import INTENTS, TRANSITIONS, Intent, Phase
from tests.docs.generated_parts import with_parts

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "lifecycle.md"


def phases() -> str:
    """Return `TRANSITIONS` as a Mermaid diagram."""
    arrows = [
        f"    {before} --> {after}: {signal}"
        for before, row in TRANSITIONS.items()
        for signal, after in row.items()
    ]
    return "\n".join(
        ["```mermaid", "stateDiagram-v2", f"    [*] --> {Phase.STOPPED}", *arrows, "```", ""]
    )


def intents() -> str:
    """Return `INTENTS` as a table: the new intent for each cue and each intent that it changes."""
    lines = [
        "| | " + " | ".join(f"`{intent.name}`" for intent in Intent) + " |",
        "|---" * (len(Intent) + 1) + "|",
    ]
    for cue, row in INTENTS.items():
        cells = (f"`{row[intent].name}`" if intent in row else "" for intent in Intent)
        lines.append(f"| `{cue.name}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def generated(page: str) -> str:
    """Return *page* with its generated parts as the code has them."""
    return with_parts(page, {"phases": phases, "intents": intents})


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
