"""A ``router.toml`` in the making: what was taken over, and what was not. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import attrs

from ..logs.lines import escape_controls

Value: TypeAlias = "str | int | float | bool | list[str] | dict[str, str]"

#: Longest array that stays on one line, in characters.
_ONE_LINE: Final = 88

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f\x7f]')


@attrs.frozen
class Note:
    """A setting that could not be taken over as it was, or not at all.

    Attributes:
        setting: Its name in the old file, e.g. ``filters.stripParams``.
        reason: What that means, and what to do; one clause.
        value: The setting's value, as text; None if it must not be shown.
        line: Its line in the old file.
        taken: Whether there is something of it in the new file, which a person should check.
    """

    setting: str
    reason: str
    value: str | None = None
    line: int | None = None
    taken: bool = False

    @property
    def mark(self) -> str:
        """What the note says, in two words."""
        return "to check" if self.taken else "not taken over"

    def __str__(self) -> str:
        value = f" = {self.value}" if self.value is not None else ""
        return escape_controls(f"{self.setting}{value}: {self.reason}".replace("\n", " "))


@attrs.define
class DraftModel:
    """One ``[models."NAME"]`` table.

    Attributes:
        name: The model's name.
        line: Where the old file has it.
        fields: Its own settings.
        spawn: Its spawn settings.
        notes: What was not taken over.
    """

    name: str
    line: int | None = None
    fields: dict[str, Value] = attrs.field(factory=dict)
    spawn: dict[str, Value] = attrs.field(factory=dict)
    notes: list[Note] = attrs.field(factory=list[Note])

    def names(self) -> tuple[str, ...]:
        """Return its name and its aliases."""
        aliases = self.fields.get("aliases", [])
        return (self.name, *aliases) if isinstance(aliases, list) else (self.name,)


@attrs.define
class Draft:
    """A whole file.

    Attributes:
        source: Name of the old file, for the first line.
        router: Settings of ``[router]``.
        spawn: Settings of ``[default_spawn]``.
        api_keys: Digest by name.
        models: By name, in the order of the old file.
        notes: What belongs to no model and was not taken over.
        variables: Environment variables whose values were written out.
    """

    source: str
    router: dict[str, Value] = attrs.field(factory=dict)
    spawn: dict[str, Value] = attrs.field(factory=dict)
    api_keys: dict[str, str] = attrs.field(factory=dict)
    models: dict[str, DraftModel] = attrs.field(factory=dict)
    notes: list[Note] = attrs.field(factory=list[Note])
    variables: set[str] = attrs.field(factory=set[str])

    def all_notes(self) -> list[tuple[str | None, Note]]:
        """Return every note with the model that it belongs to, in the order of the old file."""
        found: list[tuple[str | None, Note]] = [(None, note) for note in self.notes]
        owned = [(name, note) for name, model in self.models.items() for note in model.notes]
        return sorted([*found, *owned], key=lambda pair: pair[1].line or 0)

    def document(self) -> dict[str, object]:
        """Return what `render` writes, as tomllib would read it."""
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
    """Write *draft* as TOML text; what was not taken over is a comment where it belongs."""
    return "\n".join([*_lines(draft), ""])


def _lines(draft: Draft) -> Iterator[str]:
    yield f"# Imported from {escape_controls(draft.source)}."
    yield '# "Not taken over" marks what has no counterpart here, "to check" what became'
    yield "# something else; both with the line in the old file."
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
    """Write *name* as one key of TOML."""
    return name if _BARE_KEY.fullmatch(name) else string(name)


def string(text: str) -> str:
    """Write *text* as a basic string of TOML."""
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
        case list():
            return _array(value)
        case dict():
            return f"{{ {', '.join(f'{key(k)} = {string(v)}' for k, v in value.items())} }}"


def _array(words: list[str]) -> str:
    """Write an array; a long one with each option and its values on a line of their own."""
    short = f"[{', '.join(map(string, words))}]"
    if len(short) <= _ONE_LINE:
        return short
    rows: list[list[str]] = []
    for word in words:
        if not rows or word.startswith("-") or len(rows[-1]) >= 2:
            rows.append([])
        rows[-1].append(string(word))
    return "[\n" + "".join(f"    {', '.join(row)},\n" for row in rows) + "]"
