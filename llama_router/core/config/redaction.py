"""Redaction: configurations and command lines without secrets, for the API and logs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

import attrs

from .config import Config
from .specs import SpawnSpec

#: Replaces a secret.
MASK: Final = "********"

# Parts of the names of options and variables with secret values.
_SECRET: Final = re.compile(
    r"(?:^|[-_])(?:api[-_]?keys?|access[-_]?key|keys?|tokens?|secrets?|passw(?:or)?d|passphrase|"
    r"credentials?)(?:$|[-_])",
    re.IGNORECASE,
)
# ... but not if one of its parts begins with one of these: its value is a path or a number.
_HARMLESS: Final = re.compile(
    r"(?:^|[-_])(?:file|path|dir|max|min|num|batch|tokens-?per|cache-type|special|stop)",
    re.IGNORECASE,
)
_OPTION: Final = re.compile(r"--?([A-Za-z][\w-]*)(=.*)?", re.DOTALL)


def is_secret(name: str) -> bool:
    """Return whether the option or variable *name* (without dashes) probably holds a secret."""
    return bool(_SECRET.search(name)) and not _HARMLESS.search(name)


def redacted_command(words: Iterable[str]) -> list[str]:
    """Return a command line with the values of secret options masked.

    Args:
        words: Program and arguments, as ``--api-key VALUE`` or ``--api-key=VALUE``.
    """
    shown: list[str] = []
    hide_next = False
    for word in words:
        option = _OPTION.fullmatch(word)
        if hide_next and not (option and word.startswith("--")):
            shown.append(MASK)
            hide_next = False
            continue
        hide_next = False
        if option and is_secret(option[1]):
            if option[2] is None:
                hide_next = True
            else:
                word = f"{word.partition('=')[0]}={MASK}"  # noqa: PLW2901 -- its redacted form
        shown.append(word)
    return shown


def redacted_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return variables with the values of secret ones masked."""
    return {name: MASK if value and is_secret(name) else value for name, value in env.items()}


def redacted_config(config: Config) -> dict[str, Any]:
    """Return *config* as plain values, ready for JSON, with every secret masked."""
    router = _plain(attrs.asdict(config.router, recurse=False))
    if router["admin_token"] is not None:
        router["admin_token"] = MASK
    models = {}
    for model, spec in config.models.items():
        table = _plain(attrs.asdict(spec, recurse=False))
        table["spawn"] = _spawn(spec.spawn)
        if spec.key is not None:
            table["key"] = MASK
        models[str(model)] = table
    return {
        "router": router,
        "api_keys": {
            name: {
                "sha256": MASK,
                "models": _plain(key.models),
                "mcp": key.mcp,
                "metrics": key.metrics,
            }
            for name, key in config.api_keys.items()
        },
        "models": models,
    }


def _spawn(spawn: SpawnSpec) -> dict[str, Any]:
    table: dict[str, Any] = _plain(attrs.asdict(spawn, recurse=False))
    words = redacted_command((*spawn.command, *spawn.args))  # an option's value may be in args
    table["command"] = words[: len(spawn.command)]
    table["args"] = words[len(spawn.command) :]
    table["env"] = redacted_env(spawn.env)
    return table


def _plain(value: Any) -> Any:  # noqa: ANN401 -- whatever a field holds
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)
