"""Settings as people type them for ``set``: ``ctx=8192``, ``ttl=5m``, ``keep_loaded=yes``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Final

from .failures import CommandError

#: Short names of llama-server's options, each with the spellings of its flag.
OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    "ctx": ("--ctx-size", "-c"),
    "gpu_layers": ("--n-gpu-layers", "--gpu-layers", "-ngl"),
    "parallel": ("--parallel", "-np"),
    "threads": ("--threads", "-t"),
}

#: The least number that each takes, and words that it takes as well.
_LEAST: Final = {"ctx": 0, "gpu_layers": 0, "parallel": 1, "threads": 1}
_WORDS: Final = {"gpu_layers": ("auto", "all")}

#: Short names of settings.
_NAMES: Final = {"ttl": "ttl_s", "alias": "aliases", "pinned": "keep_loaded"}

_BOOLEANS: Final = {"yes": True, "on": True, "no": False, "off": False}

#: Settings that are arrays, for which a plain word is an array of one.
_ARRAYS: Final = frozenset(("aliases", "args"))

#: Settings that are texts, for which a number or a boolean is a word, too.
_TEXTS: Final = frozenset(("group", "template", "description"))


def parse_assignment(word: str) -> tuple[str, object]:
    """Return key and value of ``KEY=VALUE``; a VALUE is TOML, or else a plain word.

    Raises:
        CommandError: if *word* has another form.
    """
    key, equals, text = word.partition("=")
    key = key.strip()
    if not equals or not key:
        raise CommandError(f"{word!r} is not KEY=VALUE", cure="for instance: ttl=5m, ctx=8192")
    key = _NAMES.get(key, key)
    if key in _TEXTS and not text.startswith(('"', "'")):
        return key, text
    value: object = text
    if text.strip().lower() in _BOOLEANS:
        value = _BOOLEANS[text.strip().lower()]
    else:
        try:
            found = tomllib.loads(f"value = {text}")
        except tomllib.TOMLDecodeError:
            pass
        else:
            value = found["value"] if found.keys() == {"value"} else text
    if key in _ARRAYS and isinstance(value, str):
        value = value.split(",") if key == "aliases" else value.split()
    return key, value


def is_option(key: str) -> bool:
    """Return whether *key* stands for an option of llama-server, which is set in ``args``."""
    return key in OPTIONS


def with_option(args: Sequence[str], key: str, value: object) -> list[str]:
    """Return *args* with the option *key* set to *value*, in the place where it stood.

    Raises:
        CommandError: if llama-server would not take the value.
    """
    least, words_too = _LEAST[key], _WORDS.get(key, ())
    number = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if not number and value not in words_too:
        also = "".join(f", or {word!r}" for word in words_too)
        raise CommandError(
            f"{key} must be a whole number from {least} on{also}, not {value!r}",
            cure=f"for instance: {key}={max(least, 4)}; args=[…] sets all arguments",
        )
    spellings = OPTIONS[key]
    rest: list[str] = []
    place: int | None = None
    words = iter(args)
    for word in words:
        flag, equals, _ = word.partition("=")
        if flag in spellings:
            place = len(rest) if place is None else place
            if not equals:
                next(words, None)
            continue
        rest.append(word)
    place = len(rest) if place is None else place
    return [*rest[:place], spellings[0], str(value), *rest[place:]]
