"""The state of the router, its models and devices, as types of the admin API."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .config_schemas import Reload
from .schemas import Name, StrictBody


class LoadBody(StrictBody):
    """The model to load."""

    model: Name


class UnloadBody(StrictBody):
    """The model to unload; *force* cancels the requests that it serves."""

    model: Name
    force: bool = False


class CancelBody(StrictBody):
    """The request to cancel; ``/admin/status`` lists the ids."""

    id: Annotated[int, Meta(ge=1, le=2**63 - 1)]


class Failure(msgspec.Struct):
    """The last failure of a backend; *ago_s* is null if its time is not known."""

    code: str
    message: str
    cause: str | None
    log_tail: list[str]
    ago_s: float | None


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


class Device(msgspec.Struct):
    """A device with memory, in MiB; a pool in units.

    *budget_mib* is what all models together may take, *others_mib* what other programs hold
    beyond the reserve, *freeing_mib* what an ended backend held and the driver has not freed,
    *claimed_mib* what the loaded models take, and *free_mib* the rest. *programs* are the larger
    ones of the other programs, and what they hold.
    """

    name: str
    kind: str
    description: str
    capacity_mib: int
    reserve_mib: int
    budget_mib: int
    others_mib: int
    freeing_mib: int
    claimed_mib: int
    free_mib: int
    programs: dict[str, int]


class Footprint(msgspec.Struct):
    """What a model takes, in MiB, before devices are chosen for it.

    *source* is ``configured``, ``measured``, ``reported``, ``estimated`` or ``unknown``.
    """

    source: str
    host_mib: int
    gpu_mib: int
    fixed_mib: dict[str, int]


class Fit(msgspec.Struct):
    """What llama.cpp's fitting chose for a running model, so that it fits into memory.

    *n_gpu_layers* is null if all layers are on GPUs, *n_layers* where there is none. A *squeezed*
    model has less than it could have, because something else holds memory. *options* repeat the
    choice at the next start, where memory is the same; *summary* has all of it in words.
    """

    n_ctx: int
    n_ctx_full: int
    n_gpu_layers: int | None
    n_layers: int | None
    squeezed: bool
    options: list[str]
    summary: str


class Model(msgspec.Struct):
    """A model and its backend.

    *crashed* says that the model has not been started since *last_error*, *autoload* that any
    request loads it, *unlisted* that lists for clients leave it out, *keep_loaded* that it is
    loaded at the start and stays, *sleeping* that its backend has freed its memory, and loads the
    model again for the next request. *claims* is what a loaded model takes of each device; it and
    *footprint* are there with the policy of memory only. *waits_for* says why its requests wait;
    null if none does. While it loads, *load_progress* is the loaded part, 0 to 1, if its backend
    reports it, and *load_left_s* an estimate from the last load. *fit* says what llama.cpp's
    fitting chose. *size_bytes* is that of all parts of its file, *n_ctx* the context of one
    request. *capabilities* are ``completion``, ``tools``, ``vision``, ``thinking``, ``embedding``,
    ``rerank`` and others that its settings declare; empty if nothing is known of them, and without
    ``tools`` and ``thinking`` until its chat template was read. *ttl_left_s* is the time until it
    is unloaded if no request comes; null if it is busy, not loaded, or stays. *tokens_per_s* is
    the rate of its streams now, estimated from their bytes; null if none moves, or before the end
    of its first one. *last_tokens_per_s* is that of its last answer. *last_used_at*, in seconds
    since 1970, is when its last request ended. *max_in_flight* is how many requests its backend
    gets at once, by the settings or its own slots; null for no limit. *url* is that of the
    service that serves it, if no process of this router does.
    """

    id: str
    aliases: list[str]
    group: str | None
    state: str
    autoload: bool
    unlisted: bool
    keep_loaded: bool
    phase: str
    url: str | None
    sleeping: bool
    pid: int | None
    port: int | None
    memory_mib: float | None
    claims: dict[str, int]
    footprint: Footprint | None
    size_bytes: int | None
    quantization: str | None
    capabilities: list[str]
    n_ctx: int | None
    waits_for: str | None
    ready_for_s: float | None
    load_progress: float | None
    load_left_s: float | None
    fit: Fit | None
    idle_for_s: float | None
    ttl_left_s: float | None
    last_used_at: float | None
    tokens_per_s: float | None
    last_tokens_per_s: float | None
    in_flight: int
    max_in_flight: int | None
    queued: int
    serving: list[Serving]
    waiting: list[Waiting]
    failures: int
    crashed: bool
    retry_in_s: float | None
    last_error: Failure | None


class LiveUpdate(msgspec.Struct):
    """The data of an event ``update``: the models that changed, and those that are gone.

    *devices* is null if none changed. What depends on the time counts from *at*, in seconds since
    1970.
    """

    at: float
    models: list[Model]
    removed: list[str]
    devices: list[Device] | None


class Program(msgspec.Struct):
    """A llama-server program that serves.

    *devices* is null where the machine has no GPU; *warning* says that one is not used, or why
    the program cannot serve; *summary* has the others in words.
    """

    program: str
    version: str | None
    devices: list[str] | None
    warning: str | None
    summary: str


class Status(msgspec.Struct):
    """The router and all its models, at the time *at*, in seconds since 1970.

    *configuration* is the one in force, with inherited values filled in and secrets masked;
    null if it was not requested. *devices* is empty unless the policy is that of memory;
    *device_faults* has a sentence for each driver that cannot be read.
    """

    version: str
    pid: int
    at: float
    uptime_s: float
    urls: list[str]
    state_dir: str
    config_path: str
    programs: list[Program]
    devices: list[Device]
    device_faults: list[str]
    reload: Reload
    models: list[Model]
    configuration: dict[str, Any] | None


class PlannedModel(msgspec.Struct):
    """A model that would be loaded: what it would take, and what would leave for it.

    *reason* says why it cannot be loaded; it is empty if it can.
    """

    id: str
    footprint: Footprint | None
    claims: dict[str, int]
    evicted: list[str]
    reason: str


class Plan(msgspec.Struct):
    """What would happen if models were loaded one after the other, all others idle.

    *loaded* are the models that are loaded before.
    """

    policy: str
    devices: list[Device]
    device_faults: list[str]
    loaded: list[str]
    models: list[PlannedModel]


class Cancelled(msgspec.Struct):
    """The request that was cancelled."""

    id: int
