"""llama-swap's groups and its swap matrix as groups of models. Pure.

The router runs the models of one group side by side, and unloads them for a model of another
group: llama-swap's ``swap: false`` with ``exclusive: true``. A model without a group runs alone:
``swap: true`` with ``exclusive: true``, which is also llama-swap's rule for models in no group.
A model that runs beside all others (``persistent: true`` with ``exclusive: false``) gets
``keep_loaded``.
"""

from __future__ import annotations

import re
from typing import Final

from .draft import Draft, Note
from .fields import Fields
from .llama_swap_model import UNKNOWN
from .yaml_tree import Node

_KEPT: Final = "it became keep_loaded, which also loads the model at the start"

_NO_MODEL: Final = "there is no such model (any more)"

_TOGETHER: Final = re.compile(r"\w+(?:\s*&\s*\w+)*")

#: Flags, each with the value that has no counterpart, and the consequence.
_FLAGS: Final = (
    ("exclusive", False, "models of different groups never run side by side"),
    ("persistent", True, "it is unloaded for a model of another group"),
)

_MATRIX: Final = "only sets like 'a & b' that share no model can become groups"


def take_groups(root: Fields, draft: Draft) -> None:
    """Give the models of *draft* their groups, from all sections that define groups.

    Raises:
        ConfigError: if a group has a model of another group.
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
                setting = f"groups.{name}.members"
                draft.notes.append(Note(setting, _NO_MODEL, member.text, member.line))
                continue
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
    """Translate the sets that can be groups; add notes on the others."""
    names: dict[str, str] = {}
    for short, node in matrix.named("vars").items():
        if node.text not in draft.models:
            draft.notes.append(Note(f"matrix.vars.{short}", _NO_MODEL, node.text, node.line))
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
        reason = (
            "such costs are not considered when a model is unloaded"
            if setting == "evict_costs"
            else UNKNOWN
        )
        draft.notes.append(Note(f"matrix.{setting}", reason, left.plain(), left.line))
