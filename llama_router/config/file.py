"""A configuration file: read once, parsed as TOML with line numbers, replaced atomically."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs

from ..core.config.kinds import MAX_DEPTH
from ..errors.config import ConfigChangedError, ConfigError, Problem, SettingError, Where
from ..files import Unseen, look, read_with_stat, reason_of, replacing, write_new
from .toml_lines import LineFinder, in_file_order

#: Limit against reading a large file that was named by mistake.
MAX_BYTES: Final = 16 * 1024 * 1024

_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

# The position that tomllib appends to its messages.
_TOML_POSITION: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")

_PART: Final = r"""(?:"(?>(?:[^"\\\n]|\\.)*)"|'[^'\n]*+'|[A-Za-z0-9_-]++)"""

# Tokens that can contain dots: a multi-line string, a comment, or a key.
_DOTTED: Final = re.compile(
    r'''"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|#[^\n]*+'''
    rf"|(?P<key>{_PART}(?>(?:[ \t]*+\.[ \t]*+{_PART})*))",
    re.DOTALL,
)


@attrs.frozen(eq=False)
class ConfigFile:
    """The content of a configuration file, read once for all uses.

    Attributes:
        path: Its path, absolute.
        data: Its bytes; empty if the file is missing.
        mode: Its permissions.
        absence: The system's reason why the file is missing; None if it exists.
        unseen: The reason why its folder cannot be read, if that is why; else None.
        sha256: The digest of its bytes.
    """

    path: Path
    data: bytes
    mode: int = 0
    absence: str | None = None
    unseen: str | None = None
    sha256: bytes = attrs.field(init=False)

    @sha256.default
    def _digest(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    @cached_property
    def text(self) -> str:
        """Its text.

        Raises:
            ConfigError: if it is not UTF-8.
        """
        try:
            # Some editors write a byte order mark in front, which has no meaning in UTF-8.
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as exc:
            line = self.data.count(b"\n", 0, exc.start) + 1
            raise ConfigError((Problem((), "not UTF-8 text", line),)) from exc

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The parsed TOML document.

        Raises:
            ConfigError: if it is not TOML, or nested more than `MAX_DEPTH` deep.
        """
        return _parsed(self.text)

    @cached_property
    def lines(self) -> Mapping[Where, int]:
        """The line of each key and array element, see `LineFinder`."""
        return LineFinder(self.text).lines

    def in_order(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return *problems* in the order of the file, each with its line where it has one."""
        problems = tuple(problems)
        # Finding the lines takes as long as all other work, so only if needed.
        return in_file_order(self.lines, problems) if problems else ()

    def with_data(self, data: bytes) -> ConfigFile:
        """Return the file with *data* as its content."""
        return attrs.evolve(self, data=data, absence=None, unseen=None)


def read_file(path: Path, *, optional: bool = False) -> ConfigFile:
    """Return the file *path*, also if it is missing.

    Args:
        path: Its path.
        optional: Return a file in a folder that cannot be read as a missing one, with the
            reason as `ConfigFile.unseen`.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        path = path.absolute()
    except FileNotFoundError:
        message = f"cannot find {path}: the working directory no longer exists"
        raise ConfigError((Problem((), message),)) from None
    if optional and isinstance(looked := look(path), Unseen) and not looked.is_missing:
        return ConfigFile(path, b"", absence=looked.reason, unseen=looked.reason)
    try:
        data, found = read_with_stat(path, MAX_BYTES)
    except OSError as exc:
        if exc.errno in _NOTHING_THERE:
            return ConfigFile(path, b"", absence=exc.strerror)
        raise ConfigError((Problem((), f"cannot read {path}: {reason_of(exc)}"),)) from exc
    return ConfigFile(path, data, mode=stat.S_IMODE(found.st_mode))


def read_config(path: Path) -> ConfigFile:
    """Return the file *path* for an edit, also if it is missing.

    Raises:
        SettingError: if it cannot be read.
    """
    try:
        return read_file(path)
    except ConfigError as exc:
        raise SettingError(str(exc)) from exc


def replace_config(file: ConfigFile, data: bytes) -> None:
    """Replace the content of *file* by *data*, in one step.

    A link stays a link: the file that it points to is replaced. Owner and permissions stay,
    as far as this process may set them.

    Raises:
        ConfigChangedError: if the content is not the one of *file* any more.
        SettingError: if it cannot be written.
    """
    try:
        target = file.path.resolve()
        with replacing(target) as temporary:
            write_new(temporary, data, like=target, sync=True)
            if read_config(file.path).data != file.data:
                raise ConfigChangedError(
                    "the configuration file was changed meanwhile, so nothing was written; "
                    "try again"
                )
    except OSError as exc:
        raise SettingError(f"cannot write {file.path}: {exc.strerror}") from exc


def copied(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deep copy of *document*."""
    return {key: _copied(member) for key, member in document.items()}


def _copied(value: Any) -> Any:  # noqa: ANN401 -- any TOML value
    if isinstance(value, Mapping):
        return copied(value)
    return [_copied(member) for member in value] if isinstance(value, list) else value


def _parsed(text: str) -> dict[str, Any]:
    _refuse_long_keys(text)
    try:
        document = tomllib.loads(text)
    except RecursionError as exc:
        raise _too_deep() from exc
    except ValueError as exc:  # TOMLDecodeError, or int() that refuses thousands of digits
        message = str(exc)
        line = None
        if position := _TOML_POSITION.search(message):
            message = message[: position.start()]
            line = int(position[1] or len(text.splitlines()))
        raise ConfigError((Problem((), f"not valid TOML: {message}", line),)) from exc
    _refuse_depth(document)
    return document


def _refuse_long_keys(text: str) -> None:
    """Refuse keys of many parts: time and memory would grow with the square of their number.

    Raises:
        ConfigError: with the line of the first one.
    """
    if all(line.count(".") < MAX_DEPTH for line in text.split("\n")):
        return
    for dotted in _DOTTED.finditer(text):
        key = dotted["key"] or ""
        if key.count(".") >= MAX_DEPTH and len(re.findall(_PART, key)) > MAX_DEPTH:
            line = text.count("\n", 0, dotted.start()) + 1
            message = f"a key has more than {MAX_DEPTH} parts"
            raise ConfigError((Problem((), message, line),))


def _refuse_depth(document: dict[str, Any]) -> None:
    """Refuse a deeply nested document, on which recursive functions could fail.

    Raises:
        ConfigError: if it is nested more than `MAX_DEPTH` deep.
    """
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            member
            for members in level
            for member in (members.values() if isinstance(members, dict) else members)
            if isinstance(member, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> ConfigError:
    return ConfigError((Problem((), "arrays or tables are nested too deeply"),))


def tables(document: Mapping[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables of *section* with their names; other values are left out."""
    found = document.get(section)
    items = found.items() if isinstance(found, dict) else ()
    return [(name, table) for name, table in items if isinstance(table, dict)]
