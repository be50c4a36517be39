"""The sentences with which a request is refused. Pure."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

from ...errors.admission import (
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
    UnknownModelError,
)
from ...errors.backends import BackendError, BackendFailedError
from ...errors.requests import RequestCancelledError
from ..config.config import Config
from ..config.names import ModelId

#: What a client is told to wait after a full or slow queue, in seconds; queues move at
#: the pace of answers.
QUEUE_RETRY_AFTER_S: Final = 5.0

#: Most names listed to a client that asked for a model that does not exist.
_MAX_LISTED: Final = 20


def unknown(name: str, config: Config) -> UnknownModelError:
    """Refuse a name that no model has; say which models, or which presets of one, there are."""
    named = f"no model or alias is named {name!r}"
    model = config.of_preset(name, config.models.keys())
    if model is None:
        return UnknownModelError(f"{named}; there are: {_listed(config.models)}")
    return UnknownModelError(
        f"{named}, and model {str(model)!r} has no such preset; it has: {_presets(model, config)}"
    )


def unknown_to_key(name: str, config: Config, usable: Collection[ModelId]) -> UnknownModelError:
    """Refuse a name of which an API key that is good for *usable* only may not know more."""
    refused = f"there is no model {name!r}, or this API key may not use it"
    model = config.of_preset(name, usable)
    if model is None:
        return UnknownModelError(f"{refused}; it may use: {_listed(usable)}")
    # Also if there is such a model: what is said must not depend on that.
    return UnknownModelError(
        f"{refused}; the presets of model {str(model)!r} are: {_presets(model, config)}"
    )


def _presets(model: ModelId, config: Config) -> str:
    return _listed([f"{model}:{preset}" for preset in config.models[model].presets])


def _listed(names: Collection[str]) -> str:
    known = ", ".join(repr(str(name)) for name in islice(names, _MAX_LISTED))
    more = len(names) - _MAX_LISTED
    return (known + (f" and {more} more" if more > 0 else "")) or "none"


def removed(model: ModelId) -> UnknownModelError:
    """Refuse who waited for a model that a reload took away."""
    return UnknownModelError(f"model {str(model)!r} was removed from the configuration")


def queue_full(model: ModelId, queued: int) -> QueueFullError:
    """Refuse one request more than may wait."""
    return QueueFullError(
        f"{queued} requests already wait for model {str(model)!r} (max_queued)",
        retry_after_s=QUEUE_RETRY_AFTER_S,
    )


def queue_timeout(model: ModelId, limit_s: float, awaited: str) -> QueueTimeoutError:
    """Refuse who waited too long; *awaited* says what for."""
    return QueueTimeoutError(
        f"the request waited {limit_s:g} s (max_queue_wait_s) for model {str(model)!r}: {awaited}",
        retry_after_s=QUEUE_RETRY_AFTER_S,
    )


def failed(model: ModelId, error: BackendError | None, wait_s: float) -> BackendFailedError:
    """Refuse a model that failed too often and has *wait_s* seconds of cool-down left."""
    refusal = BackendFailedError(
        f"model {str(model)!r} is not tried again for {wait_s:.0f} s, because its backend "
        f"failed: {error}",
        retry_after_s=wait_s,
    )
    refusal.cause = error.cause if error is not None else None
    return refusal


def shutting_down() -> ShuttingDownError:
    """Refuse whoever is not served yet when the router stops."""
    return ShuttingDownError("the router is shutting down and starts nothing new")


def cut_by_shutdown() -> ShuttingDownError:
    """End a stream that did not finish before the router's drain deadline."""
    return ShuttingDownError("the router is shutting down; the answer was cut off")


def cancelled() -> RequestCancelledError:
    """End a request that somebody cancelled through the admin API."""
    return RequestCancelledError("the request was cancelled by the operator of the router")
