"""Errors in a configuration, or in a change of it."""

from __future__ import annotations

from http import HTTPStatus

from .base import RouterError
from .requests import RequestError

Where = tuple[str | int, ...]
"""Keys and indexes that lead to a value, e.g. ``("models", "a", "args", 2)``."""


class Problem:
    """One error in a configuration.

    Attributes:
        path: Path of the value.
        message: What is wrong, and the right form.
        line: 1-based line in the file, or None while it is unknown.
        missing: The missing file, if that is the problem.
    """

    __slots__ = ("line", "message", "missing", "path")

    def __init__(
        self,
        path: Where,
        message: str,
        line: int | None = None,
        *,
        missing: str | None = None,
    ) -> None:
        self.path = path
        self.message = message
        self.line = line
        self.missing = missing

    @property
    def location(self) -> str:
        """Return *path* as it would be written in TOML, e.g. ``models."a b".args[2]``."""
        text = ""
        for key in self.path:
            if isinstance(key, int):
                text += f"[{key}]"
                continue
            bare = key != "" and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
            text += ("." if text else "") + (key if bare else f'"{key}"')
        return text

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.location}: {self.message}" if self.path else f"{where}{self.message}"

    __repr__ = __str__


class ConfigError(RouterError):
    """``router.toml`` cannot be used; the running configuration is kept.

    Attributes:
        problems: All problems, in the order of the file.
        warnings: Suspicious settings.
        digest: SHA-256 of the file, if it could be read.
    """

    code = "config_invalid"

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.warnings = warnings
        self.digest: bytes | None = None


class SettingError(RequestError):
    """A setting cannot be written into the configuration file."""

    code = "setting_refused"


class ConfigChangedError(RequestError):
    """The configuration file was changed meanwhile; nothing was written."""

    code = "config_changed"
    status = HTTPStatus.CONFLICT
