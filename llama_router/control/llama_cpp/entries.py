"""Entries of the model list in the format of llama.cpp's router. Pure.

Source: llama.cpp, tools/server/server-models.cpp (router mode), at 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from ...core.config.specs import ModelSpec, ModelState
from ...core.memory.fit import Fit
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.model_entry import ModelStatistics
from ...errors.backends import BackendExitedError
from .model_facts import accepts_images, context_length, described

Json: TypeAlias = dict[str, Any]

#: llama.cpp's status for each phase of a model that no request waits for; see `status_of`.
STATUSES: Final = {
    Phase.STOPPED: "unloaded",
    Phase.STARTING: "loading",
    Phase.READY: "loaded",
    Phase.DRAINING: "loaded",
    Phase.STOPPING: "loaded",
    Phase.BACKOFF: "unloaded",
    Phase.FAILED: "unloaded",
}

#: llama.cpp's status of a loaded model whose backend sleeps.
SLEEPING: Final = "sleeping"

#: Phases with a process.
RUNNING: Final = frozenset((Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.STOPPING))

#: Phases after a failure.
AFTER_FAILURE: Final = frozenset((Phase.BACKOFF, Phase.FAILED))

#: Phases without a process in which a waiting request causes a start.
_STARTABLE: Final = frozenset((Phase.STOPPED, Phase.BACKOFF))

#: Fields of an entry that the router fills in; those of a backend's list are ignored.
_ROUTER_FIELDS: Final = frozenset(
    ("id", "object", "created", "owned_by", "aliases", "tags", "status")
)

#: Longest text that is taken from a backend's list, in characters, and the most fields.
_MAX_TEXT: Final = 256
_MAX_FIELDS: Final = 64


@attrs.frozen
class BackendInfo:
    """A backend's own description of its model.

    Attributes:
        tags: The model's tags.
        fields: Further fields of its entry: ``meta``, ``architecture`` …
    """

    tags: tuple[str, ...] = ()
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def with_fit(self, fit: Fit, *, squeezed: bool) -> BackendInfo:
        """Return this with what llama.cpp's fitting chose, in ``meta``.

        Args:
            fit: The choice.
            squeezed: Whether the model has less because something else held memory.
        """
        meta = self.fields.get("meta")
        chosen = {
            "n_ctx": fit.n_ctx,
            "n_ctx_full": fit.n_ctx_full,
            "n_gpu_layers": fit.n_gpu_layers,
            "n_layers": fit.n_layers,
            "squeezed": squeezed,
        }
        described = {**(meta if isinstance(meta, dict) else {}), "fit": chosen}
        return attrs.evolve(self, fields={**self.fields, "meta": described})


def read_backend_info(body: bytes) -> BackendInfo | None:
    """Return the description of the only model in a backend's ``/v1/models``.

    Returns:
        None if *body* is no list of models, or one of several.
    """
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    entry = _only(document, "data")
    if entry is None:
        return None
    fields = {k: v for k, v in entry.items() if k not in _ROUTER_FIELDS and len(k) <= _MAX_TEXT}
    # llama-server has these in a second list, made for Ollama's clients.
    capabilities = (_only(document, "models") or {}).get("capabilities")
    if isinstance(capabilities, list):
        fields.setdefault("capabilities", _texts(capabilities))
    return BackendInfo(_texts(entry.get("tags")), dict(list(fields.items())[:_MAX_FIELDS]))


def _only(document: object, key: str) -> dict[str, Any] | None:
    found = document.get(key) if isinstance(document, dict) else None
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], dict):
        return found[0]
    return None


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        return ()
    return tuple(t for t in value[:_MAX_FIELDS] if isinstance(t, str) and 0 < len(t) <= _MAX_TEXT)


def status_of(phase: Phase, *, awaited: bool) -> str:
    """Return llama.cpp's status of a model.

    llama.cpp has no status for a pause after a failure: its router never restarts a model, so
    a model without a process is ``unloaded``. Here it is ``unloaded`` too if nothing waits
    for it, and ``loading`` if a request does, because it will be started again.

    Args:
        phase: The model's phase.
        awaited: Whether a request waits for the model, or it is kept loaded.
    """
    return "loading" if awaited and phase in _STARTABLE else STATUSES[phase]


def model_entry(
    spec: ModelSpec,
    statistics: ModelStatistics,
    info: BackendInfo | None,
    *,
    args: Sequence[str],
    created_s: int,
    can_remove: bool,
    preset: str | None = None,
) -> Json:
    """Return the entry of a model, or of one of its presets.

    Each preset has its own entry, because clients offer ids for selection and no aliases.

    Args:
        spec: The model.
        statistics: Its state.
        info: Its backend's description from the last load.
        args: Its command line, without secrets.
        created_s: Time of its first appearance, in seconds since 1970.
        can_remove: Whether its files may be deleted.
        preset: The preset; None for the model itself.
    """
    names = [name for name, named in spec.names().items() if named == preset]
    value = status_of(statistics.phase, awaited=is_awaited(spec, statistics))
    status: Json = {"value": value, "args": list(args)}
    failed = statistics.phase in AFTER_FAILURE or statistics.crashed
    if value == "unloaded" and failed:
        status["failed"] = True
        if isinstance(statistics.last_error, BackendExitedError):
            status["exit_code"] = statistics.last_error.returncode
    reported = {} if info is None else info.fields
    context = context_length(spec, reported=reported)
    inputs = ["text", "image"] if accepts_images(spec, reported) else ["text"]
    entry: Json = {
        "id": names[0],
        "object": "model",
        "created": created_s,
        "owned_by": "llama-router",
        "aliases": names[1:],
        "tags": [],
        "status": status,
        "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
        "autoload": spec.autoload,
        "source": "cache" if spec.state is ModelState.AUTO else "preset",
        "can_remove": can_remove and preset is None,
    }
    if info is not None:
        entry |= info.fields
        entry["tags"] = list(info.tags)
    if spec.capabilities is not None:
        entry["capabilities"] = list(spec.capabilities)
    if context is not None:
        entry["context_length"] = context
    if spec.name is not None:
        entry["name"] = spec.name
    if spec.metadata:  # where llama-swap's clients look for it
        entry["meta"] = {**_meta_of(entry), "llamaswap": dict(spec.metadata)}
    return entry | described(spec)


def alias_entries(entry: Json) -> list[Json]:
    """Return an entry for each alias in the *entry* of a model, which differs by its id only."""
    return [{**entry, "id": alias, "aliases": []} for alias in entry["aliases"]]


def _meta_of(entry: Json) -> Json:
    meta = entry.get("meta")
    return meta if isinstance(meta, dict) else {}


def anthropic_entry(entry: Json) -> Json:
    """Return an entry in the form of Anthropic's API.

    Source: https://docs.anthropic.com/en/api/models-list.
    """
    created = datetime.fromtimestamp(entry["created"], UTC)
    return {
        "type": "model",
        "id": entry["id"],
        "display_name": entry.get("name", entry["id"]),
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "lifecycle": "active",
        "max_input_tokens": entry.get("context_length"),
    }


def anthropic_list(entries: Sequence[Json]) -> Json:
    """Return the list of *entries* in the form of Anthropic's API, as one page."""
    ids = [entry["id"] for entry in entries]
    return {
        "data": list(map(anthropic_entry, entries)),
        "has_more": False,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
    }


def is_awaited(spec: ModelSpec, statistics: ModelStatistics) -> bool:
    """Return whether a request waits for a model, or the model is restarted without one."""
    failing = statistics.phase in AFTER_FAILURE
    return statistics.queued > 0 or (spec.keep_loaded and failing)


def downloading_entry(
    name: str, done_bytes: int, total_bytes: int | None, *, created_s: int
) -> Json:
    """Return the entry of a model that is being downloaded."""
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "llama-router",
        "aliases": [],
        "tags": [],
        "status": {"value": "downloading", "args": []},
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "source": "cache",
        "can_remove": True,
        **download_progress(name, done_bytes, total_bytes),
    }


def router_props(version: str, *, max_instances: int, autoload: bool) -> Json:
    """Return the router's own ``/props``.

    Args:
        version: The version of the router.
        max_instances: Most models that can run at the same time.
        autoload: Models are loaded for any request.
    """
    return {
        "role": "router",
        "max_instances": max_instances,
        "models_autoload": autoload,
        # Fields that llama.cpp's UI reads from every server.
        "model_alias": "llama-router",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "ui_settings": {},
        "build_info": f"b0-llama-router-{version}",
        "cors_proxy_enabled": False,
    }


def download_progress(name: str, done_bytes: int, total_bytes: int | None) -> Json:
    """Return the field ``progress`` of a model that is being downloaded."""
    return {"progress": {name: {"done": done_bytes, "total": total_bytes or 0}}}
