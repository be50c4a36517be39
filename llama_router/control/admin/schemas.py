"""Bodies and answers of the admin API, as types: they check, encode and document the JSON."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(min_length=1, description="A model's name or alias.")]


class StrictBody(msgspec.Struct, forbid_unknown_fields=True):
    """Base of request bodies; an unknown field is an error."""


class Empty(StrictBody):
    """An empty object, or no body at all."""


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


class DownloadBody(StrictBody):
    """The model to fetch: ``user/repo`` or ``user/repo:QUANT``, or one *file* of ``user/repo``."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    file: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class SettingsBody(StrictBody):
    """Changes of the configuration file.

    Keys are those of the file; dots lead into tables (``spawn.ready_timeout_s``). Without
    *model* they are keys of ``[router]``. With *digest*, the change is refused unless the
    file still has that digest.
    """

    model: Name | None = None
    set: dict[str, Any] = {}
    unset: list[str] = []
    digest: str | None = None


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
    model again for the next request. *claims* is what a loaded
    model takes of each device; it and *footprint* are there with the policy of memory only.
    *waits_for* says why its requests wait; null if none does. While it loads, *load_progress* is
    the loaded part, 0 to 1, if its backend reports it, and *load_left_s* an estimate from the last
    load. *fit* says what llama.cpp's fitting chose. *size_bytes* is that of all parts of its file,
    *n_ctx* the context of one request. *ttl_left_s* is the time until it is unloaded if no request
    comes; null if it is busy, not loaded, or stays. *tokens_per_s* is the rate of its streams now,
    estimated from their bytes; null if none moves, or before the end of its first one.
    *last_tokens_per_s* is that of its last answer. *last_used_at*, in seconds since 1970, is when
    its last request ended.
    *max_in_flight* is how many requests its backend gets at once, by the settings or its own slots;
    null for no limit.
    """

    id: str
    aliases: list[str]
    group: str | None
    state: str
    autoload: bool
    unlisted: bool
    keep_loaded: bool
    phase: str
    sleeping: bool
    pid: int | None
    port: int | None
    memory_mib: float | None
    claims: dict[str, int]
    footprint: Footprint | None
    size_bytes: int | None
    quantization: str | None
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


class Activity(msgspec.Struct):
    """A request: ``queued``, ``loading``, ``running`` or ``done``.

    *cancel_id* is its id for ``/admin/requests/cancel``; null if it cannot be cancelled. *client*
    is the name of its API key, or its address. *outcome* is ``ok``, ``cut``, ``client_gone`` or
    ``refused``; *code* is that of the error. *queue_s* and *load_s* are the parts of its wait,
    *ttft_s* the time to its first byte. *tokens_per_s* of an answer that is no stream includes the
    prompt. *captured* says that its bodies are kept.
    """

    id: int
    cancel_id: int | None
    model: str | None
    client: str
    key: str | None
    method: str
    path: str
    state: str
    outcome: str | None
    code: str | None
    status: int
    began_at: float
    queue_s: float | None
    load_s: float | None
    ttft_s: float | None
    duration_s: float
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens_per_s: float | None
    sent_bytes: int
    request_id: str | None
    captured: bool


class Activities(msgspec.Struct):
    """Requests: live ones first, and of both the latest first; and their number so far."""

    at: float
    ended_count: int
    requests: list[Activity]


class Load(msgspec.Struct):
    """One process of a model, from its start to its end. Times are in seconds since 1970.

    *cause* is why it was started: ``request``, ``keep_loaded``, ``home`` or ``return`` (it was
    replaced). *reason* is why it ended: ``swap`` (for *for_model*), ``idle``, ``unload``,
    ``reload``, ``hang`` or ``failed``; null while it runs, and if the router ended it at its own
    end. *words* say the same in words; *failure* is the cause of a failure.
    """

    model: str
    cause: str
    began_at: float
    ready_at: float | None
    stopping_at: float | None
    ended_at: float | None
    reason: str | None
    words: str | None
    failure: str | None
    for_model: str | None
    devices: list[str]


class Minute(msgspec.Struct):
    """Requests that ended in the minute that began *at*, in seconds since 1970.

    *refused* are those that the router itself answered with an error, *failed* those that were
    cut.
    """

    at: int
    requests: int
    refused: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


class Timeline(msgspec.Struct):
    """Loads that lasted until less than that long ago, and the traffic per minute since then."""

    at: float
    loads: list[Load]
    series: list[Minute]


class CapturedMessage(msgspec.Struct):
    """A request or a response.

    *body* is its text; what is no text is in *base64*. Both are null for a body that was passed on
    while it came. *is_whole* says that nothing is missing.
    """

    status: int | None
    method: str | None
    target: str | None
    headers: list[tuple[str, str]]
    body: str | None
    base64: str | None
    is_whole: bool


class Capture(msgspec.Struct):
    """A request and its response, with secrets masked."""

    id: int
    request: CapturedMessage
    response: CapturedMessage


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


class Rescanned(msgspec.Struct):
    """The result of a scan: the number of new models, and of models that are gone."""

    status: str
    new_models: int
    removed: int


class Cancelled(msgspec.Struct):
    """The request that was cancelled."""

    id: int


class DownloadFault(msgspec.Struct):
    """The error of a failed download."""

    code: str
    message: str


class Download(msgspec.Struct):
    """A download: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.

    *model*, *files* and *total_bytes* are null or empty until the hub has answered; *note*
    is the reason while nothing is received. A model that is ``done`` is served, unless
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
    """Running downloads, and the latest ones that ended, oldest first."""

    downloads: list[Download]


class HubRepository(msgspec.Struct):
    """A repository that a search found.

    *modified_at* is as the hub writes it, *task* in its words. *is_here* says that some of it is in
    the cache.
    """

    id: str
    downloads: int | None
    likes: int | None
    modified_at: str | None
    gated: bool
    task: str | None
    is_here: bool


class HubSearch(msgspec.Struct):
    """Repositories with GGUF files, the first ones that the hub found."""

    query: str
    repositories: list[HubRepository]


class HubFit(msgspec.Struct):
    """Where a model fits when nothing else is loaded, with a context of 8192 tokens.

    *where* is ``gpu`` (one of the *devices*), ``gpus`` (split over them), ``gpu_and_host`` (a part
    of its layers in host memory, which is slower), ``host``, or ``none``. *source* is ``header`` if
    the header of a file was read, else ``size``.
    """

    where: str
    devices: list[str]
    need_mib: int
    source: str


class HubModel(msgspec.Struct):
    """A model of a repository, by its *label*: a quantization, usually.

    *size_bytes* is that of all its *files*; *mmproj* is fetched with it. *here_bytes* of all that
    are in the cache. *model* is its id if it is served; *reference* is what a download takes.
    """

    label: str
    reference: str
    files: list[str]
    size_bytes: int
    mmproj: str | None
    mmproj_bytes: int
    here_bytes: int
    is_here: bool
    is_default: bool
    model: str | None
    fit: HubFit


class HubModels(msgspec.Struct):
    """A repository with its complete models, smallest first.

    *note* says why there are none. *free_bytes* are left on the disk of the *cache*.
    """

    id: str
    gated: bool
    models: list[HubModel]
    note: str
    free_bytes: int
    cache: str


class Deleted(msgspec.Struct):
    """The model that was deleted, and the bytes that this freed."""

    id: str
    freed_bytes: int


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


class Error(msgspec.Struct):
    """OpenAI's error object."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorAnswer(msgspec.Struct):
    """The body of every error."""

    error: Error


def to_dict(value: msgspec.Struct) -> dict[str, Any]:
    """Return *value* as the dictionary that its JSON decodes to."""
    converted = msgspec.to_builtins(value)
    assert isinstance(converted, dict)
    return converted
