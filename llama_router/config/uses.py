"""Everything in a configuration that may name a file or a model, and what is lost with some. Pure.

A deletion is refused if it would take away something that the configuration uses. What a
program makes of its arguments is not known here, so every word that may be a path counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from ..errors.config import Where
from ..models.discovery.naming import part_of

#: Keys of ``[router]`` that name a model.
MODEL_KEYS: Final = ("startup_model", "home_model", "default_model")

#: Most uses that one sentence names.
_MAX_NAMED: Final = 5

_SEPARATORS: Final = re.compile(r"""[\s=,:;'"]+""")
_PLACEHOLDER: Final = re.compile(r"\$[A-Za-z_]")


@attrs.frozen
class Mention:
    """A word of a configuration that may be a path.

    Attributes:
        where: Its place.
        path: As written, but for ``$$``.
        folder: Where the program runs that gets it; None for the folder of the router.
    """

    where: Where
    path: str
    folder: str | None = None


@attrs.frozen
class Use:
    """Something that the configuration uses and that would be lost.

    Attributes:
        where: Its place in the file; empty if it has none.
        what: Says what it is, as the end of a sentence.
        line: 1-based, if it is known.
    """

    where: Where
    what: str
    line: int | None = None


def mentions(document: Mapping[str, Any]) -> Iterator[Mention]:
    """Yield every word of a parsed ``router.toml`` that may be a path, with its place."""
    router = _table(document.get("router"))
    yield from _paths(router.get("models_dirs"), ("router", "models_dirs"), None)
    default = _table(document.get("default_spawn"))
    default_folder = _text(default.get("cwd"))
    yield from _spawn(default, ("default_spawn",), default_folder)
    templates = _table(document.get("templates"))
    for name, template in templates.items():
        folder = _text(_table(template).get("cwd")) or default_folder
        yield from _spawn(_table(template), ("templates", name), folder)
    for name, written in _table(document.get("models")).items():
        model = _table(written)
        spawn = _table(model.get("spawn"))
        inherited = _table(templates.get(str(model.get("template"))))
        folder = _text(spawn.get("cwd")) or _text(inherited.get("cwd")) or default_folder
        where: Where = ("models", name)
        for key in ("path", "mmproj"):
            if (path := _text(model.get(key))) is not None:
                yield Mention((*where, key), path)
                yield from _other_parts((*where, key), path)
        yield from _words(model.get("args"), (*where, "args"), folder)
        yield from _spawn(spawn, (*where, "spawn"), folder)
        for words in (inherited.get("args"), default.get("args")) if spawn.get("cwd") else ():
            yield from _words(words, (*where, "spawn"), folder)


def _spawn(table: Mapping[str, Any], where: Where, folder: str | None) -> Iterator[Mention]:
    for key in ("command", "args"):
        yield from _words(table.get(key), (*where, key), folder)
    for name, value in _table(table.get("env")).items():
        yield from _pieces(value, (*where, "env", name), folder)
    if (cwd := _text(table.get("cwd"))) is not None:
        yield Mention((*where, "cwd"), cwd)


def _words(words: object, where: Where, folder: str | None) -> Iterator[Mention]:
    for index, word in enumerate(words if isinstance(words, list | tuple) else ()):
        yield from _pieces(word, (*where, index), folder)


def _paths(paths: object, where: Where, folder: str | None) -> Iterator[Mention]:
    for index, path in enumerate(paths if isinstance(paths, list | tuple) else ()):
        if isinstance(path, str):
            yield Mention((*where, index), path, folder)


def _pieces(word: object, where: Where, folder: str | None) -> Iterator[Mention]:
    """Yield what of a word may be a path: all of it, what follows a ``=``, each of a list."""
    if not isinstance(word, str):
        return
    found = dict.fromkeys((word, word.partition("=")[2], *_SEPARATORS.split(word)))
    for piece in found:
        if ("/" in piece or "." in piece) and "\0" not in piece:
            if _PLACEHOLDER.search(piece.replace("$$", "")):
                continue  # what stands for it is looked at by itself
            path = piece.replace("$$", "$")
            yield Mention(where, path, folder)
            yield from _other_parts(where, path, folder)


def _other_parts(where: Where, path: str, folder: str | None = None) -> Iterator[Mention]:
    """Yield the further files of a split model: who names one of them needs all."""
    before, slash, name = path.rpartition("/")
    part = part_of(name)
    for number in range(1, min(part.count, 1000) + 1) if part is not None else ():
        if part is not None and number != part.number:
            other = f"{part.stem}-{number:05}-of-{part.count:05}.gguf"
            yield Mention(where, f"{before}{slash}{other}", folder)


def uses_of(
    document: Mapping[str, Any],
    seen: Iterable[tuple[Mention, object]],
    *,
    names: Collection[str],
    lost: Collection[object],
) -> Iterator[Use]:
    """Yield each use that *document* makes of a model and its files.

    Args:
        document: A parsed ``router.toml``.
        seen: Its `mentions`, with what identifies the file of each; None if there is none.
        names: Ids and aliases that go with the model.
        lost: What identifies the files that go, and folders with them.
    """
    folded = {name.casefold() for name in names}
    router = _table(document.get("router"))
    for key in MODEL_KEYS:
        name = _text(router.get(key))
        if name is not None and name.casefold() in folded:
            yield Use(("router", key), f"names the model {name!r}")
    for name, table in _table(document.get("models")).items():
        if name.casefold() in folded and "path" not in _table(table):
            yield Use(("models", name), "has settings for the model")
    told = set[Where]()
    for mention, identity in seen:
        if identity is not None and identity in lost and mention.where not in told:
            told.add(mention.where)
            yield Use(mention.where, f"uses {mention.path}")


def sentence(file: str, uses: Collection[Use], location: Mapping[Where, str]) -> str:
    """Return what uses a model, as the middle of a sentence.

    Args:
        file: The configuration file.
        uses: At least one.
        location: Each place, as it is written in TOML.
    """
    said = []
    for use in list(uses)[:_MAX_NAMED]:
        line = f" line {use.line}" if use.line is not None else ""
        place = f"{file}{line}: {location[use.where]} " if use.where else ""
        said.append(f"{place}{use.what}")
    more = len(uses) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _table(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and "\0" not in value else None
