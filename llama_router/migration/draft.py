"""A draft of ``router.toml``: translated settings, and notes on all others. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import attrs

from ..logs.lines import escape_controls

Value: TypeAlias = "str | int | float | bool | Sequence[Value] | Mapping[str, Value]"

#: Longest array that stays on one line, in characters.
_ONE_LINE_CHARACTERS: Final = 88

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')


@attrs.frozen
class Note:
    """A note on a setting that has no counterpart, or that became another one.

    Attributes:
        setting: Its name in the old file, e.g. ``filters.stripParams``.
        reason: The consequence, and the remedy if there is one; one clause.
        value: The setting's value, as text; None if it must not be shown.
        line: Its line in the old file.
        taken: Whether it became another setting in the new file, which the user should check.
    """

    setting: str
    reason: str
    value: str | None = None
    line: int | None = None
    taken: bool = False

    @property
    def mark(self) -> str:
        """The kind of the note, in words."""
        return "to check" if self.taken else "not taken over"

    def __str__(self) -> str:
        value = f" = {self.value}" if self.value is not None else ""
        return escape_controls(f"{self.setting}{value}: {self.reason}".replace("\n", " "))


@attrs.define
class DraftModel:
    """One ``[models."NAME"]`` table.

    Attributes:
        name: The model's name.
        line: Its line in the old file.
        fields: Settings of the table.
        spawn: Settings of its ``spawn`` table.
        notes: Notes on its other settings.
    """

    name: str
    line: int | None = None
    fields: dict[str, Value] = attrs.field(factory=dict)
    spawn: dict[str, Value] = attrs.field(factory=dict)
    notes: list[Note] = attrs.field(factory=list[Note])

    def names(self) -> tuple[str, ...]:
        """Return the name and the aliases."""
        aliases = self.fields.get("aliases", [])
        words = aliases if isinstance(aliases, list) else []
        return (self.name, *(word for word in words if isinstance(word, str)))


@attrs.define
class Draft:
    """A whole file.

    Attributes:
        source: Name of the old file, for the first line.
        router: Settings of ``[router]``.
        spawn: Settings of ``[default_spawn]``.
        api_keys: Digests of keys, by name.
        models: Models by name, in the order of the old file.
        notes: Notes on settings that belong to no model.
        variables: Names of the environment variables that were replaced by their values.
    """

    source: str
    router: dict[str, Value] = attrs.field(factory=dict)
    spawn: dict[str, Value] = attrs.field(factory=dict)
    api_keys: dict[str, str] = attrs.field(factory=dict)
    models: dict[str, DraftModel] = attrs.field(factory=dict)
    notes: list[Note] = attrs.field(factory=list[Note])
    variables: set[str] = attrs.field(factory=set[str])

    def all_notes(self) -> list[tuple[str | None, Note]]:
        """Return every note with the name of its model, in the order of the old file."""
        general: list[tuple[str | None, Note]] = [(None, note) for note in self.notes]
        of_models = [(name, note) for name, model in self.models.items() for note in model.notes]
        return sorted([*general, *of_models], key=lambda pair: pair[1].line or 0)

    def document(self) -> dict[str, object]:
        """Return the document that tomllib would read from `render`'s text."""
        models = {
            name: model.fields | ({"spawn": model.spawn} if model.spawn else {})
            for name, model in self.models.items()
        }
        keys = {name: {"sha256": digest} for name, digest in self.api_keys.items()}
        return {
            "router": self.router,
            "api_keys": keys,
            "default_spawn": self.spawn,
            "models": models,
        }


def render(draft: Draft) -> str:
    """Return *draft* as TOML text, with its notes as comments in their tables."""
    return "\n".join([*_lines(draft), ""])


def _lines(draft: Draft) -> Iterator[str]:
    yield f"# Imported from {escape_controls(draft.source)}."
    yield '# "Not taken over": the setting has no counterpart here. "To check": it became another'
    yield "# setting. Each note has the setting's line in the old file."
    if draft.notes:
        yield ""
        yield from _comments(draft.notes)
    if draft.router:
        yield from ("", "[router]", *_pairs(draft.router))
    for name, digest in draft.api_keys.items():
        yield from ("", f"[api_keys.{key(name)}]", f"sha256 = {string(digest)}")
    if draft.spawn:
        yield from ("", "[default_spawn]", *_pairs(draft.spawn))
    for model in draft.models.values():
        header = f"models.{key(model.name)}"
        yield from ("", f"[{header}]", *_comments(model.notes), *_pairs(model.fields))
        if model.spawn:
            yield from ("", f"[{header}.spawn]", *_pairs(model.spawn))


def _comments(notes: Iterable[Note]) -> Iterator[str]:
    for note in sorted(notes, key=lambda each: each.line or 0):
        line = f" (line {note.line})" if note.line is not None else ""
        yield f"# {note.mark.capitalize()}{line}: {note}"


def _pairs(table: Mapping[str, Value]) -> Iterator[str]:
    for name, value in table.items():
        yield f"{key(name)} = {_value(value)}"


def key(name: str) -> str:
    """Return *name* as a TOML key."""
    return name if _BARE_KEY.fullmatch(name) else string(name)


def string(text: str) -> str:
    """Return *text* as a TOML basic string."""
    body = _ESCAPED.sub(lambda found: _ESCAPES.get(found[0], f"\\u{ord(found[0]):04x}"), text)
    return f'"{body}"'


def _value(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return string(value)
        case Mapping():
            return f"{{ {', '.join(f'{key(k)} = {_value(v)}' for k, v in value.items())} }}"
        case _:
            words = [item for item in value if isinstance(item, str)]
            if len(words) == len(value):
                return _array(words)
            return f"[{', '.join(map(_value, value))}]"


def _array(words: list[str]) -> str:
    """Return a TOML array; a long one has a line for each option and its value."""
    short = f"[{', '.join(map(string, words))}]"
    if len(short) <= _ONE_LINE_CHARACTERS:
        return short
    rows: list[list[str]] = []
    for word in words:
        if not rows or word.startswith("-") or len(rows[-1]) >= 2:
            rows.append([])
        rows[-1].append(string(word))
    return "[\n" + "".join(f"    {', '.join(row)},\n" for row in rows) + "]"
