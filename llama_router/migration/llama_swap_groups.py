"""llama-swap's groups and its swap matrix as groups of models. Pure.

Here models of one group run side by side, and one of another group makes them leave. That
is llama-swap's ``swap: false`` with ``exclusive: true``. A model without a group runs alone:
``swap: true`` with ``exclusive: true``, and what llama-swap does with models in no group.
A model that stays beside all others (``persistent: true`` with ``exclusive: false``) is kept
loaded here.
"""

from __future__ import annotations

import re
from typing import Final

from .draft import Draft, Note
from .fields import Fields
from .llama_swap_model import UNKNOWN
from .yaml_tree import Node

_KEPT: Final = "keep_loaded means the same, but also loads the model at the start"

_TOGETHER: Final = re.compile(r"\w+(?:\s*&\s*\w+)*")

#: What has no counterpart: the flag, the value for which that is so, what it means.
_FLAGS: Final = (
    ("exclusive", False, "models that are not of one group take turns"),
    ("persistent", True, "a model of another group makes it leave"),
)

_MATRIX: Final = "only sets that are 'a & b', without a common model, can be groups here"


def take_groups(root: Fields, draft: Draft) -> None:
    """Give the models of *draft* their groups, wherever the file has them.

    Raises:
        ConfigError: if a group has a model that there is not, or that another group has.
    """
    _groups(root.named("groups"), draft)
    _matrix(root.map("matrix"), draft)
    routing = root.map("routing")
    router, scheduler = routing.map("router"), routing.take("scheduler")
    settings = router.map("settings")
    router.take("use")
    _groups(settings.named("groups"), draft)
    _matrix(settings.map("matrix"), draft)
    if scheduler is not None:
        reason = "requests are served in the order of their arrival"
        draft.notes.append(Note("routing.scheduler", reason, scheduler.plain(), scheduler.line))
    places = ("routing.router.settings", settings), ("routing.router", router), ("routing", routing)
    for place, fields in places:
        draft.notes += [
            Note(f"{place}.{setting}", UNKNOWN, node.plain(), node.line)
            for setting, node in fields.rest()
        ]


def _groups(groups: dict[str, Node], draft: Draft) -> None:
    taken: dict[str, str] = {}
    for name, node in groups.items():
        fields = Fields(node)
        swap = fields.boolean("swap")
        members = fields.texts("members")
        notes: list[Note] = []
        for flag, differs, reason in _FLAGS:
            written = fields.peek(flag)
            if written is not None and fields.boolean(flag) is differs:
                notes.append(Note(f"groups.{name}.{flag}", reason, written.text, written.line))
        kept = len(notes) == len(_FLAGS) and (swap is False or len(members) == 1)
        if kept:
            notes = [Note(f"groups.{name}", _KEPT, node.plain(), node.line, taken=True)]
        for member in members:
            model = draft.models.get(member.text)
            if model is None:
                raise member.refuse(f"there is no model {member.text!r}")
            if member.text in taken:
                other = taken[member.text]
                raise member.refuse(f"the model {member.text!r} is in the group {other!r} already")
            taken[member.text] = name
            if kept:
                model.fields["keep_loaded"] = True
            elif swap is False:
                model.fields["group"] = name
            model.notes += notes
        draft.notes += [
            Note(f"groups.{name}.{setting}", UNKNOWN, left.plain(), left.line)
            for setting, left in fields.rest()
        ]


def _matrix(matrix: Fields, draft: Draft) -> None:
    """Turn the sets that are groups into groups; note the others."""
    names: dict[str, str] = {}
    for short, node in matrix.named("vars").items():
        if node.text not in draft.models:
            raise node.refuse(f"there is no model {node.text!r}")
        names[short] = node.text
    sets = matrix.named("sets")
    members = {
        name: [names.get(word, word) for word in re.findall(r"\w+", node.text)]
        for name, node in sets.items()
    }
    for name, node in sets.items():
        together = _TOGETHER.fullmatch(node.text.strip()) is not None
        shared = any(
            set(members[name]) & set(others) for other, others in members.items() if other != name
        )
        known = [draft.models[each] for each in members[name] if each in draft.models]
        if together and not shared and len(known) == len(members[name]):
            for model in known if len(known) > 1 else ():
                model.fields["group"] = name
        else:
            for model in known:
                model.notes.append(Note(f"matrix.sets.{name}", _MATRIX, node.plain(), node.line))
            if not known:
                draft.notes.append(Note(f"matrix.sets.{name}", _MATRIX, node.plain(), node.line))
    for setting, left in matrix.rest():
        reason = "who must leave is not weighed" if setting == "evict_costs" else UNKNOWN
        draft.notes.append(Note(f"matrix.{setting}", reason, left.plain(), left.line))
