"""A model of the configuration as a value, and how its backend is run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import attrs

from .fields import OnChange, restart, retune
from .names import ModelId, ResolvedModel
from .overrides import PROTECTED, RequestOverrides
from .readers import (
    array_reader,
    choice_reader,
    integer_reader,
    names_reader,
    params_reader,
    presets_reader,
    read_boolean,
    read_command,
    read_env,
    read_seconds,
    read_text,
    read_timeout,
    read_url_path,
    read_word,
)


class ModelState(StrEnum):
    """Who put a model into the configuration."""

    AUTO = "auto"
    MANUAL = "manual"


def _frozen_env(env: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(env))


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

    command: tuple[str, ...] = attrs.field(metadata=restart(read_command))
    args: tuple[str, ...] = attrs.field(default=(), metadata=restart(array_reader(read_word)))
    proxy_endpoints: tuple[str, ...] = attrs.field(
        default=(), metadata=retune(array_reader(read_url_path))
    )
    health_endpoint: str = attrs.field(default="/health", metadata=restart(read_url_path))
    env: Mapping[str, str] = attrs.field(
        factory=dict[str, str], converter=_frozen_env, metadata=restart(read_env)
    )
    cwd: str | None = attrs.field(default=None, metadata=restart(read_text))
    ready_timeout_s: float = attrs.field(default=60.0, metadata=retune(read_timeout))
    stop_timeout_s: float = attrs.field(default=2.0, metadata=retune(read_timeout))
    check_port_owner: bool = attrs.field(default=True, metadata=restart(read_boolean))


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
    path: str | None = attrs.field(default=None, metadata=restart(read_text))
    mmproj: str | None = attrs.field(default=None, metadata=restart(read_text))
    state: ModelState = attrs.field(
        default=ModelState.MANUAL, metadata=retune(choice_reader(ModelState))
    )
    group: str | None = attrs.field(default=None, metadata=retune(read_text))
    aliases: tuple[str, ...] = attrs.field(default=(), metadata=retune(array_reader(read_text)))
    template: str | None = attrs.field(default=None, metadata=retune(read_text))
    max_queued: int = attrs.field(default=256, metadata=retune(integer_reader(1)))
    max_in_flight: int | None = attrs.field(default=None, metadata=retune(integer_reader(1)))
    ttl_s: float = attrs.field(default=0.0, metadata=retune(read_seconds))
    keep_loaded: bool = attrs.field(default=False, metadata=retune(read_boolean))
    notify_model_swap: bool = attrs.field(default=False, metadata=retune(read_boolean))
    upstream_model: str | None = attrs.field(default=None, metadata=retune(read_text))
    drop_params: tuple[str, ...] = attrs.field(default=(), metadata=retune(names_reader(PROTECTED)))
    default_params: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], metadata=retune(params_reader(PROTECTED))
    )
    set_params: Mapping[str, Any] = attrs.field(
        factory=dict[str, Any], metadata=retune(params_reader(PROTECTED))
    )
    presets: Mapping[str, Mapping[str, Any]] = attrs.field(
        factory=dict[str, Mapping[str, Any]], metadata=retune(presets_reader(PROTECTED))
    )

    def names(self) -> dict[str, str | None]:
        """Return every name that clients can use, with the preset that it stands for."""
        plain = (str(self.id), *self.aliases)
        named: dict[str, str | None] = dict.fromkeys(plain)
        named |= {f"{name}:{preset}": preset for preset in self.presets for name in plain}
        return named

    def meanings(self) -> Iterator[tuple[str, ResolvedModel]]:
        """Yield every name with what it stands for; names for the same have the same object."""
        known = {
            preset: ResolvedModel(model=self.id, preset=preset, shape=self.shape(preset))
            for preset in (None, *self.presets)
        }
        for name, preset in self.names().items():
            yield name, known[preset]

    def shape(self, preset: str | None) -> RequestOverrides | None:
        """Return what becomes of requests; None if nothing does, not even to their answers."""
        shape = RequestOverrides(
            drop=frozenset(self.drop_params),
            defaults=self.default_params,
            sets={**self.set_params, **({} if preset is None else self.presets[preset])},
            model=self.upstream_model,
        )
        return None if preset is None and shape == RequestOverrides() else shape

    @property
    def group_key(self) -> str:
        """Return what two models share exactly when they may run side by side."""
        return f"model:{self.id}" if self.group is None else f"group:{self.group}"


DEFAULT_SPAWN = SpawnSpec(
    command=(
        *("llama-server", "--model", "$path", "--port", "$port", "--host", "$host"),
        *("--jinja", "--ctx-size", "4096", "--n-gpu-layers", "99"),
    ),
    proxy_endpoints=("/v1/", "/health", "/slots", "/props"),
)
"""What a model gets where neither it, its template nor ``[default_spawn]`` says otherwise."""
