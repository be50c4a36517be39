"""The configuration file, its problems and reloads, as types of the admin API."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .schemas import Name, StrictBody


class Problem(msgspec.Struct):
    """A mistake, or a possible mistake, in the configuration file."""

    line: int | None
    where: str
    message: str


class Reload(msgspec.Struct):
    """The result of the last reload: ``started`` (none yet), ``applied`` or ``rejected``."""

    status: str
    at: float
    problems: list[Problem]
    warnings: list[Problem]
    added: list[str]
    removed: list[str]
    restarted: list[str]
    retuned: list[str]
    needs_router_restart: list[str]


class Edit(Reload):
    """The result of a change of the file; *diff* has the lines of a unified diff, masked."""

    diff: list[str]


class SettingsBody(StrictBody):
    """Changes of the configuration file.

    Keys are those of the file; dots lead into tables (``spawn.ready_timeout_s``). Without
    *model* they are keys of ``[router]``. With *digest*, the change is refused unless the
    file still has that digest. With *dry_run*, it is only checked, and nothing is written.
    """

    model: Name | None = None
    set: dict[str, Any] = msgspec.field(default_factory=dict)
    unset: list[str] = msgspec.field(default_factory=list)
    digest: str | None = None
    dry_run: bool = False


class Settings(msgspec.Struct):
    """A table of the configuration file, and the resulting settings. Secrets are masked."""

    model: str | None
    digest: str
    written: dict[str, Any]
    effective: dict[str, Any]


class TextBody(StrictBody):
    """The new *text* of the configuration file.

    It is refused unless the file has the *digest* still: masks in *text* stand for its secrets.
    """

    text: Annotated[str, Meta(max_length=1_000_000)]
    digest: str


class Text(msgspec.Struct):
    """The configuration file, and what became of it the last time that it was read.

    A mask in *text*, such as ``********1``, stands for a secret, and keeps it if it comes back.
    *status* is ``started``, ``applied`` or ``rejected``; *problems* are those of the file then.
    """

    path: str
    text: str
    digest: str
    exists: bool
    status: str
    problems: list[Problem]
    warnings: list[Problem]


class Origin(msgspec.Struct):
    """A setting in force.

    *source* is ``file`` (its *line*), ``template`` (its *name* and *line*), ``default_spawn`` or
    ``router`` (the table, with the *line*), ``found`` (by a scan), ``learned`` (from earlier
    loads), ``command_line`` (an option of ``serve``) or ``default``.
    """

    table: str
    key: str
    value: Any
    source: str
    name: str | None
    line: int | None


class Origins(msgspec.Struct):
    """The settings of a model, or those of ``[router]`` and ``[scheduler]``. Secrets are masked."""

    model: str | None
    digest: str
    settings: list[Origin]
