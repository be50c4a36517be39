"""Changes single settings in the text of a configuration and leaves the rest unchanged. Pure.

Comments, order and white space are preserved. The result is parsed again and compared: a text
with any other meaning than the requested one is never returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from difflib import SequenceMatcher
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..errors.config import SettingError

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_BY_HAND: Final = "the file is written in a way that cannot be edited safely; change it by hand"


def edited(
    text: str, table: tuple[str, ...], *, put: Mapping[str, object], drop: Iterable[str]
) -> str:
    """Return *text* with some settings changed.

    Args:
        text: A valid TOML document.
        table: Path of the table, which is created if missing.
        put: Values by key; a dotted key is a path, as in TOML.
        drop: Keys to remove; a missing one is ignored.

    Raises:
        SettingError: if a key or a value cannot be used, or the text cannot be edited safely.
    """
    from tomlkit import parse  # noqa: PLC0415 -- only few processes ever edit
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415 -- same

    plain = partial(_without_empty, tables=[(table, _path(key)) for key in drop])
    try:
        wanted: dict[str, Any] = parse(text).unwrap()
    except (ValueError, TypeError, LookupError, RecursionError, TOMLKitError) as exc:
        # It may be valid TOML: tomlkit supports less of it than tomllib.
        raise SettingError(_BY_HAND) from exc
    changes = [(_path(key), _usable(value, key), key) for key, value in put.items()]
    dropped = [_path(key) for key in drop]
    for path, value, _ in changes:
        _put_plain(wanted, (*table, *path), value)
    for path in dropped:
        _drop(wanted, (*table, *path))
    wanted = plain(wanted)
    for inline in (False, True):  # some tables cannot have a header
        document = parse(text)
        with suppress(ValueError, TypeError, LookupError, TOMLKitError):  # unsupported by tomlkit
            for path, value, key in changes:
                _put(document, (*table, *path), value, key, inline=inline)
            for path in dropped:
                _drop(document, (*table, *path))
                _drop_empty(document, table, path)
            result = document.as_string()
            moved = _move_up(text, result)
            for candidate in (moved, result) if moved != result else (result,):
                if plain(parse(candidate).unwrap()) == wanted:
                    return candidate
    raise SettingError(_BY_HAND)


def table_in(document: Mapping[str, Any], table: tuple[str, ...]) -> dict[str, Any]:
    """Return the table at the path *table*, or an empty one."""
    found: object = document
    for key in table:
        found = found.get(key, {}) if isinstance(found, Mapping) else {}
    return dict(found) if isinstance(found, Mapping) else {}


def _move_up(before: str, after: str) -> str:
    """Return *after* with added lines directly below the settings of their table.

    tomlkit appends them after comments at the end of the table, which mostly belong to the next
    one. The caller checks that the text still has the same meaning.
    """
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for tag, _, _, start, end in reversed(blocks):
        added = new[start:end]
        while len(added) > 1 and added[-1].isspace():
            added.pop()  # tomlkit keeps a distance from a table that follows
        if tag != "insert" or any(line.isspace() or line.startswith("[") for line in added):
            continue  # an added table stays where it is
        at = start
        while at and (new[at - 1].isspace() or new[at - 1].lstrip().startswith("#")):
            at -= 1
        if not at:
            continue
        if new[at - 1].lstrip().startswith("["):  # comments below a header belong to it
            while at < start and not new[at].isspace():
                at += 1
        new[at:end] = [*added, *new[at:start]]
    return "".join(new)


def _path(key: str) -> tuple[str, ...]:
    """Return the parts of a dotted key."""
    from tomlkit import parse  # noqa: PLC0415 -- same
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415 -- same

    problem = SettingError(f"{key!r} is not a key; write it as in the file, e.g. spawn.env.NAME")
    if "\n" in key or "\r" in key:
        raise problem
    try:
        found: Any = parse(f"{key} = 0").unwrap()
    except (TOMLKitError, ValueError):
        raise problem from None
    path: list[str] = []
    while isinstance(found, dict):
        if len(found) != 1:
            raise problem
        part, found = next(iter(found.items()))
        path.append(part)
    return tuple(path)


def _usable(value: object, key: str) -> Any:  # noqa: ANN401 -- any TOML value
    """Return *value* as a TOML value."""
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_usable(member, key) for member in value]
    if isinstance(value, dict):
        return {str(name): _usable(member, key) for name, member in value.items()}
    raise SettingError(f"{key}: TOML has no such value; to remove a setting, unset it")


def _put(
    document: TOMLDocument, path: tuple[str, ...], value: object, key: str, *, inline: bool
) -> None:
    from tomlkit import inline_table, table  # noqa: PLC0415 -- same

    container: Any = document
    for depth, part in enumerate(path[:-1]):
        if part not in container:
            # A table that only contains other tables needs no header.
            only_tables = depth == 0 and len(path) > 2
            inside = inline and not only_tables
            container[part] = inline_table() if inside else table(is_super_table=only_tables)
        container = container[part]
        if not isinstance(container, MutableMapping):
            raise SettingError(f"{key}: {part!r} is not a table in the file")
    if inline and isinstance(value, dict):
        made = inline_table()
        made.update(value)
        value = made
    container[path[-1]] = value


def _put_plain(document: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for part in path[:-1]:
        below = document.setdefault(part, {})
        if not isinstance(below, dict):
            return  # `_put` raises an error
        document = below
    document[path[-1]] = value


def _drop(document: Any, path: tuple[str, ...]) -> None:  # noqa: ANN401 -- of tomlkit, or plain
    for part in path[:-1]:
        document = document.get(part)
        if not isinstance(document, MutableMapping):
            return
    if path[-1] in document:
        del document[path[-1]]


def _drop_empty(document: TOMLDocument, table: tuple[str, ...], path: tuple[str, ...]) -> None:
    """Remove the empty tables along *path* in *table*; one with a comment is not empty."""
    from tomlkit.items import InlineTable, Table  # noqa: PLC0415 -- same

    for depth in range(len(path) - 1, 0, -1):
        container: Any = document
        for part in (*table, *path[: depth - 1]):
            container = container.get(part, {}) if isinstance(container, MutableMapping) else {}
        if not isinstance(container, MutableMapping):
            continue
        left = container.get(path[depth - 1])
        if (
            isinstance(left, Table | InlineTable)
            and not left
            and left.as_string().strip("{ }\n") == ""
        ):
            del container[path[depth - 1]]


def _without_empty(
    document: dict[str, Any], tables: Iterable[tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, Any]:
    """Return *document* without the tables that `_drop_empty` may remove: they have no meaning."""
    for table, path in tables:
        for depth in range(len(path) - 1, 0, -1):
            container: Any = document
            for part in (*table, *path[: depth - 1]):
                container = container.get(part, {}) if isinstance(container, dict) else {}
            if isinstance(container, dict) and container.get(path[depth - 1]) == {}:
                del container[path[depth - 1]]
    return document
