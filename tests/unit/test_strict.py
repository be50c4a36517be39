"""The kinds of the configuration: nothing is coerced, and every problem is said at once."""

import datetime as dt
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, NewType, Union, get_args, get_origin, get_type_hints

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.kinds import Env, Limit, Positive, Seconds, Text, between
from llama_router.core.config.specs import (
    ApiKey,
    DeviceSpec,
    ModelSpec,
    RouterSpec,
    SchedulerSpec,
    SpawnSpec,
)
from llama_router.core.config.strict import INVALID, InvalidValueError, problems_in, reader

FIELDS = [
    (f"{spec.__name__}.{field.name}", get_type_hints(spec, include_extras=True)[field.name])
    for spec in (RouterSpec, SchedulerSpec, DeviceSpec, ApiKey, SpawnSpec, ModelSpec)
    for field in attrs.fields(spec)
    if field.name not in {"id", "spawn"}
]
PROBES: list[object] = [
    *(
        True,
        False,
        0,
        1,
        5000,
        1.0,
        70.5,
        "",
        "1",
        "80",
        "true",
        "/a",
        "info",
        "auto",
        "memory",
        "interactive",
        "pool",
        "0" * 64,
        "/a/llama-server",
        "http://a",
    ),
    *([], ["/a"], ["a"], [1], "ab", ("a",), {}, {"a": "b"}, {"a": 1}, {"a": {"b": 1}}),
    *(None, b"a", dt.date(2026, 1, 1)),
]


def base(kind: Any) -> Any:
    """Return the plain type of a kind, without limits and None."""
    if get_origin(kind) is Annotated:
        return base(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    optional = len(members) < len(get_args(kind))
    return base(members[0]) if optional else get_origin(kind) or kind


def _alternative(kind: Any, value: object) -> Any:
    """Return the part of ``X | tuple[X, ...]`` that *value* is read as; else the kind itself."""
    members = get_args(kind)
    if get_origin(kind) not in (Union, UnionType) or type(None) in members:
        return kind
    return members[isinstance(value, list)]


def problems(kind: Any, value: object) -> list[str]:
    """Return what is wrong with *value*."""
    with pytest.raises(INVALID) as refused:
        reader(kind)(value)
    return [str(problem) for problem in problems_in(refused.value, ())]


@pytest.mark.parametrize(("name", "kind"), FIELDS, ids=[name for name, _ in FIELDS])
def test_no_field_coerces(name: str, kind: Any) -> None:
    """What is accepted comes out as it went in; only seconds may be written as integers."""
    types = {tuple: list, Mapping: dict, float: int | float}
    accepted = 0
    for probe in PROBES:
        try:
            value = reader(kind)(probe)
        except INVALID:
            continue
        accepted += 1
        plain = base(_alternative(kind, probe))
        if plain is Any:  # one of several types; the value is kept as it is
            assert value is probe, name
            continue
        assert isinstance(probe, types.get(plain, str if issubclass(plain, str) else plain)), name
        assert not isinstance(probe, bool) or plain is bool, name
        assert (list(value) if plain is tuple else value) == probe, name
    assert accepted, name


def test_every_member_is_judged() -> None:
    """Keys and values of a table, elements of an array: each problem has its path."""
    assert problems(Env, {"A=": "1", "B": 2, "C": "$x", "D": "ok"})[:2] == [
        '"A=": not a variable\'s name',
        "B: expected a string, got an integer",
    ]
    assert problems(tuple[Positive, ...], [1, 0, "2"]) == [
        "[1]: must be at least 1",
        "[2]: expected an integer, got a string",
    ]
    nested = Mapping[str, tuple[Annotated[Text, Limit(lambda _: None)], ...]]
    assert problems(nested, {"a": ["x", ""], "b": 1}) == [
        "a[1]: must not be empty",
        "b: expected an array, got an integer",
    ]


@pytest.mark.parametrize("value", [10**400, -1, float("nan"), float("inf")])
def test_a_duration_is_finite(value: float) -> None:
    """An integer that no float can hold included."""
    assert problems(Seconds, value) == ["must be a finite number of seconds, not negative"]


def test_a_union_of_several_types_is_refused_before_any_value_is_read() -> None:
    """cattrs would take the first type that can be made of a value."""
    with pytest.raises(TypeError, match=r"X \| tuple\[X, \.\.\.\]"):
        reader(int | str)


def test_a_new_type_is_as_strict_as_its_base() -> None:
    """With the limits of that."""
    slots = NewType("slots", Positive)
    assert reader(slots)(2) == 2
    assert problems(slots, "2") == ["expected an integer, got a string"]
    assert problems(slots, 0) == ["must be at least 1"]


def test_a_bug_in_a_limit_is_no_problem_of_the_configuration() -> None:
    """It is raised as it is."""
    with pytest.raises(ZeroDivisionError):
        reader(Annotated[int, Limit(lambda value: str(1 // value))])(0)
    with pytest.raises(ZeroDivisionError):
        problems_in(ZeroDivisionError(), ())


def test_limits_are_judged_in_their_order() -> None:
    """The first one that a value breaks is said."""
    assert reader(Annotated[int, between(1, 3)])(3) == 3
    assert problems(Annotated[int, between(1, 3)], 4) == ["must be from 1 to 3"]
    with pytest.raises(InvalidValueError, match="must not be empty"):
        reader(Text)("")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        (" 1h 30m ", 5400),
        ("2d", 172_800),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1m250ms", 60.25),
        ("0s", 0),
    ],
)
def test_a_duration_may_be_a_text_with_units(text, seconds) -> None:
    """As people write it: the largest unit first."""
    assert reader(Seconds)(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "m", "5 minutes", "5M", "-5s", "30m1h", "5m5m", "1e3s"])
def test_another_text_is_no_duration(text) -> None:
    """The message says how one is written."""
    (message,) = problems(Seconds, text)
    assert message.startswith("expected a number of seconds, got a string; with a unit")


@given(st.floats(min_value=0, max_value=1e9, allow_nan=False))
def test_a_number_with_the_unit_of_seconds_is_that_number(seconds) -> None:
    """Whatever it is."""
    assert reader(Seconds)(f"{seconds:.9f}s") == pytest.approx(seconds, abs=1e-6)
