"""Converts TOML values to their kinds with cattrs, without coercion. Pure.

cattrs alone coerces: "80" becomes 80, true becomes 1, and a string an array of characters.
So each kind has its own hook here, and a kind without a hook raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from cattrs import Converter, IterableValidationError, IterableValidationNote

from ...errors.config import Problem, Where
from .kinds import Limit, Notation, String, Table

_TOML_NAMES: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
}

Hook = Callable[[Any, Any], Any]
"""Converts its first argument to its second, a kind."""

Reader = Callable[[object], Any]
"""Converts a value to a certain kind; raises one of `INVALID`."""


class InvalidValueError(Exception):
    """A value has another type than its kind, or violates one of its limits."""


INVALID: Final = (InvalidValueError, IterableValidationError)
"""Errors of a `Reader`: for the value itself, or for values inside it."""


def reader(kind: Any) -> Reader:  # noqa: ANN401 -- any type
    """Return the function that converts values to *kind*."""
    hook = _CONVERTER.get_structure_hook(kind)
    return lambda value: hook(value, kind)


def problems_in(error: BaseException, where: Where) -> list[Problem]:
    """Return all problems in *error*.

    Args:
        error: One of `INVALID`. Any other exception is a bug, and raised again.
        where: Path of the value that was converted.
    """
    match error:
        case InvalidValueError():
            return [Problem(where, str(error))]
        case IterableValidationError():
            inner, _ = error.group_exceptions()
            return [p for exc, note in inner for p in problems_in(exc, (*where, note.index))]
        case _:
            raise error


def _require(value: object, type_: type | tuple[type, ...], expected: str) -> None:
    # A bool is an int to Python, but not in TOML.
    if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
        got = _TOML_NAMES.get(type(value), f"a value of type {type(value).__name__}")
        raise InvalidValueError(f"expected {expected}, got {got}")


def _boolean(value: object, _: object) -> bool:
    _require(value, bool, "a boolean (true or false)")
    return bool(value)


def _integer(value: Any, _: object) -> int:  # noqa: ANN401 -- undecoded TOML
    _require(value, int, "an integer")
    return int(value)


def _number(value: Any, _: object) -> float:  # noqa: ANN401 -- undecoded TOML
    _require(value, (int, float), "a number")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def _string(value: object, _: object) -> str:
    _require(value, str, "a string")
    return str(value)


def _mapping(value: Any) -> Mapping[str, Any]:  # noqa: ANN401 -- undecoded TOML
    _require(value, Mapping, "a table")
    table: Mapping[str, Any] = value
    return table


def _choice(converter: Converter) -> Hook:
    read = converter.get_structure_hook(String)

    def hook(value: Any, kind: type[StrEnum]) -> StrEnum:  # noqa: ANN401 -- undecoded TOML
        text = read(value, String)
        if text not in list(kind):
            raise InvalidValueError(f"must be one of {', '.join(repr(str(each)) for each in kind)}")
        return kind(text)

    return hook


def _limited(kind: Any, converter: Converter) -> Hook:  # noqa: ANN401 -- any type
    base, *others = get_args(kind)
    read = converter.get_structure_hook(base)
    limits = [each for each in others if isinstance(each, Limit)]
    notations = [each for each in others if isinstance(each, Notation)]

    def hook(value: object, _: object) -> Any:  # noqa: ANN401 -- as *base* says
        for notation in notations:
            value = _number_in(value, notation)
        valid = read(value, base)
        for limit in limits:
            if fault := limit.fault(valid):
                raise InvalidValueError(fault)
        return valid

    return hook


def _number_in(value: object, notation: Notation) -> object:
    """Return the number that *value* is, or that it stands for as a text."""
    if not isinstance(value, str):
        _require(value, (int, float), notation.number)
        return value
    number = notation.read(value)
    if number is None:
        raise InvalidValueError(
            f"expected {notation.number}, got a string; with a unit it may be one: "
            f"{notation.example}"
        )
    return number


def _optional(kind: Any, converter: Converter) -> Hook:  # noqa: ANN401 -- any type
    """Convert ``X | None`` like X: TOML has no null; None only stands for a missing key."""
    (member,) = (part for part in get_args(kind) if part is not NoneType)
    read = converter.get_structure_hook(member)
    return lambda value, _: read(value, member)


def _one_or_more(kind: Any, converter: Converter) -> Hook:  # noqa: ANN401 -- any type
    """Convert a kind ``X | tuple[X, ...]``: an array as the second, anything else as the first."""
    one, more = get_args(kind)
    if not _is_array(get_args(more)[0] if _is_limited(more) else more):
        raise TypeError(f"{kind} is not of the form X | tuple[X, ...]")
    read_one, read_more = map(converter.get_structure_hook, (one, more))

    def hook(value: object, _: object) -> Any:  # noqa: ANN401 -- as *kind* says
        return read_more(value, more) if isinstance(value, list) else read_one(value, one)

    return hook


def _array(kind: Any, converter: Converter) -> Hook:  # noqa: ANN401 -- any type
    member, _ = get_args(kind)
    read = converter.get_structure_hook(member)

    def hook(value: Any, _: object) -> tuple[Any, ...]:  # noqa: ANN401 -- undecoded TOML
        _require(value, list, "an array")
        values, errors = _read_all(read, member, enumerate(value))
        _raise_all(errors, kind)
        return tuple(values)

    return hook


def _table(kind: Any, converter: Converter) -> Hook:  # noqa: ANN401 -- any type
    if kind == Table:
        return lambda value, _: _mapping(value)
    key_kind, member = get_args(kind)
    read_key = converter.get_structure_hook(key_kind)
    read = converter.get_structure_hook(member)

    def hook(value: Any, _: object) -> Mapping[str, Any]:  # noqa: ANN401 -- undecoded TOML
        table = _mapping(value)
        keys, bad_keys = _read_all(read_key, key_kind, ((key, key) for key in table))
        values, bad_values = _read_all(read, member, table.items())
        _raise_all([*bad_keys, *bad_values], kind)
        return dict(zip(keys, values, strict=True))

    return hook


def _read_all(
    read: Callable[[Any, Any], Any],
    kind: Any,  # noqa: ANN401 -- any type
    items: Iterable[tuple[str | int, object]],
) -> tuple[list[Any], list[Exception]]:
    """Return the valid members, and the errors of the others, each with its key or index."""
    valid: list[Any] = []
    errors: list[Exception] = []
    for key, value in items:
        try:
            valid.append(read(value, kind))
        except INVALID as exc:
            exc.add_note(IterableValidationNote(f"at {key!r}", key, kind))
            errors.append(exc)
    return valid, errors


def _raise_all(errors: list[Exception], kind: Any) -> None:  # noqa: ANN401 -- any type
    if errors:
        raise IterableValidationError("invalid members", errors, kind)


def _is_optional(kind: Any) -> bool:  # noqa: ANN401 -- any type
    return get_origin(kind) in (Union, UnionType) and NoneType in get_args(kind)


def _is_one_or_more(kind: Any) -> bool:  # noqa: ANN401 -- any type
    return get_origin(kind) in (Union, UnionType) and NoneType not in get_args(kind)


def _is_limited(kind: Any) -> bool:  # noqa: ANN401 -- any type
    return get_origin(kind) is Annotated


def _is_array(kind: Any) -> bool:  # noqa: ANN401 -- any type
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def _is_table(kind: Any) -> bool:  # noqa: ANN401 -- any type
    return get_origin(kind) is Mapping


def _strict_converter() -> Converter:
    converter = Converter()
    for scalar, hook in ((bool, _boolean), (int, _integer), (float, _number), (str, _string)):
        converter.register_structure_hook(scalar, hook)
    for applies, factory in (
        (_is_optional, _optional),
        (_is_one_or_more, _one_or_more),
        (_is_limited, _limited),
        (_is_array, _array),
        (_is_table, _table),
    ):
        converter.register_structure_hook_factory(applies, factory)
    converter.register_structure_hook(StrEnum, _choice(converter))
    return converter


_CONVERTER: Final = _strict_converter()
