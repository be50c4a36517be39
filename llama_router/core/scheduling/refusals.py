"""Errors with which requests are refused, and their sentences. Pure."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Final

from ...errors.admission import (
    AdmissionError,
    ModelTooLargeError,
    NoMemoryError,
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
    UnknownModelError,
)
from ...errors.backends import BackendError, BackendFailedError, ModelUnloadedError
from ...errors.requests import BodiesFullError, ModelNotLoadedError, RequestCancelledError
from ..config.config import Config
from ..config.names import ModelId
from .placement import Obstacle, Verdict

#: ``Retry-After`` for a full or slow queue, in seconds; queues move at the pace of answers.
QUEUE_RETRY_AFTER_S: Final = 5.0

#: Most names listed in the error for a model that does not exist.
_MAX_LISTED: Final = 20


def no_room_for_body(waited_s: float) -> BodiesFullError:
    """Return the error for a body that found no room in the memory of all bodies."""
    return BodiesFullError(
        "the bodies of other requests take up all the memory that they may (max_bodies_mib), and "
        f"none of it was given back within {waited_s:g} s: try again later"
    )


def unknown(name: str, config: Config) -> UnknownModelError:
    """Return the error for an unknown name; it lists the models, or the presets of one model."""
    named = f"no model or alias is named {name!r}"
    model = config.model_for_preset(name, config.models.keys())
    if model is None:
        listed = [each for each, spec in config.models.items() if not spec.unlisted]
        return UnknownModelError(f"{named}; there are: {_listed(listed)}")
    return UnknownModelError(
        f"{named}, and model {str(model)!r} has no such preset; it has: {_presets(model, config)}"
    )


def unknown_to_key(name: str, config: Config, usable: Collection[ModelId]) -> UnknownModelError:
    """Return the error for a name that an API key may not use; *usable* are its models."""
    refused = f"there is no model {name!r}, or this API key may not use it"
    model = config.model_for_preset(name, usable)
    if model is None:
        listed = [each for each in usable if not config.models[each].unlisted]
        return UnknownModelError(f"{refused}; it may use: {_listed(listed)}")
    # Also if there is such a model: the answer must not depend on that.
    return UnknownModelError(
        f"{refused}; the presets of model {str(model)!r} are: {_presets(model, config)}"
    )


def _presets(model: ModelId, config: Config) -> str:
    return _listed([f"{model}:{preset}" for preset in config.models[model].presets])


def _listed(names: Collection[str]) -> str:
    known = ", ".join(repr(str(name)) for name in islice(names, _MAX_LISTED))
    more = len(names) - _MAX_LISTED
    return (known + (f" and {more} more" if more > 0 else "")) or "none"


def no_place(model: ModelId, verdict: Verdict, config: Config) -> AdmissionError:
    """Return the error for requests of a model that cannot start whatever leaves."""
    if any(key.models is not None for key in config.api_keys.values()):
        # The client's key may be one that must not learn which other models exist.
        return NoMemoryError(
            f"there is not enough memory for model {str(model)!r} beside the models that are kept "
            "loaded, or at all: ask the operator of the router"
        )
    match verdict.obstacle:
        case Obstacle.TOO_LARGE:
            return ModelTooLargeError(
                f"{verdict.reason}. Use a smaller quantisation or context, or correct memory_mib "
                f"of model {str(model)!r}"
            )
        case Obstacle.NO_DEVICE:
            return NoMemoryError(
                f"{verdict.reason}. Correct its devices, or see in `llama-router status` whether "
                "a driver cannot be read"
            )
        case _:
            return NoMemoryError(f"{verdict.reason}. Unload one of them")


def removed(model: ModelId) -> UnknownModelError:
    """Return the error for requests that waited for a model which a reload removed."""
    return UnknownModelError(f"model {str(model)!r} was removed from the configuration")


def not_loaded(model: ModelId) -> ModelNotLoadedError:
    """Return the error for a request that may not load its model."""
    return ModelNotLoadedError(
        f"model {str(model)!r} is not loaded, and the request may not load it (autoload = false): "
        f"load it first, by POST /models/load or 'llama-router load {model}'",
        param="model",
    )


def unloaded(model: ModelId) -> ModelNotLoadedError:
    """Return the error for requests that waited for a model which was unloaded by request."""
    return ModelNotLoadedError(
        f"model {str(model)!r} was unloaded by request while this request waited for it: send it "
        "again to load the model",
        param="model",
    )


def queue_full(model: ModelId, queued: int) -> QueueFullError:
    """Return the error for a request over ``max_queued``."""
    return QueueFullError(
        f"{queued} requests already wait for model {str(model)!r} (max_queued)",
        retry_after_s=QUEUE_RETRY_AFTER_S,
    )


def queue_timeout(model: ModelId, limit_s: float, awaited: str) -> QueueTimeoutError:
    """Return the error for a request over ``max_queue_wait_s``; *awaited* is the obstacle."""
    return QueueTimeoutError(
        f"the request waited {limit_s:g} s (max_queue_wait_s) for model {str(model)!r}: {awaited}",
        retry_after_s=QUEUE_RETRY_AFTER_S,
    )


def failed(model: ModelId, error: BackendError | None, wait_s: float) -> BackendFailedError:
    """Return the error for a model that was given up.

    Args:
        model: The model.
        error: Its last failure.
        wait_s: Seconds of the cool-down that are left. If none are, the model is refused because
            it may not take the place of others.
    """
    if wait_s > 0:
        until = f"is not tried again for {wait_s:.0f} s"
    else:
        until = (
            "does not take the place of a loaded model before its cause is mended "
            f"(then `llama-router load {model}` tries it)"
        )
    refusal = BackendFailedError(
        f"model {str(model)!r} {until}, because its backend failed: {error}"
    )
    refusal.cause = error.cause if error is not None else None
    refusal.retry_after_s = None if refusal.permanent else wait_s
    return refusal


def cut_by_unload(model: ModelId) -> ModelUnloadedError:
    """Return the error that ends a connection which only listened when its model was stopped."""
    return ModelUnloadedError(
        f"model {str(model)!r} was unloaded, and this connection, on which the client had sent "
        "nothing for a while, did not keep it loaded: connect again to load it"
    )


def shutting_down() -> ShuttingDownError:
    """Return the error for requests that are not served yet when the router stops."""
    return ShuttingDownError("the router is shutting down and starts nothing new")


def cut_by_shutdown() -> ShuttingDownError:
    """Return the error that ends a stream at the router's drain deadline."""
    return ShuttingDownError("the router is shutting down; the answer was cut off")


def replaced() -> RequestCancelledError:
    """Return the error that ends a request when its conversation goes on with another one."""
    return RequestCancelledError("cancelled: the client sent another request of the conversation")


def stopped_by_client() -> RequestCancelledError:
    """Return the error that ends a request whose conversation its client stopped."""
    return RequestCancelledError("cancelled: the client stopped the conversation while it waited")


def cancelled() -> RequestCancelledError:
    """Return the error that ends a request which was cancelled through the admin API."""
    return RequestCancelledError("the request was cancelled by the operator of the router")
