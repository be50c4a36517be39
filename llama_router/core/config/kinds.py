"""The kinds of values in ``router.toml``, as types. Pure.

A kind is a plain type, or one with limits: ``Annotated[int, between(0, 65535)]``. The module
`strict` converts values to them, and `json_schema` describes them. A field of the configuration
has its kind as its type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Final

import attrs

from . import placeholders
from .exposure import address_fault
from .service import key_fault, url_fault

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that no name may contain: they could forge lines in a log or a terminal."""

MAX_DEPTH: Final = 64
"""Parts that a key may have, and levels of tables and arrays in one another.

Functions over nested values are recursive, and memory for the paths grows quadratically.
"""


@attrs.frozen(eq=False)
class Limit:
    """A condition on a value of the right type.

    Attributes:
        fault: Returns the fault of a value; None if it is valid.
        schema: What JSON Schema can say of the condition, for editors. It refuses no valid value.
    """

    fault: Callable[[Any], str | None]
    schema: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@attrs.frozen(eq=False)
class Notation:
    """Another way to write a number, as a text.

    Attributes:
        number: What the number is, for messages: "a number of seconds".
        read: Returns the number that a text stands for; None if it stands for none.
        example: Such texts, for messages.
        schema: The JSON Schema of such texts.
    """

    number: str
    read: Callable[[str], float | None]
    example: str
    schema: Mapping[str, Any]


def between(minimum: int, maximum: int | None = None) -> Limit:
    """Return the limit of an integer, both ends included."""
    limits = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def fault(value: int) -> str | None:
        inside = minimum <= value and (maximum is None or value <= maximum)
        return None if inside else f"must be {limits}"

    ends = {"minimum": minimum, "maximum": maximum}
    return Limit(fault, {name: end for name, end in ends.items() if end is not None})


def matching(pattern: str, message: str) -> Limit:
    """Return the limit of a text that must match *pattern* completely.

    The pattern uses only what regular expressions of JSON Schema know, too.
    """
    matches = re.compile(pattern).fullmatch
    return Limit(lambda text: None if matches(text) else message, {"pattern": f"^(?:{pattern})$"})


def at_least(characters: int) -> Limit:
    """Return the limit of a secret's length. The secret is never quoted."""
    message = f"must have at least {characters} characters"
    return Limit(
        lambda secret: None if len(secret) >= characters else message, {"minLength": characters}
    )


def none_of(names: Collection[str], message: str) -> Limit:
    """Return the limit of a name that must not be one of *names*."""
    return Limit(lambda name: message if name in names else None, {"not": {"enum": sorted(names)}})


def _no_nul(text: str) -> str | None:
    return "must not contain a NUL character" if "\0" in text else None


#: The usual name of llama.cpp's server.
LLAMA_SERVER: Final = "llama-server"


def is_llama_server(program: str) -> bool:
    """Return whether *program*, a name or path, is llama.cpp's server: ``llama-server-cuda`` is."""
    return program.rpartition("/")[2].startswith(LLAMA_SERVER)


def _no_controls(text: str) -> str | None:
    if not text:
        return "must not be empty"
    return "must not contain control characters" if CONTROL.search(text) else None


def name_fault(name: str) -> str | None:
    """Return the fault of a name of a model, template, key or preset; None if it is valid."""
    if name and not CONTROL.search(name):
        return None
    return "a name must not be empty or contain control characters"


def _variable_name_fault(name: str) -> str | None:
    return None if name and "=" not in name and "\0" not in name else "not a variable's name"


def _placeholder_fault(word: str) -> str | None:
    return _fault_among(word, placeholders.NAMES)


def _stop_placeholder_fault(word: str) -> str | None:
    return _fault_among(word, placeholders.STOP_NAMES)


def _fault_among(word: str, known: frozenset[str]) -> str | None:
    try:
        placeholders.names_in(word, known)
    except ValueError as exc:
        return str(exc)
    return None


def _program_fault(command: tuple[str, ...]) -> str | None:
    return None if command and command[0] else "must name a program in its first element"


def _llama_server_fault(path: str) -> str | None:
    if is_llama_server(path):
        return None
    return f"must name a file whose name begins with {LLAMA_SERVER!r}, such as 'llama-server-cuda'"


def _factor_fault(factor: float) -> str | None:
    if math.isfinite(factor) and factor >= 0:
        return None
    return "must be a finite number, not negative"


def _duration_fault(seconds: float) -> str | None:
    if math.isfinite(seconds) and seconds >= 0:
        return None
    return "must be a finite number of seconds, not negative"


def _weight_fault(weight: float) -> str | None:
    return None if 0.01 <= weight <= 100 else "must be between 0.01 and 100"


#: Units of durations in seconds, the largest first: the order in which they are written.
_UNITS_S: Final = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = "".join(rf"(?:([0-9]+(?:\.[0-9]+)?)\s?{unit})?\s?" for unit in _UNITS_S)
_DURATION_PATTERN: Final = re.compile(_DURATION)


def _seconds_of(text: str) -> float | None:
    """Return the seconds that *text* stands for: ``"90s"``, ``"1h30m"``, ``"250ms"``."""
    found = _DURATION_PATTERN.fullmatch(text.strip())
    amounts = () if found is None else found.groups()
    if not any(amounts):
        return None
    parts = zip(amounts, _UNITS_S.values(), strict=True)
    return sum(float(amount) * unit_s for amount, unit_s in parts if amount is not None)


def _zero_fault(seconds: float) -> str | None:
    return None if seconds > 0 else "must be more than 0 seconds"


def _empty_fault(values: tuple[object, ...]) -> str | None:
    return None if values else "must not be empty"


def _memory_fault(value: object) -> str | None:
    """Return the fault of a footprint: MiB, or a table of MiB by device."""
    match value:
        case bool():
            return "expected an integer of MiB or a table of them by device, got a boolean"
        case int():
            return None if value >= 1 else "must be at least 1 MiB"
        case Mapping():
            faults = (
                name_fault(str(name)) or (_memory_fault(mib) if isinstance(mib, int) else "")
                for name, mib in value.items()
            )
            if any(isinstance(mib, bool) or not isinstance(mib, int) for mib in value.values()):
                return "expected an integer of MiB for each device"
            return next(filter(None, faults), None) if value else "must name a device"
        case _:
            return "expected an integer of MiB or a table of them by device"


def _devices_fault(value: object) -> str | None:
    """Return the fault of a choice of devices: ``"auto"``, or an array of names."""
    match value:
        case "auto":
            return None
        case list():
            if not value or not all(isinstance(name, str) for name in value):
                return "must name at least one device"
            return next(filter(None, map(name_fault, value)), None)
        case _:
            return "must be 'auto' or an array of names of devices"


def _json_fault(value: object) -> str | None:
    match value:
        case Mapping():
            return next(filter(None, map(_json_fault, value.values())), None)
        case list():
            return next(filter(None, map(_json_fault, value)), None)
        case bool() | int() | str():
            return None
        case float() if math.isfinite(value):
            return None
        case _:
            return "must be what JSON knows: text, a finite number, a boolean, an array or a table"


_VISIBLE: Final = matching(r"[!-~]+", "must hold only visible ASCII characters, without spaces")
# Written into request lines unchanged, so it must not contain characters that end one.
_URL_PATH: Final = matching(
    r"/[!-~]*", "must begin with '/' and hold only visible ASCII characters"
)
_ORIGIN: Final = matching(
    # What a browser sends, or any port of it: a wildcard elsewhere would never match, nor would a
    # name in other letters, which a browser sends in its ASCII form.
    r"\*|null|localhost|[A-Za-z][A-Za-z0-9+.-]*://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?:[0-9]+|\*))?",
    "must be an origin like 'https://chat.example.org', without a path, 'localhost' for every page "
    "of this machine, or '*'; 'http://HOST:*' is every port of a host, and there are no other "
    "patterns",
)

_PAGES_ORIGIN: Final = matching(
    r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?",
    "must be one origin like 'http://127.0.0.1:8083', without a path",
)

_WITHOUT_CONTROLS: Final = r"^[^\x00-\x1f\x7f-\x9f]*$"

Port = Annotated[int, between(0, 65535)]
Count = Annotated[int, between(0)]
Positive = Annotated[int, between(1)]

Factor = Annotated[float, Limit(_factor_fault, {"minimum": 0})]
"""A number without a unit, not negative."""

_AS_TEXT: Final = Notation(
    "a number of seconds",
    _seconds_of,
    "'90s', '5m' or '1h30m'",
    {"type": "string", "pattern": r"[0-9]\s?(?:d|h|m|s|ms)\s?$"},
)

Seconds = Annotated[float, _AS_TEXT, Limit(_duration_fault, {"minimum": 0})]
"""A number of seconds, or a text with units: ``"5m"``. 0 is allowed."""

Timeout = Annotated[Seconds, Limit(_zero_fault, {"exclusiveMinimum": 0})]
Weight = Annotated[float, Limit(_weight_fault, {"minimum": 0.01, "maximum": 100})]
"""A share beside others, bounded so that none waits for ever."""

String = Annotated[str, Limit(_no_nul)]
"""A text without NUL, for the operating system; it may be empty."""

Text = Annotated[String, Limit(_no_controls, {"minLength": 1, "pattern": _WITHOUT_CONTROLS})]
"""A name of something: a file, a group, an address. Not empty."""

Address = Annotated[Text, Limit(address_fault)]
Addresses = Address | Annotated[tuple[Address, ...], Limit(_empty_fault, {"minItems": 1})]
"""An address to listen on, or an array of them, each perhaps with a port."""

LlamaServer = Annotated[
    Text, Limit(_llama_server_fault, {"pattern": f"(?:^|/){LLAMA_SERVER}[^/]*$"})
]
UrlPath = Annotated[Text, _URL_PATH]
Origin = Annotated[Text, _ORIGIN]
PagesOrigin = Annotated[Text, _PAGES_ORIGIN]

Word = Annotated[String, Limit(_placeholder_fault)]
"""A word of a command line, or the value of a variable; its placeholders are known."""

StopWord = Annotated[String, Limit(_stop_placeholder_fault)]
"""A word of a stop command, which may use ``$pid``, too."""

StopCommand = Annotated[tuple[StopWord, ...], Limit(_program_fault, {"minItems": 1})]
Command = Annotated[tuple[Word, ...], Limit(_program_fault, {"minItems": 1})]
Env = Mapping[Annotated[str, Limit(_variable_name_fault, {"pattern": "^[^=]+$"})], Word]

AdminSecret = Annotated[str, at_least(16), _VISIBLE]
KeySecret = Annotated[str, at_least(8), _VISIBLE]
ServiceUrl = Annotated[Text, Limit(url_fault, {"pattern": "^(?:[Hh][Tt][Tt][Pp]://|unix:/)"})]
"""Where a service is reached that the router did not start."""

ServiceKey = Annotated[str, Limit(key_fault, {"minLength": 1})]
"""The key that such a service gets, or ``${env.NAME}``."""

Sha256 = Annotated[str, matching(r"[0-9A-Fa-f]{64}", "must be 64 hexadecimal digits")]

Name = Annotated[str, Limit(name_fault, {"minLength": 1, "pattern": _WITHOUT_CONTROLS})]

_MIB: Final = {"type": "integer", "minimum": 1}

MemoryMib = Annotated[
    Any,
    Limit(
        _memory_fault,
        {"anyOf": [_MIB, {"type": "object", "minProperties": 1, "additionalProperties": _MIB}]},
    ),
]
"""MiB, or a table of MiB by device."""

_DEVICE_NAMES: Final = {"type": "array", "minItems": 1, "items": {"type": "string"}}

DeviceChoice = Annotated[Any, Limit(_devices_fault, {"anyOf": [{"const": "auto"}, _DEVICE_NAMES]})]
"""``"auto"``, or an array of names of devices."""

JsonValue = Annotated[Any, Limit(_json_fault)]
Table = Mapping[str, Any]
"""A table with keys that are converted one by one."""


def as_table(value: object) -> Table:
    """Return *value*, a part of an unchecked document; an empty table if it is no table."""
    return value if isinstance(value, Mapping) else {}
