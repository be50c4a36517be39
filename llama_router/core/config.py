"""The configuration as frozen values, and the strict way from a TOML document to them. Pure."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, StrEnum, auto
from types import MappingProxyType
from typing import Any, NewType

import attrs

from ..errors.config import ConfigError, Problem
from . import placeholders
from .exposure import exposure
from .names import Meaning, Names
from .shaping import PROTECTED, Shape
from .values import (
    CONTROL,
    Read,
    RefusedError,
    array_reader,
    choice_reader,
    integer_reader,
    names_reader,
    params_reader,
    presets_reader,
    read_boolean,
    read_command,
    read_env,
    read_origin,
    read_seconds,
    read_sha256,
    read_table,
    read_text,
    read_timeout,
    read_url_path,
    read_word,
    secret_reader,
)

ModelId = NewType("ModelId", str)

_Where = tuple[str | int, ...]


class ModelState(StrEnum):
    """Who put a model into the configuration."""

    AUTO = "auto"
    MANUAL = "manual"


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


class OnChange(Enum):
    """What a changed field costs on reload."""

    RESTART = auto()  # the process must be replaced: the backend, for a router field the router
    RETUNE = auto()  # nothing: the next decision sees the new value
    INSIDE = auto()  # the fields of the value say


def _restart(read: Read) -> dict[str, object]:
    return {"on_change": OnChange.RESTART, "read": read}


def _retune(read: Read) -> dict[str, object]:
    return {"on_change": OnChange.RETUNE, "read": read}


# --- The values ----------------------------------------------------------------------


def _frozen_env(env: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(env))


def _frozen_models(models: Mapping[ModelId, ModelSpec]) -> Mapping[ModelId, ModelSpec]:
    return MappingProxyType(dict(models))


@attrs.frozen(kw_only=True)
class RouterSpec:
    """The ``[router]`` table. ``docs/reference/configuration.md`` says what each field means."""

    host: str = attrs.field(default="127.0.0.1", metadata=_retune(read_text))
    port: int = attrs.field(default=8082, metadata=_retune(integer_reader(0, 65535)))
    base_port: int = attrs.field(default=50000, metadata=_restart(integer_reader(1024, 65000)))
    connection_timeout_s: float = attrs.field(default=5.0, metadata=_retune(read_timeout))
    read_timeout_s: float = attrs.field(default=600.0, metadata=_retune(read_timeout))
    startup_model: str | None = attrs.field(default=None, metadata=_retune(read_text))
    notify_model_swap: bool = attrs.field(default=False, metadata=_retune(read_boolean))
    default_model: str | None = attrs.field(default=None, metadata=_retune(read_text))
    default_for_unknown: bool = attrs.field(default=False, metadata=_retune(read_boolean))
    drain_s: float = attrs.field(default=30.0, metadata=_retune(read_seconds))
    state_dir: str | None = attrs.field(default=None, metadata=_restart(read_text))
    models_dirs: tuple[str, ...] = attrs.field(
        default=(), metadata=_retune(array_reader(read_text))
    )
    scan_caches: bool = attrs.field(default=True, metadata=_retune(read_boolean))
    log_level: LogLevel = attrs.field(
        default=LogLevel.INFO, metadata=_restart(choice_reader(LogLevel))
    )
    log_format: LogFormat = attrs.field(
        default=LogFormat.AUTO, metadata=_restart(choice_reader(LogFormat))
    )
    log_file_mib: int = attrs.field(default=10, metadata=_restart(integer_reader(1)))
    log_files: int = attrs.field(default=3, metadata=_restart(integer_reader(0)))
    log_keep_days: int = attrs.field(default=30, metadata=_restart(integer_reader(0)))
    log_total_mib: int = attrs.field(default=1024, metadata=_restart(integer_reader(0)))
    max_body_mib: int = attrs.field(default=64, metadata=_retune(integer_reader(1)))
    max_queued: int = attrs.field(default=256, metadata=_retune(integer_reader(1)))
    max_queue_wait_s: float = attrs.field(default=600.0, metadata=_retune(read_timeout))
    max_dwell_s: float = attrs.field(default=30.0, metadata=_retune(read_seconds))
    min_residency_s: float = attrs.field(default=2.0, metadata=_retune(read_seconds))
    stable_after_s: float = attrs.field(default=60.0, metadata=_retune(read_seconds))
    max_restarts: int = attrs.field(default=3, metadata=_retune(integer_reader(0)))
    cooldown_s: float = attrs.field(default=30.0, metadata=_retune(read_seconds))
    ttl_s: float = attrs.field(default=0.0, metadata=_retune(read_seconds))
    home_model: str | None = attrs.field(default=None, metadata=_retune(read_text))
    home_after_s: float = attrs.field(default=60.0, metadata=_retune(read_seconds))
    admin_token: str | None = attrs.field(
        default=None, repr=False, metadata=_retune(secret_reader(16))
    )
    allowed_hosts: tuple[str, ...] = attrs.field(
        default=(), metadata=_retune(array_reader(read_text))
    )
    cors_origins: tuple[str, ...] = attrs.field(
        default=(), metadata=_retune(array_reader(read_origin))
    )
    models_api: ModelsApi = attrs.field(
        default=ModelsApi.AUTO, metadata=_retune(choice_reader(ModelsApi))
    )
    public_without_keys: bool = attrs.field(default=False, metadata=_retune(read_boolean))


@attrs.frozen(kw_only=True)
class ApiKey:
    """One key of the public side.

    Attributes:
        sha256: Digest of the key, in hexadecimal; the key itself is not kept.
        models: Names and patterns of the models that it may use; None for all.
    """

    sha256: str = attrs.field(repr=False, metadata=_retune(read_sha256))
    models: tuple[str, ...] | None = attrs.field(
        default=None, metadata=_retune(array_reader(read_text))
    )


@attrs.frozen(kw_only=True)
class SpawnSpec:
    """How one backend is run: complete, with everything inherited filled in.

    Attributes:
        command: Program and arguments, placeholders not yet expanded.
        args: What follows *command*, placeholders not yet expanded.
        proxy_endpoints: Path prefixes that are proxied; empty allows every path.
        health_endpoint: Answers 200 once the backend is ready.
        env: Variables set for the process, placeholders not yet expanded.
        cwd: The process's folder; None is the router's own.
        ready_timeout_s: Seconds from spawn to ready.
        stop_timeout_s: Seconds between SIGTERM and SIGKILL.
        check_port_owner: Whether the listener must be the spawned process or its child.
    """

    command: tuple[str, ...] = attrs.field(metadata=_restart(read_command))
    args: tuple[str, ...] = attrs.field(default=(), metadata=_restart(array_reader(read_word)))
    proxy_endpoints: tuple[str, ...] = attrs.field(
        default=(), metadata=_retune(array_reader(read_url_path))
    )
    health_endpoint: str = attrs.field(default="/health", metadata=_restart(read_url_path))
    env: Mapping[str, str] = attrs.field(
        factory=dict[str, str], converter=_frozen_env, metadata=_restart(read_env)
    )
    cwd: str | None = attrs.field(default=None, metadata=_restart(read_text))
    ready_timeout_s: float = attrs.field(default=60.0, metadata=_retune(read_timeout))
    stop_timeout_s: float = attrs.field(default=2.0, metadata=_retune(read_timeout))
    check_port_owner: bool = attrs.field(default=True, metadata=_restart(read_boolean))


@attrs.frozen(kw_only=True)
class ModelSpec:
    """One model and how it is run.

    Attributes:
        id: Its name in the configuration and in the API.
        spawn: Complete spawn settings; the model's own ``args`` are at the end of its args.
        path: Model file for ``$path``.
        mmproj: Projector file for ``$mmproj``.
        state: AUTO if a scan found it, MANUAL if a person wrote it.
        group: Models with the same group run side by side; None runs alone.
        aliases: Further names for it.
        template: Name of the template it inherits from; already part of *spawn*.
        max_queued: Requests that may wait for it.
        max_in_flight: Requests that it serves at once; None sets no limit.
        ttl_s: Seconds of idleness after which it is stopped; 0 for never.
        keep_loaded: It is always loaded, beside whatever else is.
        notify_model_swap: Streaming clients are told what they wait for.
        upstream_model: What its backend sees as the name of the model; None for the client's.
        drop_params: Parameters of requests that its backend never sees.
        default_params: Parameters for requests that do not have them.
        set_params: Parameters that take the place of those of requests.
        presets: Further parameters to set, for who asks for ``NAME:PRESET``.
    """

    id: ModelId = attrs.field(metadata={"on_change": OnChange.RESTART})
    spawn: SpawnSpec = attrs.field(metadata={"on_change": OnChange.INSIDE})
    path: str | None = attrs.field(default=None, metadata=_restart(read_text))
    mmproj: str | None = attrs.field(default=None, metadata=_restart(read_text))
    state: ModelState = attrs.field(
        default=ModelState.MANUAL, metadata=_retune(choice_reader(ModelState))
    )
    group: str | None = attrs.field(default=None, metadata=_retune(read_text))
    aliases: tuple[str, ...] = attrs.field(default=(), metadata=_retune(array_reader(read_text)))
    template: str | None = attrs.field(default=None, metadata=_retune(read_text))
    max_queued: int = attrs.field(default=256, metadata=_retune(integer_reader(1)))
    max_in_flight: int | None = attrs.field(default=None, metadata=_retune(integer_reader(1)))
    ttl_s: float = attrs.field(default=0.0, metadata=_retune(read_seconds))
    keep_loaded: bool = attrs.field(default=False, metadata=_retune(read_boolean))
    notify_model_swap: bool = attrs.field(default=False, metadata=_retune(read_boolean))
    upstream_model: str | None = attrs.field(default=None, metadata=_retune(read_text))
    drop_params: tuple[str, ...] = attrs.field(
        default=(), metadata=_retune(names_reader(PROTECTED))
    )
    default_params: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], metadata=_retune(params_reader(PROTECTED))
    )
    set_params: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], metadata=_retune(params_reader(PROTECTED))
    )
    presets: Mapping[str, Mapping[str, Any]] = attrs.field(
        factory=dict[str, Mapping[str, Any]], metadata=_retune(presets_reader(PROTECTED))
    )

    def names(self) -> dict[str, str | None]:
        """Return every name that clients can use, with the preset that it stands for."""
        plain = (str(self.id), *self.aliases)
        named: dict[str, str | None] = dict.fromkeys(plain)
        named |= {f"{name}:{preset}": preset for preset in self.presets for name in plain}
        return named

    def meanings(self) -> Iterator[tuple[str, Meaning]]:
        """Yield every name with what it stands for; names for the same have the same object."""
        known = {
            preset: Meaning(model=self.id, preset=preset, shape=self.shape(preset))
            for preset in (None, *self.presets)
        }
        for name, preset in self.names().items():
            yield name, known[preset]

    def shape(self, preset: str | None) -> Shape | None:
        """Return what becomes of requests; None if nothing does."""
        shape = Shape(
            drop=frozenset(self.drop_params),
            defaults=self.default_params,
            sets={**self.set_params, **({} if preset is None else self.presets[preset])},
            model=self.upstream_model,
        )
        return None if shape == Shape() else shape

    @property
    def group_key(self) -> str:
        """Return what two models share exactly when they may run side by side."""
        return f"model:{self.id}" if self.group is None else f"group:{self.group}"


@attrs.frozen(kw_only=True)
class Config:
    """A whole ``router.toml``, checked. *models* keeps the order of the file."""

    router: RouterSpec = attrs.field(factory=RouterSpec)
    api_keys: Mapping[str, ApiKey] = attrs.field(factory=dict[str, ApiKey])
    models: Mapping[ModelId, ModelSpec] = attrs.field(
        factory=dict[ModelId, ModelSpec], converter=_frozen_models
    )
    _names: Names = attrs.field(init=False, eq=False, repr=False)

    @_names.default
    def _index_names(self) -> Names:
        return Names(named for spec in self.models.values() for named in spec.meanings())

    @property
    def touched(self) -> frozenset[str]:
        """Names of the fields of requests that the shape of some model looks at."""
        return self._names.touched

    def find(self, name: str) -> Meaning | None:
        """Return what *name* stands for: an id, an alias, or either with a preset.

        In constant time. Names of the hub are found in any case; see `Names`.
        """
        return self._names.exactly(name) or self._names.find(name)

    def meant(self, name: str) -> Meaning | None:
        """Return what a request that names *name* means: the default model, if it may stand in."""
        meaning = self._names.exactly(name) or self._names.find(name)
        if meaning is None and self.router.default_for_unknown:
            default = self.router.default_model
            return None if default is None else self._names.find(default)
        return meaning

    def resolve(self, name: str) -> ModelId | None:
        """Return the model that `find` finds."""
        meaning = self._names.exactly(name) or self._names.find(name)
        return None if meaning is None else meaning.model


DEFAULT_SPAWN = SpawnSpec(
    command=(
        *("llama-server", "--model", "$path", "--port", "$port", "--host", "$host"),
        *("--jinja", "--ctx-size", "4096", "--n-gpu-layers", "99"),
    ),
    proxy_endpoints=("/v1/", "/health", "/slots", "/props"),
)
"""What a model gets where neither it, its template nor ``[default_spawn]`` says otherwise."""


# --- From a document to the values ---------------------------------------------------


def _readers(spec: type[attrs.AttrsInstance]) -> dict[str, Read]:
    return {f.name: f.metadata["read"] for f in attrs.fields(spec) if "read" in f.metadata}


_ROUTER_KEYS = _readers(RouterSpec)
_SPAWN_KEYS = _readers(SpawnSpec)
_API_KEY_KEYS = _readers(ApiKey) | {"key": secret_reader(8)}
_MODEL_KEYS = _readers(ModelSpec) | {
    "found_args": array_reader(read_word),
    "args": array_reader(read_word),
    "spawn": read_table,
}
_SECTIONS: dict[str, Read] = dict.fromkeys(
    ("router", "api_keys", "default_spawn", "templates", "models"), read_table
)
# Stands for what could not be read, so that nothing is said twice about it.
_NO_WORDS: dict[str, Any] = {"command": (), "args": (), "env": {}}


def parse_config(document: Mapping[str, Any]) -> Config:
    """Turn a parsed TOML document into a `Config`. Nothing is coerced, nothing ignored.

    Raises:
        ConfigError: with every problem of the document; lines are not known here.
    """
    parser = _Parser()
    config = parser.config(document)
    if parser.problems:
        raise ConfigError(tuple(parser.problems))
    return config


class _Parser:
    """Walks one document, leaves out what is unusable, and remembers why."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def config(self, document: Mapping[str, Any]) -> Config:
        sections = self.fields(document, _SECTIONS, ())
        router = RouterSpec(**self.fields(sections.get("router", {}), _ROUTER_KEYS, ("router",)))
        keys = {
            name: key
            for name, table in self.named_tables(sections, "api_keys")
            if (key := self.api_key(name, table)) is not None
        }
        default = self.spawn(DEFAULT_SPAWN, document, sections, where=("default_spawn",))
        tables = dict(self.named_tables(sections, "templates"))
        templates = {
            name: self.spawn(default, sections["templates"], tables, where=("templates", name))
            for name in sections.get("templates", {})
        }
        models = {
            ModelId(name): self.model(ModelId(name), table, router, default, templates)
            for name, table in self.named_tables(sections, "models")
        }
        self.check_names(router, models, sections.get("models", {}))
        self.check_keys(keys)
        written = sections.get("api_keys", {})
        if fault := exposure(
            router.host, has_keys=bool(written), public_without_keys=router.public_without_keys
        ):
            self.report(("router", "host"), fault)
        return Config(router=router, api_keys=keys, models=models)

    def report(self, where: _Where, message: str) -> None:
        self.problems.append(Problem(where, message))

    def fields(
        self, table: Mapping[str, object], readers: Mapping[str, Read], where: _Where
    ) -> dict[str, Any]:
        """Return the usable values of *table*; report unknown keys and the other values."""
        usable: dict[str, Any] = {}
        for key, value in table.items():
            if key not in readers:
                self.report((*where, key), f"unknown key {key!r}{_suggest(key, readers)}")
                continue
            try:
                usable[key] = readers[key](value)
            except RefusedError as refused:
                for problem in refused.problems:
                    self.report((*where, key, *problem.path), problem.message)
        return usable

    def named_tables(
        self, sections: Mapping[str, Any], section: str
    ) -> Iterable[tuple[str, Mapping[str, object]]]:
        """Yield the tables of *section* with their names; report what is not one."""
        for name, table in sections.get(section, {}).items():
            if not name or CONTROL.search(name):
                message = "a name must not be empty or contain control characters"
                self.report((section, name), message)
            elif self.fields({name: table}, {name: read_table}, (section,)):
                yield name, table

    def spawn(
        self,
        base: SpawnSpec,
        written: Mapping[str, object],
        usable: Mapping[str, Any],
        *,
        where: _Where,
    ) -> SpawnSpec:
        """Return *base* with the fields of one table in place of its own; env merges by key.

        Args:
            base: What the table inherits from.
            written: The table that holds the table, as it is in the document.
            usable: What of *written* could be read.
            where: Path of the table; its last key is that in *written*.
        """
        key = str(where[-1])
        if key in written and key not in usable:
            return attrs.evolve(base, **_NO_WORDS)
        table = usable.get(key, {})
        own = self.fields(table, _SPAWN_KEYS, where)
        own |= {k: v for k, v in _NO_WORDS.items() if k in table and k not in own}
        if "env" in own:
            own["env"] = {**base.env, **own["env"]}
        return attrs.evolve(base, **own)

    def model(
        self,
        model: ModelId,
        table: Mapping[str, object],
        router: RouterSpec,
        default: SpawnSpec,
        templates: Mapping[str, SpawnSpec],
    ) -> ModelSpec:
        where = ("models", model)
        own = self.fields(table, _MODEL_KEYS, where)
        base, template = default, own.get("template")
        if "template" in table:
            base = templates.get(str(template), attrs.evolve(default, **_NO_WORDS))
        if template is not None and template not in templates:
            hint = _suggest(template, templates)
            self.report((*where, "template"), f"there is no template {template!r}{hint}")
        spawn = self.spawn(base, table, own, where=(*where, "spawn"))
        own.pop("spawn", None)
        own_args = (*own.pop("found_args", ()), *own.pop("args", ()))
        spawn = attrs.evolve(spawn, args=(*spawn.args, *own_args))
        words = (*spawn.command, *spawn.args, *spawn.env.values())
        used = frozenset[str]().union(*map(placeholders.names_in, words))
        for name in sorted(used & {"path", "mmproj"} - table.keys()):
            self.report(where, f"the command uses '${name}', but the model has no {name!r}")
        inherited = {
            name: getattr(router, name) for name in ("max_queued", "ttl_s", "notify_model_swap")
        }
        return ModelSpec(id=model, spawn=spawn, **{**inherited, **own})

    def api_key(self, name: str, table: Mapping[str, object]) -> ApiKey | None:
        where = ("api_keys", name)
        own = self.fields(table, _API_KEY_KEYS, where)
        if ("key" in table) == ("sha256" in table):
            self.report(where, "needs either 'key' or 'sha256', the digest of the key")
        key = own.pop("key", None)
        if key is not None:
            own["sha256"] = hashlib.sha256(key.encode()).hexdigest()
        return ApiKey(**own) if "sha256" in own else None

    def check_keys(self, keys: Mapping[str, ApiKey]) -> None:
        """Report keys that two names share: nobody could tell whose a request is."""
        owners: dict[str, str] = {}
        for name, key in keys.items():
            if (owner := owners.setdefault(key.sha256, name)) != name:
                self.report(("api_keys", name), f"the same key as that of {owner!r}")

    def check_names(
        self,
        router: RouterSpec,
        models: Mapping[ModelId, ModelSpec],
        written: Mapping[str, object],
    ) -> None:
        """Report names that two models claim, and a model of ``[router]`` that none has."""
        owners = {name: name for name in written}
        for model, spec in models.items():
            for index, alias in enumerate(spec.aliases):
                if alias in owners:
                    message = f"{alias!r} is already a name of the model {owners[alias]!r}"
                    self.report(("models", model, "aliases", index), message)
                else:
                    owners[alias] = model
        for model, spec in models.items():
            for name, preset in spec.names().items():
                if preset is not None and owners.setdefault(name, model) != model:
                    message = f"{name!r} is already a name of the model {owners[name]!r}"
                    self.report(("models", model, "presets", preset), message)
        if router.default_for_unknown and router.default_model is None:
            self.report(("router", "default_for_unknown"), "needs a 'default_model'")
        for key in ("startup_model", "home_model", "default_model"):
            name = getattr(router, key)
            if name is not None and name not in owners:
                message = f"no model has the name {name!r}{_suggest(name, owners)}"
                self.report(("router", key), message)


def _suggest(wrong: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that names what was probably meant."""
    names = sorted(known)
    if close := difflib.get_close_matches(wrong, names, n=1):
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(names)}" if names else ""
