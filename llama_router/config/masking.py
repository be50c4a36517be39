"""The text of ``router.toml`` for a browser: with its secrets masked, and back.

Each secret is replaced by a mask with its number in the file. A text that comes back is changed
against the same file, so the number says which secret a mask stands for, also if the lines around
it were moved or the table was renamed.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ..core.config.redaction import MASK, is_secret, redacted_command
from ..errors.config import ConfigError, Problem, Where
from .toml_lines import TextFinder

#: A mask with its number; the number is missing in masks of other listings.
_MASKED: Final = re.compile(re.escape(MASK) + r"([0-9]{0,6})")

#: A setting that is commented out, or one in a text that is not TOML.
_SETTING: Final = re.compile(
    r"""(?P<key>[A-Za-z0-9_.-]+|"[^"\n]*"|'[^'\n]*')[ \t]*=[ \t]*"""
    r"""(?P<value>"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[^\s#"',\]}]+)"""
)

#: A secret option in such a text: its value is the next word, or the rest of its own.
_OPTION: Final = re.compile(
    r"""(?P<quote>["'])(?P<option>--?[A-Za-z][\w-]*)"""
    r"""(?:(?P=quote)[ \t]*,[ \t]*["'](?P<next>[^"'\n]*)["']|=(?P<rest>[^"'\n]*)(?P=quote))"""
)

#: Keys of words of a command line, in the order in which a program gets them.
_COMMANDS: Final = ("command", "args", "found_args")


@attrs.frozen
class Secret:
    """A secret in the text of a file.

    Attributes:
        value: The secret, decoded.
        masked: What stands in the masked text for *written*.
        written: That part of the text as the file has it.
    """

    value: str
    masked: str
    written: str


@attrs.frozen
class MaskedText:
    """A text without its secrets.

    Attributes:
        text: The text.
        secrets: The secrets; the mask of the first one has the number 1.
    """

    text: str
    secrets: tuple[Secret, ...]


@attrs.frozen
class _Place:
    """The place of a secret in a text.

    Attributes:
        start: Where the part begins that is replaced.
        end: Where it ends.
        before: What stays of it, in front of the mask, decoded.
        value: The secret, decoded.
        quoted: The replacement is a string of its own, in quotes.
    """

    start: int
    end: int
    before: str
    value: str
    quoted: bool = True


def masked(text: str) -> MaskedText:
    """Return *text* with a mask for each of its secrets; it may be no TOML."""
    try:
        document = tomllib.loads(text)
        found = TextFinder(text)
    except (ValueError, RecursionError):
        places = [*_loose_places(text, 0, len(text))]
    else:
        places = [*_exact_places(document, found)]
        for start, end in found.comments:
            places += _loose_places(text, start, end)
    places.sort(key=lambda place: place.start)
    parts: list[str] = []
    secrets: list[Secret] = []
    at = 0
    for place in places:
        if place.start < at:
            continue
        mask = f"{place.before}{MASK}{len(secrets) + 1}"
        shown = _written(mask) if place.quoted else mask
        secrets.append(Secret(place.value, shown, text[place.start : place.end]))
        parts += [text[at : place.start], shown]
        at = place.end
    return MaskedText("".join([*parts, text[at:]]), tuple(secrets))


def unmasked(text: str, secrets: tuple[Secret, ...]) -> str:
    """Return *text* with the *secrets* of the file in place of their masks.

    A text that is no TOML is returned as it is: it is refused anyway.

    Raises:
        ConfigError: if a mask stands for no secret of the file.
    """
    if MASK not in text:
        return text
    try:
        tomllib.loads(text)
        found = TextFinder(text)
    except (ValueError, RecursionError):
        return text
    parts: list[str] = []
    at = 0
    for path, start, end in sorted(_masks_in(text, found), key=lambda place: place[1]):
        token = text[start:end]
        parts += [text[at:start], _restored(token, path, secrets, line=text.count("\n", 0, start))]
        at = end
    return "".join([*parts, text[at:]])


def _masks_in(text: str, found: TextFinder) -> Iterator[tuple[Where | None, int, int]]:
    for path, start, end in found.strings:
        if MASK in text[start:end]:
            yield path, start, end
    for start, end in found.comments:
        for mask in _MASKED.finditer(text, start, end):
            yield None, *mask.span()


def _restored(token: str, path: Where | None, secrets: tuple[Secret, ...], line: int) -> str:
    """Return a string or a mask in a comment with its secrets; *path* is None for the latter."""

    def secret_of(mask: re.Match[str]) -> Secret:
        number = int(mask[1] or 0)
        if not 0 < number <= len(secrets):
            message = f"{mask[0]!r} stands for no secret of the file: write the secret there"
            raise ConfigError((Problem(path or (), message, line + 1),))
        return secrets[number - 1]

    if path is None:
        known = _MASKED.fullmatch(token)
        assert known is not None, "found by this pattern"
        if not known[1]:
            return token  # a comment that only looks like one
        return secret_of(known).written
    masks = list(_MASKED.finditer(token))
    if len(masks) == 1 and masks[0][1] and secret_of(masks[0]).masked == token:
        return secret_of(masks[0]).written
    value = str(tomllib.loads(f"value = {token}")["value"])
    return _written(_MASKED.sub(lambda mask: secret_of(mask).value, value))


def _exact_places(document: Mapping[str, Any], found: TextFinder) -> Iterator[_Place]:
    """Yield the secrets in the strings of a text that is TOML."""
    words: dict[Where, list[tuple[int, int, str]]] = {}
    for path, start, end in found.strings:
        value = _value_at(document, path)
        if not isinstance(value, str) or not value:
            continue
        command = _command_of(path)
        if command is not None:
            words.setdefault(command, []).append((start, end, value))
        elif _is_secret_path(path):
            yield _Place(start, end, "", value)
    for table, own in words.items():
        if table[-1] == "args" and (earlier := words.get((*table[:-1], "command"))) is not None:
            yield from _secret_words([*earlier, *own])
        yield from _secret_words(own)


def _command_of(path: Where) -> Where | None:
    """Return the path of the command line that a word at *path* belongs to."""
    if len(path) > 1 and isinstance(path[-1], int) and path[-2] in _COMMANDS:
        return path[:-1]
    return None


def _is_secret_path(path: Where) -> bool:
    names = [key for key in path if isinstance(key, str)]
    if len(names) > 2 and names[0] == "api_keys" and names[-1] == "sha256":
        return True
    # Also an array of secrets; names of models and keys are no names of settings.
    return bool(names) and is_secret(names[-1]) and not (len(names) == 2 and names[0] == "models")


def _secret_words(words: list[tuple[int, int, str]]) -> Iterator[_Place]:
    shown = redacted_command(word for _, _, word in words)
    for (start, end, word), safe in zip(words, shown, strict=True):
        if safe == MASK:
            yield _Place(start, end, "", word)
        elif safe != word:
            before = word.partition("=")[0] + "="
            yield _Place(start, end, before, word[len(before) :])


def _loose_places(text: str, start: int, end: int) -> Iterator[_Place]:
    """Yield what looks like a secret in a comment, or in a text that is not TOML."""
    for found in _SETTING.finditer(text, start, end):
        key = found["key"].strip("'\"").rpartition(".")[2]
        value = found["value"].strip("'\"")
        if value and (is_secret(key) or key == "sha256"):
            yield _inner(found, "value", value)
    for found in _OPTION.finditer(text, start, end):
        if is_secret(found["option"].lstrip("-")):
            group = "next" if found["next"] is not None else "rest"
            if found[group]:
                yield _Place(*found.span(group), "", found[group], quoted=False)


def _inner(found: re.Match[str], group: str, value: str) -> _Place:
    """Return the place of a value without its quotes."""
    start, end = found.span(group)
    if found[group][0] in "'\"":
        start, end = start + 1, end - 1
    return _Place(start, end, "", value, quoted=False)


def _value_at(document: Any, path: Where) -> object:  # noqa: ANN401 -- any TOML value
    for key in path:
        document = document[key]
    return document


def _written(value: str) -> str:
    """Return *value* as a basic string of TOML; JSON has the same escapes."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
