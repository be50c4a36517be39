"""What llama.cpp's router says about models, in its own shapes. Pure.

Source: llama.cpp, tools/server/server-models.cpp (router mode), at 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import msgspec

from ...core.config.names import ModelId
from ...core.config.specs import ModelSpec, ModelState
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.state import ModelStatistics
from ...errors.backends import BackendExitedError

Json: TypeAlias = dict[str, Any]

#: What llama.cpp calls the phases of a model that nobody waits for; see `status_of`.
_STATUS: Final = {
    Phase.STOPPED: "unloaded",
    Phase.STARTING: "loading",
    Phase.READY: "loaded",
    Phase.DRAINING: "loaded",
    Phase.STOPPING: "loaded",
    Phase.BACKOFF: "unloaded",
    Phase.FAILED: "unloaded",
}

#: Phases in which there is a process.
RUNNING: Final = frozenset((Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.STOPPING))

#: Phases after a failure.
_FAILING: Final = frozenset((Phase.BACKOFF, Phase.FAILED))

#: Phases without a process from which it is started if somebody waits.
_COMING: Final = frozenset((Phase.STOPPED, Phase.BACKOFF))

#: Fields that a backend's own list says nothing about, whatever it says.
_OURS: Final = frozenset(("id", "object", "created", "owned_by", "aliases", "tags", "status"))

#: Longest name or value that is believed, in characters, and the most of them.
_MAX_TEXT: Final = 256
_MAX_FIELDS: Final = 64


@attrs.frozen
class BackendInfo:
    """What a backend says about its model.

    Attributes:
        tags: Its tags.
        more: Fields of its entry that are not the router's: ``meta``, ``architecture`` …
    """

    tags: tuple[str, ...] = ()
    more: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


def read_backend_info(body: bytes) -> BackendInfo | None:
    """Return what a backend's ``/v1/models`` says about its only model.

    Returns:
        None if it is not such a list, or has several models.
    """
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    entry = _only(document, "data")
    if entry is None:
        return None
    more = {k: v for k, v in entry.items() if k not in _OURS and len(k) <= _MAX_TEXT}
    # llama-server has these in a second list, made for Ollama's clients.
    capabilities = (_only(document, "models") or {}).get("capabilities")
    if isinstance(capabilities, list):
        more.setdefault("capabilities", _texts(capabilities))
    return BackendInfo(_texts(entry.get("tags")), dict(list(more.items())[:_MAX_FIELDS]))


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
    """Return what llama.cpp calls the state of a model.

    It knows no word for a pause after a failure. Its own router starts nothing again by
    itself: there a model whose process ended is ``unloaded``, and failed. So it is here, if
    nobody waits for the model; for somebody who does, it is still being loaded.

    Args:
        phase: Its phase.
        awaited: Whether somebody waits for it, or it is to run in any case.
    """
    return "loading" if awaited and phase in _COMING else _STATUS[phase]


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
    """Return the entry of a model in the list, or of one of its presets.

    A preset has an entry of its own, because programs offer ids to choose from, not aliases.

    Args:
        spec: The model.
        statistics: Its state.
        info: What its backend said when it was loaded last.
        args: Its command line, without secrets.
        created_s: When it came here, in seconds since the epoch.
        can_remove: Whether its files may be deleted.
        preset: Which preset; None for the model itself.
    """
    names = [name for name, meant in spec.names().items() if meant == preset]
    value = status_of(statistics.phase, awaited=is_awaited(spec, statistics))
    status: Json = {"value": value, "args": list(args)}
    if value == "unloaded" and statistics.phase in _FAILING:
        status["failed"] = True
        if isinstance(statistics.last_error, BackendExitedError):
            status["exit_code"] = statistics.last_error.returncode
    inputs = ["text"] if spec.mmproj is None else ["text", "image"]
    entry: Json = {
        "id": names[0],
        "object": "model",
        "created": created_s,
        "owned_by": "llama-router",
        "aliases": names[1:],
        "tags": [],
        "status": status,
        "architecture": {"input_modalities": inputs, "output_modalities": ["text"]},
        "source": "cache" if spec.state is ModelState.AUTO else "preset",
        "can_remove": can_remove and preset is None,
    }
    if info is not None:
        entry |= info.more
        entry["tags"] = list(info.tags)
    return entry


def is_awaited(spec: ModelSpec, statistics: ModelStatistics) -> bool:
    """Say whether somebody waits for a model, or it is started again in any case."""
    failing = statistics.phase in _FAILING
    return statistics.queued > 0 or (spec.keep_loaded and failing)


def downloading_entry(
    name: str, done_bytes: int, total_bytes: int | None, *, created_s: int
) -> Json:
    """Return the entry of a model that is being fetched."""
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
        **_progress(name, done_bytes, total_bytes),
    }


def router_props(version: str) -> Json:
    """Return the router's own ``/props``."""
    return {
        "role": "router",
        "max_instances": 0,  # as many as their groups and the memory allow
        "models_autoload": True,
        # llama.cpp's UI expects these of every server.
        "model_alias": "llama-router",
        "model_path": "none",
        "default_generation_settings": {"params": {}, "n_ctx": 0},
        "ui_settings": {},
        "build_info": f"b0-llama-router-{version}",
        "cors_proxy_enabled": False,
    }


def status_event(
    model: str, status: str, phase: Phase, exit_code: int | None, entry: Json | None
) -> Json:
    """Return the event that says that *model* came into *phase*.

    Args:
        model: Its id.
        status: What llama.cpp calls that, see `Told`.
        phase: Its new phase.
        exit_code: Of the process that failed, if one did.
        entry: Its entry in the list, if it is loaded.
    """
    data: Json = {"status": status}
    if status == "unloaded":
        failed = phase in _FAILING
        data["exit_code"] = exit_code if failed and exit_code is not None else int(failed)
    if entry is not None:
        data["info"] = entry
    return {"model": model, "event": "status_change", "data": data}


class Told:
    """What somebody who follows the models was told, so that each change is told once.

    Several phases are one status to llama.cpp: a load that fails, and for which somebody
    waits, is ``loading`` while it starts, while it waits to be tried again, and on its way to
    being given up.
    """

    def __init__(self, phases: Mapping[ModelId, tuple[Phase, bool]]) -> None:
        """Begin with the list: each model's phase, and whether it is awaited (`status_of`)."""
        self._told = {
            model: (phase, _told_status(phase, awaited=awaited))
            for model, (phase, awaited) in phases.items()
        }

    def news(self, model: ModelId, phase: Phase, now: Phase | None, *, awaited: bool) -> str | None:
        """Return the status to tell because *model* came into *phase*; None if it is no news.

        Args:
            model: Which one; all its changes come here, in order.
            phase: Its new phase.
            now: The phase that it has come into since; None if it is not there any more.
            awaited: Whether it is now, see `status_of`.
        """
        if phase in (Phase.DRAINING, Phase.STOPPING):
            return None  # llama.cpp says when it is gone, not when it goes
        before, told = self._told.get(model, (Phase.STOPPED, "unloaded"))
        if before is Phase.BACKOFF and phase is Phase.STOPPED is not now:
            return None  # it is tried again; what became of it comes next
        status = _told_status(phase, awaited=awaited or now in RUNNING)
        self._told[model] = phase, status
        return status if status != told else None


def _told_status(phase: Phase, *, awaited: bool) -> str:
    """Return what is told: that somebody waits for a model at rest, not before it starts."""
    return status_of(phase, awaited=awaited and phase is Phase.BACKOFF)


def progress_event(model: str, progress: float) -> Json:
    """Return the event that says how much of *model* is loaded, 0 to 1.

    The UI knows the names of stages; how far it is over all of them goes for one.
    """
    stage = "text_model"
    said = {"stages": [stage], "current": stage, "value": round(progress, 2)}
    data = {"status": _STATUS[Phase.STARTING], "progress": said}
    return {"model": model, "event": "status_update", "data": data}


def download_event(download: Mapping[str, Any]) -> Json:
    """Return the event about a download.

    Args:
        download: What the router's own API says about it.
    """
    name = download["requested"]
    match download["state"]:
        case "queued":
            data = {"status": "downloading"}
            return {"model": name, "event": "model_status", "data": data}
        case "running":
            data = _progress(name, download["done_bytes"], download["total_bytes"])
            return {"model": name, "event": "download_progress", "data": data}
        case "done":
            return {"model": name, "event": "download_finished", "data": {}}
        case _:
            return {"model": name, "event": "download_failed", "data": {}}


def plain_event(event: str, model: str = "*") -> Json:
    """Return an event that says nothing but its name."""
    return {"model": model, "event": event, "data": {}}


def _progress(name: str, done_bytes: int, total_bytes: int | None) -> Json:
    return {"progress": {name: {"done": done_bytes, "total": total_bytes or 0}}}
