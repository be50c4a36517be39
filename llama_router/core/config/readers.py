"""Kinds of values in a configuration, and the strict reading of each. Pure.

A reader gives a value back as its field wants it, or raises `RefusedError`. Nothing is
coerced: "80" is not 80, true is not 1, and a string is not an array of characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from typing import Any, Final, TypeVar

from ...errors.config import Problem
from . import placeholders

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

Read = Callable[[object], object]
"""Gives a value back as its field wants it, or raises `RefusedError`."""

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no name may contain: they could forge lines in a log or a terminal."""


class RefusedError(Exception):
    """A value is unusable; the paths of its problems start at that value."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems


def refusal(message: str) -> RefusedError:
    """Return the error for a value of the right type that cannot be used."""
    return RefusedError(Problem((), message))


def wrong_type(expected: str, value: object) -> RefusedError:
    """Return the error for a value of another type than *expected*."""
    names = {bool: "a boolean", int: "an integer", float: "a float", str: "a string"}
    names |= {list: "an array", dict: "a table"}
    got = names.get(type(value), f"a value of type {type(value).__name__}")
    return refusal(f"expected {expected}, got {got}")


def read_boolean(value: object) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise wrong_type("a boolean (true or false)", value)
    return value


def integer_reader(minimum: int, maximum: int | None = None) -> Callable[[object], int]:
    """Return the reader of an integer within limits, both included."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type("an integer", value)
        if value < minimum or (maximum is not None and value > maximum):
            limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
            raise refusal(f"must be {limits}")
        return value

    return read


def read_seconds(value: object) -> float:
    """Read a duration, which may be 0 and may be written as an integer."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type("a number of seconds", value)
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0:
        raise refusal("must be a finite number of seconds, not negative")
    return seconds


def read_timeout(value: object) -> float:
    """Read a duration of more than 0 seconds."""
    if (seconds := read_seconds(value)) == 0:
        raise refusal("must be more than 0 seconds")
    return seconds


def choice_reader(values: type[E]) -> Callable[[object], E]:
    """Return the reader of one of the words of *values*."""

    def read(value: object) -> E:
        text, known = read_string(value), [str(member) for member in values]
        if text not in known:
            raise refusal(f"must be one of {', '.join(map(repr, known))}")
        return values(text)

    return read


def read_string(value: object) -> str:
    """Read any string that an operating system takes."""
    if not isinstance(value, str):
        raise wrong_type("a string", value)
    if "\0" in value:
        raise refusal("must not contain a NUL character")
    return value


def read_text(value: object) -> str:
    """Read what names something: a file, a group, an address."""
    text = read_string(value)
    if not text:
        raise refusal("must not be empty")
    if CONTROL.search(text):
        raise refusal("must not contain control characters")
    return text


def secret_reader(minimum: int) -> Callable[[object], str]:
    """Return the reader of a secret of at least *minimum* characters; it never quotes one."""

    def read(value: object) -> str:
        if not isinstance(value, str):
            raise wrong_type("a string", value)
        if len(value) < minimum:
            raise refusal(f"must have at least {minimum} characters")
        if not re.fullmatch(r"[!-~]+", value):
            raise refusal("must hold only visible ASCII characters, without spaces")
        return value

    return read


def read_sha256(value: object) -> str:
    """Read a SHA-256 digest in hexadecimal, e.g. of ``printf %s KEY | sha256sum``."""
    if not isinstance(value, str):
        raise wrong_type("a string", value)
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise refusal("must be 64 hexadecimal digits")
    return value.lower()


def read_origin(value: object) -> str:
    """Read the origin of web pages, as browsers write it, or ``*`` for every one."""
    text = read_text(value)
    if text not in ("*", "null") and not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s?#]+", text):
        raise refusal("must be an origin like 'https://chat.example.org', without a path, or '*'")
    return text


def read_url_path(value: object) -> str:
    """Read the path of a URL, or the beginning of one."""
    # Written into request lines as it stands, so nothing that could end one may be in it.
    text = read_text(value)
    if not re.fullmatch(r"/[!-~]*", text):
        raise refusal("must begin with '/' and hold only visible ASCII characters")
    return text


def read_word(value: object) -> str:
    """Read a word of a command line; its placeholders must be known."""
    word = read_string(value)
    try:
        placeholders.names_in(word)
    except ValueError as exc:
        raise refusal(str(exc)) from exc
    return word


def read_all(values: Iterable[tuple[str | int, object]], read: Callable[[object], T]) -> list[T]:
    """Read every value, and only then refuse those that are unusable."""
    good: list[T] = []
    bad: list[Problem] = []
    for key, value in values:
        try:
            good.append(read(value))
        except RefusedError as refused:
            bad += [Problem((key, *p.path), p.message) for p in refused.problems]
    if bad:
        raise RefusedError(*bad)
    return good


def array_reader(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    """Return the reader of an array whose every element *read* accepts."""

    def read_array(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise wrong_type("an array", value)
        return tuple(read_all(enumerate(value), read))

    return read_array


def read_command(value: object) -> tuple[str, ...]:
    """Read a command line: program and arguments."""
    command = array_reader(read_word)(value)
    if not command or not command[0]:
        raise refusal("must name a program in its first element")
    return command


def read_env(value: object) -> Mapping[str, str]:
    """Read a table of environment variables."""
    table = read_table(value)
    bad = [name for name in table if not name or "=" in name or "\0" in name]
    if bad:
        raise RefusedError(*(Problem((name,), "not a variable's name") for name in bad))
    return dict(zip(table, read_all(table.items(), read_word), strict=True))


def params_reader(protected: Collection[str]) -> Callable[[object], Mapping[str, Any]]:
    """Return the reader of a table of request parameters, without the *protected* ones."""

    def read(value: object) -> Mapping[str, Any]:
        table = read_table(value)
        problems = [Problem((name,), "cannot be set") for name in protected if name in table]
        faults = {name: _unlike_json(value) for name, value in table.items()}
        problems += [Problem((name,), fault) for name, fault in faults.items() if fault]
        if problems:
            raise RefusedError(*problems)
        return dict(table)

    return read


def _unlike_json(value: object) -> str:
    """Say why *value* cannot be put into a JSON body; nothing if it can."""
    match value:
        case Mapping():
            parts: Iterable[object] = value.values()
        case list():
            parts = value
        case bool() | int() | str():
            parts = ()
        case float() if math.isfinite(value):
            parts = ()
        case _:
            return "must be what JSON knows: text, a finite number, a boolean, an array or a table"
    return next((fault for part in parts if (fault := _unlike_json(part))), "")


def names_reader(protected: Collection[str]) -> Callable[[object], tuple[str, ...]]:
    """Return the reader of an array of names of request parameters."""

    def read_name(value: object) -> str:
        name = read_text(value)
        if name in protected:
            raise refusal("cannot be left out")
        return name

    return array_reader(read_name)


def presets_reader(
    protected: Collection[str],
) -> Callable[[object], Mapping[str, Mapping[str, Any]]]:
    """Return the reader of named tables of request parameters."""
    read_params = params_reader(protected)

    def read(value: object) -> Mapping[str, Mapping[str, Any]]:
        table = read_table(value)
        bad = [name for name in table if not name or CONTROL.search(name)]
        if bad:
            message = "a name must not be empty or contain control characters"
            raise RefusedError(*(Problem((name,), message) for name in bad))
        return dict(zip(table, read_all(table.items(), read_params), strict=True))

    return read


def read_table(value: object) -> Mapping[str, object]:
    """Read a table, as it is."""
    if not isinstance(value, Mapping):
        raise wrong_type("a table", value)
    return value
