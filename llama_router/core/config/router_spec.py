"""``[router]`` and ``[api_keys]`` as values: how the router behaves, and who may use it. Pure."""

from __future__ import annotations

from enum import StrEnum

import attrs

from .fields import restart, retune
from .readers import (
    array_reader,
    choice_reader,
    integer_reader,
    read_boolean,
    read_origin,
    read_seconds,
    read_sha256,
    read_text,
    read_timeout,
    secret_reader,
)


class ModelsApi(StrEnum):
    """Who may change models by llama.cpp's API; AUTO means OPEN on loopback, else ADMIN."""

    AUTO = "auto"
    OPEN = "open"
    ADMIN = "admin"


class LogFormat(StrEnum):
    """How log records are written; AUTO suits where they go."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least important records that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen(kw_only=True)
class RouterSpec:
    """The ``[router]`` table. ``docs/reference/configuration.md`` says what each field means."""

    host: str = attrs.field(default="127.0.0.1", metadata=retune(read_text))
    port: int = attrs.field(default=8082, metadata=retune(integer_reader(0, 65535)))
    base_port: int = attrs.field(default=50000, metadata=restart(integer_reader(1024, 65000)))
    connection_timeout_s: float = attrs.field(default=5.0, metadata=retune(read_timeout))
    read_timeout_s: float = attrs.field(default=600.0, metadata=retune(read_timeout))
    startup_model: str | None = attrs.field(default=None, metadata=retune(read_text))
    notify_model_swap: bool = attrs.field(default=False, metadata=retune(read_boolean))
    default_model: str | None = attrs.field(default=None, metadata=retune(read_text))
    default_for_unknown: bool = attrs.field(default=False, metadata=retune(read_boolean))
    drain_s: float = attrs.field(default=30.0, metadata=retune(read_seconds))
    state_dir: str | None = attrs.field(default=None, metadata=restart(read_text))
    models_dirs: tuple[str, ...] = attrs.field(default=(), metadata=retune(array_reader(read_text)))
    scan_caches: bool = attrs.field(default=True, metadata=retune(read_boolean))
    log_level: LogLevel = attrs.field(
        default=LogLevel.INFO, metadata=restart(choice_reader(LogLevel))
    )
    log_format: LogFormat = attrs.field(
        default=LogFormat.AUTO, metadata=restart(choice_reader(LogFormat))
    )
    log_file_mib: int = attrs.field(default=10, metadata=restart(integer_reader(1)))
    log_files: int = attrs.field(default=3, metadata=restart(integer_reader(0)))
    log_keep_days: int = attrs.field(default=30, metadata=restart(integer_reader(0)))
    log_total_mib: int = attrs.field(default=1024, metadata=restart(integer_reader(0)))
    max_body_mib: int = attrs.field(default=64, metadata=retune(integer_reader(1)))
    max_queued: int = attrs.field(default=256, metadata=retune(integer_reader(1)))
    max_queue_wait_s: float = attrs.field(default=600.0, metadata=retune(read_timeout))
    max_dwell_s: float = attrs.field(default=30.0, metadata=retune(read_seconds))
    min_residency_s: float = attrs.field(default=2.0, metadata=retune(read_seconds))
    stable_after_s: float = attrs.field(default=60.0, metadata=retune(read_seconds))
    max_restarts: int = attrs.field(default=3, metadata=retune(integer_reader(0)))
    cooldown_s: float = attrs.field(default=30.0, metadata=retune(read_seconds))
    ttl_s: float = attrs.field(default=0.0, metadata=retune(read_seconds))
    home_model: str | None = attrs.field(default=None, metadata=retune(read_text))
    home_after_s: float = attrs.field(default=60.0, metadata=retune(read_seconds))
    admin_token: str | None = attrs.field(
        default=None, repr=False, metadata=retune(secret_reader(16))
    )
    allowed_hosts: tuple[str, ...] = attrs.field(
        default=(), metadata=retune(array_reader(read_text))
    )
    cors_origins: tuple[str, ...] = attrs.field(
        default=(), metadata=retune(array_reader(read_origin))
    )
    models_api: ModelsApi = attrs.field(
        default=ModelsApi.AUTO, metadata=retune(choice_reader(ModelsApi))
    )
    public_without_keys: bool = attrs.field(default=False, metadata=retune(read_boolean))


@attrs.frozen(kw_only=True)
class ApiKey:
    """One key of the public side.

    Attributes:
        sha256: Digest of the key, in hexadecimal; the key itself is not kept.
        models: Names and patterns of the models that it may use; None for all.
    """

    sha256: str = attrs.field(repr=False, metadata=retune(read_sha256))
    models: tuple[str, ...] | None = attrs.field(
        default=None, metadata=retune(array_reader(read_text))
    )
