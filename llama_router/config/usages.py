"""The paths and models that a configuration refers to, and those that a deletion affects. Pure.

A deletion is refused if the configuration uses one of its files. The meaning of a program's
arguments is unknown here, so every word that may be a path counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from ..core.config.kinds import as_table
from ..errors.config import Where
from ..models.discovery.naming import part_of

#: Keys of ``[router]`` that name a model.
MODEL_KEYS: Final = ("startup_model", "home_model", "default_model")

#: Most usages in one message.
_MAX_DESCRIBED: Final = 5

_SEPARATORS: Final = re.compile(r"""[\s=,:;'"]+""")
_PLACEHOLDER: Final = re.compile(r"\$[A-Za-z_]")


@attrs.frozen
class PathReference:
    """A word of a configuration that may be a path.

    Attributes:
        where: Its place.
        path: As written, with ``$`` for ``$$``.
        folder: Working folder of the program with this argument; None for the router's.
    """

    where: Where
    path: str
    folder: str | None = None


@attrs.frozen
class ConfigUsage:
    """A use of a file or model that is to be deleted.

    Attributes:
        where: Its place in the file; empty if it has none.
        description: The end of a sentence that begins with the place.
        line: 1-based, if it is known.
    """

    where: Where
    description: str
    line: int | None = None


def path_references(document: Mapping[str, Any]) -> Iterator[PathReference]:
    """Yield every word of a parsed ``router.toml`` that may be a path, with its place."""
    router = as_table(document.get("router"))
    yield from _paths(router.get("models_dirs"), ("router", "models_dirs"), None)
    default = as_table(document.get("default_spawn"))
    default_folder = _text(default.get("cwd"))
    yield from _spawn(default, ("default_spawn",), default_folder)
    templates = as_table(document.get("templates"))
    for name, template in templates.items():
        folder = _text(as_table(template).get("cwd")) or default_folder
        yield from _spawn(as_table(template), ("templates", name), folder)
    for name, written in as_table(document.get("models")).items():
        model = as_table(written)
        spawn = as_table(model.get("spawn"))
        inherited = as_table(templates.get(str(model.get("template"))))
        folder = _text(spawn.get("cwd")) or _text(inherited.get("cwd")) or default_folder
        where: Where = ("models", name)
        for key in ("path", "mmproj"):
            if (path := _text(model.get(key))) is not None:
                yield PathReference((*where, key), path)
                yield from _other_parts((*where, key), path)
        yield from _words(model.get("args"), (*where, "args"), folder)
        yield from _spawn(spawn, (*where, "spawn"), folder)
        for words in (inherited.get("args"), default.get("args")) if spawn.get("cwd") else ():
            yield from _words(words, (*where, "spawn"), folder)


def _spawn(table: Mapping[str, Any], where: Where, folder: str | None) -> Iterator[PathReference]:
    for key in ("command", "args"):
        yield from _words(table.get(key), (*where, key), folder)
    for name, value in as_table(table.get("env")).items():
        yield from _pieces(value, (*where, "env", name), folder)
    if (cwd := _text(table.get("cwd"))) is not None:
        yield PathReference((*where, "cwd"), cwd)


def _words(words: object, where: Where, folder: str | None) -> Iterator[PathReference]:
    for index, word in enumerate(words if isinstance(words, list | tuple) else ()):
        yield from _pieces(word, (*where, index), folder)


def _paths(paths: object, where: Where, folder: str | None) -> Iterator[PathReference]:
    for index, path in enumerate(paths if isinstance(paths, list | tuple) else ()):
        if isinstance(path, str):
            yield PathReference((*where, index), path, folder)


def _pieces(word: object, where: Where, folder: str | None) -> Iterator[PathReference]:
    """Yield the parts of *word* that may be paths: all of it, after a ``=``, members of a list."""
    if not isinstance(word, str):
        return
    found = dict.fromkeys((word, word.partition("=")[2], *_SEPARATORS.split(word)))
    for piece in found:
        if ("/" in piece or "." in piece) and "\0" not in piece:
            if _PLACEHOLDER.search(piece.replace("$$", "")):
                continue  # the value of the placeholder has its own key
            path = piece.replace("$$", "$")
            yield PathReference(where, path, folder)
            yield from _other_parts(where, path, folder)


def _other_parts(where: Where, path: str, folder: str | None = None) -> Iterator[PathReference]:
    """Yield the other files of a split model: each of them needs all."""
    before, slash, name = path.rpartition("/")
    part = part_of(name)
    for number in range(1, min(part.count, 1000) + 1) if part is not None else ():
        if part is not None and number != part.number:
            other = f"{part.stem}-{number:05}-of-{part.count:05}.gguf"
            yield PathReference(where, f"{before}{slash}{other}", folder)


def find_usages(
    document: Mapping[str, Any],
    identified: Iterable[tuple[PathReference, object]],
    *,
    names: Collection[str],
    deleted: Collection[object],
) -> Iterator[ConfigUsage]:
    """Yield each usage of the deleted names and files in *document*.

    Args:
        document: A parsed ``router.toml``.
        identified: Its `path_references`, each with the identity of its file, or None.
        names: Deleted ids and aliases.
        deleted: Identities of the deleted files, and of folders with one of them.
    """
    folded = {name.casefold() for name in names}
    router = as_table(document.get("router"))
    for key in MODEL_KEYS:
        name = _text(router.get(key))
        if name is not None and name.casefold() in folded:
            yield ConfigUsage(("router", key), f"names the model {name!r}")
    for name, table in as_table(document.get("models")).items():
        if name.casefold() in folded and "path" not in as_table(table):
            yield ConfigUsage(("models", name), "has settings for the model")
    reported = set[Where]()
    for reference, identity in identified:
        if identity is not None and identity in deleted and reference.where not in reported:
            reported.add(reference.where)
            yield ConfigUsage(reference.where, f"uses {reference.path}")


def describe(file: str, usages: Collection[ConfigUsage], location: Mapping[Where, str]) -> str:
    """Return a description of *usages*, as the middle of a sentence.

    Args:
        file: The configuration file.
        usages: At least one.
        location: Each place, as it is written in TOML.
    """
    parts = []
    for usage in list(usages)[:_MAX_DESCRIBED]:
        line = f" line {usage.line}" if usage.line is not None else ""
        place = f"{file}{line}: {location[usage.where]} " if usage.where else ""
        parts.append(f"{place}{usage.description}")
    more = len(usages) - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more else "")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and "\0" not in value else None
