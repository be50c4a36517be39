"""Causes of starts and stops of backends: as values for records and metrics, and in words. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import attrs

from ..config.names import ModelId


class StartCause(StrEnum):
    """Why a backend was started. The values are public."""

    REQUEST = "request"
    KEEP_LOADED = "keep_loaded"
    HOME = "home"
    RETURN = "return"  # it was replaced, for a changed configuration or after a hang


class StopCause(StrEnum):
    """Why a backend was stopped. The values are public."""

    SWAP = "swap"
    IDLE = "idle"
    UNLOAD = "unload"
    RELOAD = "reload"
    HANG = "hang"
    RENEW = "renew"


@attrs.frozen
class StopReason:
    """Why a backend is stopped.

    Attributes:
        cause: The cause.
        words: The same in words, for logs.
        for_model: The model that takes its place.
    """

    cause: StopCause
    words: str
    for_model: ModelId | None = None

    def __str__(self) -> str:
        return self.words


OUTDATED: Final = StopReason(StopCause.RELOAD, "its configuration changed")
UNLOADED: Final = StopReason(StopCause.UNLOAD, "it was unloaded by request")
UNSQUEEZED: Final = StopReason(StopCause.RENEW, "there is room for all of it again")
HANGS: Final = StopReason(StopCause.HANG, "it hangs")


def makes_way(for_model: ModelId, role: str = "") -> StopReason:
    """Return the reason of a model in whose place *for_model* starts.

    Args:
        for_model: That model.
        role: Its role, if it starts for that and not for a request: ``home``, for example.
    """
    name = f"the {role} model" if role else "model"
    return StopReason(StopCause.SWAP, f"{name} {str(for_model)!r} takes its place", for_model)


def was_idle(stays_s: float, setting: str) -> StopReason:
    """Return the reason of a model that was idle for *stays_s* seconds, as *setting* says."""
    return StopReason(StopCause.IDLE, f"it was idle for {stays_s:g} s ({setting})")
