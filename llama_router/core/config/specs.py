"""The values of the tables of ``router.toml``. Pure.

The type of a field is its kind, see `kinds`; its metadata state the cost of a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Annotated, Any, Final

import attrs

from .containers import runs_container
from .exposure import split_address
from .kinds import (
    Addresses,
    AdminSecret,
    Command,
    Count,
    DeviceChoice,
    Env,
    Factor,
    JsonValue,
    LlamaServer,
    MemoryMib,
    Name,
    Origin,
    PagesOrigin,
    Port,
    Positive,
    Seconds,
    ServiceKey,
    ServiceUrl,
    Sha256,
    StopCommand,
    Text,
    Timeout,
    UrlPath,
    Weight,
    Word,
    between,
    none_of,
)
from .names import ModelId, ResolvedModel
from .overrides import PROTECTED, RequestOverrides
from .service import Service


class OnChange(Enum):
    """The cost of a changed field on reload."""

    RESTART = auto()  # the process must be replaced: the backend, for a router field the router
    RETUNE = auto()  # none: the next decision uses the new value
    INSIDE = auto()  # the fields of the value state it


RESTART: Final = {"on_change": OnChange.RESTART}
RETUNE: Final = {"on_change": OnChange.RETUNE}
INSIDE: Final = {"on_change": OnChange.INSIDE}

DropParam = Annotated[Text, none_of(PROTECTED, "cannot be left out")]
Params = Mapping[Annotated[str, none_of(PROTECTED, "cannot be set")], JsonValue]


class ModelsApi(StrEnum):
    """Access to changes of models by llama.cpp's API; AUTO means OPEN on loopback, else ADMIN."""

    AUTO = "auto"
    OPEN = "open"
    ADMIN = "admin"


class MetricsAccess(StrEnum):
    """Access to the metrics; AUTO means OPEN on loopback without API keys, else ADMIN."""

    AUTO = "auto"
    OPEN = "open"
    ADMIN = "admin"
    OFF = "off"


class LogFormat(StrEnum):
    """Format of log records; AUTO depends on the output: a terminal or not."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """Lowest level of the records that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Policy(StrEnum):
    """What decides which models run at the same time."""

    GROUPS = "groups"
    MEMORY = "memory"


class Priority(StrEnum):
    """Class of requests, the highest first: a higher one goes before the lower ones."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BACKGROUND = "background"


class DeclaredKind(StrEnum):
    """The kind of a device that nobody finds: it exists because ``[devices.NAME]`` says so."""

    POOL = "pool"
    SIMULATED = "simulated"


@attrs.frozen(kw_only=True)
class RouterSpec:
    """The ``[router]`` table. ``docs/reference/configuration.md`` documents each field."""

    host: Addresses = attrs.field(default="127.0.0.1", metadata=RETUNE)
    port: Port = attrs.field(default=8082, metadata=RETUNE)
    base_port: Annotated[int, between(1024, 65000)] = attrs.field(default=50000, metadata=RESTART)
    connection_timeout_s: Timeout = attrs.field(default=5.0, metadata=RETUNE)
    read_timeout_s: Timeout = attrs.field(default=600.0, metadata=RETUNE)
    stream_keepalive_s: Seconds = attrs.field(default=0.0, metadata=RETUNE)
    startup_model: Text | None = attrs.field(default=None, metadata=RETUNE)
    notify_model_swap: bool = attrs.field(default=False, metadata=RETUNE)
    default_model: Text | None = attrs.field(default=None, metadata=RETUNE)
    default_for_unknown: bool = attrs.field(default=False, metadata=RETUNE)
    autoload: bool = attrs.field(default=True, metadata=RETUNE)
    aliases_in_list: bool = attrs.field(default=False, metadata=RETUNE)
    drain_s: Seconds = attrs.field(default=30.0, metadata=RETUNE)
    state_dir: Text | None = attrs.field(default=None, metadata=RESTART)
    llama_server: LlamaServer | None = attrs.field(default=None, metadata=RETUNE)
    models_dirs: tuple[Text, ...] = attrs.field(default=(), metadata=RETUNE)
    scan_caches: bool = attrs.field(default=True, metadata=RETUNE)
    safetensors_template: Text | None = attrs.field(default=None, metadata=RETUNE)
    log_level: LogLevel = attrs.field(default=LogLevel.INFO, metadata=RESTART)
    log_format: LogFormat = attrs.field(default=LogFormat.AUTO, metadata=RESTART)
    log_file_mib: Positive = attrs.field(default=10, metadata=RESTART)
    log_files: Count = attrs.field(default=3, metadata=RESTART)
    log_keep_days: Count = attrs.field(default=30, metadata=RESTART)
    log_total_mib: Count = attrs.field(default=1024, metadata=RESTART)
    max_body_mib: Positive = attrs.field(default=64, metadata=RETUNE)
    max_bodies_mib: Positive = attrs.field(default=512, metadata=RETUNE)
    capture_mib: Count = attrs.field(default=0, metadata=RETUNE)
    cache_mib: Positive = attrs.field(default=4096, metadata=RETUNE)
    max_queued: Positive = attrs.field(default=1024, metadata=RETUNE)
    max_queue_wait_s: Timeout = attrs.field(default=600.0, metadata=RETUNE)
    max_dwell_s: Seconds = attrs.field(default=30.0, metadata=RETUNE)
    min_residency_s: Seconds = attrs.field(default=2.0, metadata=RETUNE)
    stable_after_s: Seconds = attrs.field(default=60.0, metadata=RETUNE)
    max_restarts: Count = attrs.field(default=3, metadata=RETUNE)
    cooldown_s: Seconds = attrs.field(default=30.0, metadata=RETUNE)
    ttl_s: Seconds = attrs.field(default=0.0, metadata=RETUNE)
    home_model: Text | None = attrs.field(default=None, metadata=RETUNE)
    home_after_s: Seconds = attrs.field(default=60.0, metadata=RETUNE)
    admin_token: AdminSecret | None = attrs.field(default=None, repr=False, metadata=RETUNE)
    dashboard_sign_in: bool = attrs.field(default=False, metadata=RETUNE)
    allowed_hosts: tuple[Text, ...] = attrs.field(default=(), metadata=RETUNE)
    cors_origins: tuple[Origin, ...] = attrs.field(default=(), metadata=RETUNE)
    pages_origin: PagesOrigin | None = attrs.field(default=None, metadata=RETUNE)
    models_api: ModelsApi = attrs.field(default=ModelsApi.AUTO, metadata=RETUNE)
    metrics: MetricsAccess = attrs.field(default=MetricsAccess.AUTO, metadata=RETUNE)
    public_without_keys: bool = attrs.field(default=False, metadata=RETUNE)
    mcp: bool = attrs.field(default=False, metadata=RETUNE)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Return the addresses to listen on, each as in the file."""
        return (self.host,) if isinstance(self.host, str) else self.host

    @property
    def hosts(self) -> tuple[str, ...]:
        """Return the addresses to listen on, without ports and brackets."""
        return tuple(split_address(address)[0] for address in self.addresses)


@attrs.frozen(kw_only=True)
class SchedulerSpec:
    """The ``[scheduler]`` table. ``docs/reference/configuration.md`` documents each field."""

    policy: Policy = attrs.field(default=Policy.GROUPS, metadata=RETUNE)
    max_models: Positive | None = attrs.field(default=None, metadata=RETUNE)
    swap_patience: Factor = attrs.field(default=2.5, metadata=RETUNE)
    prefetch: bool = attrs.field(default=True, metadata=RETUNE)
    max_yield_s: Seconds = attrs.field(default=60.0, metadata=RETUNE)


@attrs.frozen(kw_only=True)
class DeviceSpec:
    """One table ``[devices.NAME]``.

    Attributes:
        kind: POOL or SIMULATED for a device that exists only here; None for one that is found.
        memory_mib: The part of its memory that the router knows of; None for all.
        reserve_mib: What is left to other programs; None for 512 on GPUs, a tenth of host memory.
        ignore: The router does not use it.
        amount: Units of a pool.
    """

    kind: DeclaredKind | None = attrs.field(default=None, metadata=RETUNE)
    memory_mib: Positive | None = attrs.field(default=None, metadata=RETUNE)
    reserve_mib: Count | None = attrs.field(default=None, metadata=RETUNE)
    ignore: bool = attrs.field(default=False, metadata=RETUNE)
    amount: Positive | None = attrs.field(default=None, metadata=RETUNE)


def _lower(digest: str) -> str:
    return digest.lower()


@attrs.frozen(kw_only=True)
class ApiKey:
    """One key of the public side.

    Attributes:
        sha256: Digest of the key, in hexadecimal; the key itself is not kept.
        models: Names and patterns of the models that it gives access to; None for all.
        mcp: It gives access to ``/mcp``, too.
        metrics: It gives access to the metrics, too.
        priority: The highest class of its requests, and their class unless they ask for another
            one; None for that of the model.
        weight: Its share where it takes turns with others.
    """

    sha256: Sha256 = attrs.field(repr=False, converter=_lower, metadata=RETUNE)
    models: tuple[Text, ...] | None = attrs.field(default=None, metadata=RETUNE)
    mcp: bool = attrs.field(default=False, metadata=RETUNE)
    metrics: bool = attrs.field(default=False, metadata=RETUNE)
    priority: Priority | None = attrs.field(default=None, metadata=RETUNE)
    weight: Weight = attrs.field(default=1.0, metadata=RETUNE)


class ModelState(StrEnum):
    """The origin of a model in the configuration."""

    AUTO = "auto"
    MANUAL = "manual"


class Capability(StrEnum):
    """An ability of a model, as lists of models name it."""

    COMPLETION = "completion"
    TOOLS = "tools"
    INSERT = "insert"
    VISION = "vision"
    AUDIO = "audio"
    THINKING = "thinking"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    IMAGE = "image"


def _frozen_env(env: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(env))


@attrs.frozen(kw_only=True)
class SpawnSpec:
    """The settings of one backend process, with all inherited values filled in.

    Attributes:
        command: Program and arguments, placeholders not yet expanded.
        args: Arguments after *command*, placeholders not yet expanded.
        proxy_endpoints: Path prefixes that are proxied; empty allows every path.
        health_endpoint: Path that returns 200 once the backend is ready.
        env: Variables set for the process, placeholders not yet expanded.
        cwd: Working folder of the process; None for the router's.
        ready_timeout_s: Seconds for which nothing may move between spawn and ready.
        ready_limit_s: Seconds from spawn to ready; None for no limit.
        stop_command: Run before SIGTERM, within *stop_timeout_s*; None for SIGTERM at once.
        stop_timeout_s: Seconds between SIGTERM and SIGKILL.
        check_port_owner: Require that the listener is the spawned process or its child; None
            for all commands but those of container runtimes.
        keep_cache: Save the prompt cache before a stop, and restore it after the next load.
        keep_cache_min_tokens: Tokens that a conversation must have to be saved.
        keep_cache_max_s: Seconds for which saving may delay a stop, and restoring a load.
    """

    command: Command = attrs.field(metadata=RESTART)
    args: tuple[Word, ...] = attrs.field(default=(), metadata=RESTART)
    proxy_endpoints: tuple[UrlPath, ...] = attrs.field(default=(), metadata=RETUNE)
    health_endpoint: UrlPath = attrs.field(default="/health", metadata=RESTART)
    env: Env = attrs.field(factory=dict[str, str], converter=_frozen_env, metadata=RESTART)
    cwd: Text | None = attrs.field(default=None, metadata=RESTART)
    ready_timeout_s: Timeout = attrs.field(default=60.0, metadata=RETUNE)
    ready_limit_s: Timeout | None = attrs.field(default=None, metadata=RETUNE)
    stop_command: StopCommand | None = attrs.field(default=None, metadata=RETUNE)
    stop_timeout_s: Timeout = attrs.field(default=2.0, metadata=RETUNE)
    check_port_owner: bool | None = attrs.field(default=None, metadata=RESTART)
    keep_cache: bool = attrs.field(default=False, metadata=RESTART)
    keep_cache_min_tokens: Count = attrs.field(default=512, metadata=RETUNE)
    keep_cache_max_s: Timeout = attrs.field(default=5.0, metadata=RETUNE)

    @property
    def checks_port_owner(self) -> bool:
        """Return whether another process on the port is not the backend."""
        if self.check_port_owner is None:
            return not runs_container(self.command)
        return self.check_port_owner


@attrs.frozen(kw_only=True)
class ModelSpec:
    """One model and its settings.

    Attributes:
        id: Its name in the configuration and in the API.
        spawn: Complete spawn settings; the model's own ``args`` are at the end of its args.
        url: Where a service serves it that the router did not start; None for a process.
        key: The key that this service gets, or ``${env.NAME}``; None for no key.
        key_file: A file with the key; None for none.
        health_endpoint: Path that the service answers with a success while it serves; None for
            those that most servers have.
        health_period_s: Seconds between two health checks of the service.
        proxy_endpoints: Path prefixes that are passed on to the service; None for the usual ones.
        path: Model file for ``$path``.
        mmproj: Projector file for ``$mmproj``.
        state: AUTO if a scan found it, MANUAL if the user wrote or imported it.
        group: Models with the same group run side by side; None runs alone.
        aliases: Further names for it.
        aliases_in_list: Its aliases have entries of their own in ``/v1/models``.
        unlisted: Leave it out of the lists that clients get.
        template: Name of its template, which is already part of *spawn*.
        autoload: Load it for any request; else only by request of a person.
        max_queued: Most requests that wait for it.
        max_in_flight: Most requests that it serves at once; None for as many as its backend has
            slots.
        priority: Class of its requests; None for normal.
        ttl_s: Seconds of idleness after which it is stopped; 0 for never.
        keep_loaded: Keep it loaded at all times.
        memory_mib: What it takes, in MiB or by device; None for what is measured or estimated.
        exclusive: No other model runs beside it, those kept loaded apart.
        devices: The devices that it may use: ``"auto"`` for the best fit, or their names.
        needs: Units of pools that it takes while it runs.
        notify_model_swap: Send notices to streaming clients that wait for it.
        upstream_model: The model name sent to its backend; None for the client's.
        drop_params: Parameters removed from requests.
        default_params: Parameters added to requests without them.
        set_params: Parameters that replace those of requests.
        presets: Further parameters set in requests for ``NAME:PRESET``.
        capabilities: Its abilities in lists of models; None for those that are found out.
        context_length: Its context in lists of models, in tokens; None for the one that is
            found out.
        name: Its name for people, in lists of models; requests do not use it.
        description: A text about it, for lists of models.
        metadata: Further facts about it, for lists of models; the router does not use them.
    """

    id: ModelId = attrs.field(metadata=RESTART)
    spawn: SpawnSpec = attrs.field(metadata=INSIDE)
    url: ServiceUrl | None = attrs.field(default=None, metadata=RETUNE)
    key: ServiceKey | None = attrs.field(default=None, repr=False, metadata=RETUNE)
    key_file: Text | None = attrs.field(default=None, metadata=RETUNE)
    health_endpoint: UrlPath | None = attrs.field(default=None, metadata=RETUNE)
    health_period_s: Timeout = attrs.field(default=5.0, metadata=RETUNE)
    proxy_endpoints: tuple[UrlPath, ...] | None = attrs.field(default=None, metadata=RETUNE)
    path: Text | None = attrs.field(default=None, metadata=RESTART)
    mmproj: Text | None = attrs.field(default=None, metadata=RESTART)
    state: ModelState = attrs.field(default=ModelState.MANUAL, metadata=RETUNE)
    group: Text | None = attrs.field(default=None, metadata=RETUNE)
    aliases: tuple[Text, ...] = attrs.field(default=(), metadata=RETUNE)
    aliases_in_list: bool = attrs.field(default=False, metadata=RETUNE)
    unlisted: bool = attrs.field(default=False, metadata=RETUNE)
    template: Text | None = attrs.field(default=None, metadata=RETUNE)
    autoload: bool = attrs.field(default=True, metadata=RETUNE)
    max_queued: Positive = attrs.field(default=1024, metadata=RETUNE)
    max_in_flight: Positive | None = attrs.field(default=None, metadata=RETUNE)
    priority: Priority | None = attrs.field(default=None, metadata=RETUNE)
    ttl_s: Seconds = attrs.field(default=0.0, metadata=RETUNE)
    keep_loaded: bool = attrs.field(default=False, metadata=RETUNE)
    memory_mib: MemoryMib | None = attrs.field(default=None, metadata=RETUNE)
    exclusive: bool = attrs.field(default=False, metadata=RETUNE)
    devices: DeviceChoice = attrs.field(default="auto", metadata=RESTART)
    needs: Mapping[Name, Positive] = attrs.field(factory=dict[str, int], metadata=RETUNE)
    notify_model_swap: bool = attrs.field(default=False, metadata=RETUNE)
    upstream_model: Text | None = attrs.field(default=None, metadata=RETUNE)
    drop_params: tuple[DropParam, ...] = attrs.field(default=(), metadata=RETUNE)
    default_params: Params = attrs.field(factory=dict[str, Any], metadata=RETUNE)
    set_params: Params = attrs.field(factory=dict[str, Any], metadata=RETUNE)
    presets: Mapping[Name, Params] = attrs.field(
        factory=dict[str, Mapping[str, Any]], metadata=RETUNE
    )
    capabilities: tuple[Capability, ...] | None = attrs.field(default=None, metadata=RETUNE)
    context_length: Positive | None = attrs.field(default=None, metadata=RETUNE)
    name: Text | None = attrs.field(default=None, metadata=RETUNE)
    description: Text | None = attrs.field(default=None, metadata=RETUNE)
    metadata: Mapping[Name, JsonValue] = attrs.field(factory=dict[str, Any], metadata=RETUNE)

    @property
    def service(self) -> Service | None:
        """Return the service that serves it; None if a process of this router does."""
        if self.url is None:
            return None
        return Service(
            url=self.url,
            key=self.key,
            key_file=self.key_file,
            health_endpoint=self.health_endpoint,
            health_period_s=self.health_period_s,
        )

    def names(self) -> dict[str, str | None]:
        """Return every name that clients can use, each with its preset."""
        plain = (str(self.id), *self.aliases)
        named: dict[str, str | None] = dict.fromkeys(plain)
        named |= {f"{name}:{preset}": preset for preset in self.presets for name in plain}
        return named

    def resolved_names(self) -> Iterator[tuple[str, ResolvedModel]]:
        """Yield every name with its `ResolvedModel`; names of one preset share the object."""
        known = {
            preset: ResolvedModel(model=self.id, preset=preset, overrides=self.overrides(preset))
            for preset in (None, *self.presets)
        }
        for name, preset in self.names().items():
            yield name, known[preset]

    def overrides(self, preset: str | None) -> RequestOverrides | None:
        """Return the changes to requests; None if neither they nor responses are changed."""
        overrides = RequestOverrides(
            drop=frozenset(self.drop_params),
            defaults=self.default_params,
            sets={**self.set_params, **({} if preset is None else self.presets[preset])},
            # A service knows the model by one name, and not by the aliases here.
            model=self.upstream_model or (None if self.url is None else str(self.id)),
        )
        return None if preset is None and overrides == RequestOverrides() else overrides

    @property
    def group_key(self) -> str:
        """Return a key that is equal for two models if and only if they may run side by side."""
        return f"model:{self.id}" if self.group is None else f"group:{self.group}"


#: The paths of llama-server, and ``/v2/rerank``, which other servers have. ``/tools`` is not
#: among them, because it runs commands. Source: llama.cpp, tools/server/server.cpp at b11549.
DEFAULT_ENDPOINTS: Final = (
    *("/v1/", "/v2/rerank", "/health", "/slots", "/props", "/metrics", "/lora-adapters"),
    *("/completion", "/chat/completions", "/responses", "/infill", "/audio/transcriptions"),
    *("/embedding", "/rerank", "/tokenize", "/detokenize", "/apply-template", "/cors-proxy"),
)

SERVICE_SPAWN: Final = SpawnSpec(command=(), proxy_endpoints=DEFAULT_ENDPOINTS)
"""In place of spawn settings: nothing is spawned for a model that a service serves."""

DEFAULT_SPAWN = SpawnSpec(
    command=(
        *("llama-server", "--model", "$path", "--port", "$port", "--host", "$host"),
        "--jinja",
    ),
    proxy_endpoints=DEFAULT_ENDPOINTS,
)
"""Spawn settings of a model if itself, its template and ``[default_spawn]`` have none."""
