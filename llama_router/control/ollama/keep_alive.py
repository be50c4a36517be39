"""How long a model stays after a request: Ollama's ``keep_alive``. Pure.

Source: Go's time.ParseDuration, which Ollama uses; a number counts seconds.
"""

from __future__ import annotations

import math
import re
from typing import Final

from ...errors.requests import RequestError

_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"
_DURATION: Final = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?", re.ASCII)

#: Longest text that is looked at.
_MAX_LENGTH: Final = 64


def keep_alive_s(value: float | str) -> float:
    """Return the seconds that *value* means; infinite if it is negative.

    Raises:
        RequestError: if it is no duration.
    """
    seconds = _parsed(value) if isinstance(value, str) else float(value)
    return math.inf if seconds < 0 else seconds


def _parsed(text: str) -> float:
    if len(text) <= _MAX_LENGTH:
        if _NUMBER.fullmatch(text):
            return float(text)
        if found := _DURATION.fullmatch(text):
            parts = re.findall(_PART, found[2])
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
            return -seconds if found[1] == "-" else seconds
    raise RequestError(
        f"keep_alive {text[:_MAX_LENGTH]!r} is not a duration; one looks like 300, '5m' or '1h30m'",
        param="keep_alive",
    )
