"""Events of ``/models/sse`` in the format of llama.cpp's router. Pure.

Source: llama.cpp, tools/server/server-models.cpp (router mode), at 0c1e570.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...core.config.names import ModelId
from ...core.scheduling.lifecycle import Phase
from .entries import AFTER_FAILURE, RUNNING, SLEEPING, STATUSES, Json, download_progress, status_of


def status_event(
    model: str, status: str, phase: Phase, exit_code: int | None, entry: Json | None
) -> Json:
    """Return the event that *model* has another status.

    Args:
        model: Its id.
        status: llama.cpp's status, from a `StatusDeduplicator`.
        phase: Its new phase.
        exit_code: Exit code of the process that failed, if one did.
        entry: Its entry in the list, if it is loaded.
    """
    data: Json = {"status": status}
    if status == "unloaded":
        failed = phase in AFTER_FAILURE
        data["exit_code"] = exit_code if failed and exit_code is not None else int(failed)
    if entry is not None:
        data["info"] = entry
    return {"model": model, "event": "status_change", "data": data}


class StatusDeduplicator:
    """Turns phases into statuses for one client, and drops repeated ones.

    Several phases are one status: a load that fails while a request waits for it is
    ``loading`` while it starts, in the pause before the next attempt, and until it is given up.
    """

    def __init__(self, phases: Mapping[ModelId, tuple[Phase, bool]]) -> None:
        """Take the statuses of the list of models as already sent.

        Args:
            phases: Each model's phase, and whether it is awaited (`status_of`).
        """
        self._last = {
            model: (phase, _sent_status(phase, awaited=awaited))
            for model, (phase, awaited) in phases.items()
        }

    def next_status(
        self, model: ModelId, phase: Phase, now: Phase | None, *, awaited: bool
    ) -> str | None:
        """Return the status to send because *model* reached *phase*; None if it is unchanged.

        Args:
            model: The model; all its changes must come here, in order.
            phase: Its new phase.
            now: Its present phase, which may be a later one; None if it was removed.
            awaited: Whether it is awaited now, see `status_of`.
        """
        if phase in (Phase.DRAINING, Phase.STOPPING):
            return None  # llama.cpp reports the end of an unload, not its start
        last_phase, last_status = self._last.get(model, (Phase.STOPPED, "unloaded"))
        if last_phase is Phase.BACKOFF and phase is Phase.STOPPED is not now:
            return None  # another attempt follows, and its result is the next event
        status = _sent_status(phase, awaited=awaited or now in RUNNING)
        self._last[model] = phase, status
        return status if status != last_status else None


def _sent_status(phase: Phase, *, awaited: bool) -> str:
    """Return the status to send: a stopped model is ``loading`` from its start on, not before."""
    return status_of(phase, awaited=awaited and phase is Phase.BACKOFF)


def sleep_event(model: str, entry: Json) -> Json:
    """Return the event that the backend of *model*, whose *entry* is given, fell asleep or woke."""
    status = entry["status"]["value"]
    data = {"status": status} if status == SLEEPING else {"status": status, "info": entry}
    return {"model": model, "event": "status_change", "data": data}


def progress_event(model: str, progress: float) -> Json:
    """Return the event that a part of *model* is loaded, 0 to 1.

    The UI adds up stages by their names; one stage stands for all of them.
    """
    stage = "text_model"
    stages = {"stages": [stage], "current": stage, "value": round(progress, 2)}
    data = {"status": STATUSES[Phase.STARTING], "progress": stages}
    return {"model": model, "event": "status_update", "data": data}


def download_event(name: str, state: str, done_bytes: int, total_bytes: int | None) -> Json:
    """Return the event about the download of *name*.

    Args:
        name: The model reference that the client sent.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        done_bytes: Bytes that are on disk.
        total_bytes: Size of all files; None if it is unknown.
    """
    match state:
        case "queued":
            data = {"status": "downloading"}
            return {"model": name, "event": "model_status", "data": data}
        case "running":
            data = download_progress(name, done_bytes, total_bytes)
            return {"model": name, "event": "download_progress", "data": data}
        case "done":
            return {"model": name, "event": "download_finished", "data": {}}
        case _:
            return {"model": name, "event": "download_failed", "data": {}}


def plain_event(event: str, model: str = "*") -> Json:
    """Return an event without data."""
    return {"model": model, "event": event, "data": {}}
