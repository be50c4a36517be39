"""What goes in and out of the admin API, as types: encoded, checked and described by them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, description="A model's name or alias.")]


class In(msgspec.Struct, forbid_unknown_fields=True):
    """A body that clients send; unknown fields are mistakes."""


class Empty(In):
    """Nothing to say."""


class LoadBody(In):
    """Which model to load."""

    model: Name


class UnloadBody(In):
    """Which model to unload; *force* cuts the requests that it serves."""

    model: Name
    force: bool = False


class CancelBody(In):
    """Which request to cancel; ``/admin/status`` has the ids."""

    id: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class DownloadBody(In):
    """What to fetch: ``user/repo`` or ``user/repo:QUANT``, or one *file* of ``user/repo``."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    file: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class SettingsBody(In):
    """What to write into the configuration file.

    Keys are those of the file; dots lead into tables (``spawn.ready_timeout_s``). Without
    *model* they are those of ``[router]``. With *digest*, the file must still be the one
    that was read.
    """

    model: Name | None = None
    set: dict[str, Any] = {}
    unset: list[str] = []
    digest: str | None = None


class Problem(msgspec.Struct):
    """One thing that is wrong, or looks wrong, in the configuration file."""

    line: int | None
    where: str
    message: str


class Reload(msgspec.Struct):
    """What became of a look at the configuration file: ``started``, ``applied``, ``rejected``."""

    status: str
    at: float
    problems: list[Problem]
    warnings: list[Problem]
    added: list[str]
    removed: list[str]
    restarted: list[str]
    retuned: list[str]
    needs_router_restart: list[str]


class Failure(msgspec.Struct):
    """Why a backend failed last."""

    code: str
    message: str
    cause: str | None
    log_tail: list[str]


class Waiting(msgspec.Struct):
    """A request in the queue."""

    id: int
    waited_s: float
    key: str | None


class Serving(msgspec.Struct):
    """A request that a backend works on."""

    id: int
    age_s: float
    key: str | None


class Model(msgspec.Struct):
    """A model and its backend."""

    id: str
    aliases: list[str]
    group: str | None
    state: str
    phase: str
    pid: int | None
    port: int | None
    memory_mib: float | None
    ready_for_s: float | None
    idle_for_s: float | None
    in_flight: int
    queued: int
    serving: list[Serving]
    waiting: list[Waiting]
    failures: int
    retry_in_s: float | None
    last_error: Failure | None


class Status(msgspec.Struct):
    """The router and all its models.

    *configuration* is the one in force, with everything inherited filled in and secrets
    masked; null if it was not asked for.
    """

    version: str
    pid: int
    uptime_s: float
    urls: list[str]
    state_dir: str
    config_path: str
    reload: Reload
    models: list[Model]
    configuration: dict[str, Any] | None


class Rescanned(msgspec.Struct):
    """How many models a scan found that were not known, and how many are gone."""

    status: str
    new_models: int
    removed: int


class Cancelled(msgspec.Struct):
    """Which request was cancelled."""

    id: int


class DownloadFault(msgspec.Struct):
    """Why a download failed."""

    code: str
    message: str


class Download(msgspec.Struct):
    """A download: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.

    *model*, *files* and *total_bytes* are null or empty until the hub has answered; *note*
    says why nothing moves, if that is so. A model that is ``done`` is being served, unless
    ``scan_caches`` is off.
    """

    id: str
    requested: str
    model: str | None
    state: str
    files: list[str]
    done_bytes: int
    total_bytes: int | None
    bytes_per_s: int | None
    left_s: float | None
    note: str | None
    path: str | None
    mmproj: str | None
    error: DownloadFault | None


class Downloads(msgspec.Struct):
    """Those that run, and the latest ones that are over, oldest first."""

    downloads: list[Download]


class Deleted(msgspec.Struct):
    """Which model is gone, and what that freed."""

    id: str
    freed_bytes: int


class Settings(msgspec.Struct):
    """A table of the configuration file, and what it comes to. Secrets are masked."""

    model: str | None
    digest: str
    written: dict[str, Any]
    effective: dict[str, Any]


class Error(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorAnswer(msgspec.Struct):
    """What every error looks like."""

    error: Error


def to_dict(shape: msgspec.Struct) -> dict[str, Any]:
    """Return *shape* as what its JSON would decode to."""
    converted = msgspec.to_builtins(shape)
    assert isinstance(converted, dict)
    return converted
