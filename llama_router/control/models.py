"""The list of models: OpenAI's shape, with llama.cpp's ``status`` beside it.

Source: https://platform.openai.com/docs/api-reference/models; the ``status`` object is
that of llama.cpp's router mode (tools/server).
"""

from __future__ import annotations

import time
from typing import Any, Final

from quart import Blueprint

from ..core.access import Area
from ..core.config import ModelSpec
from ..core.lifecycle import Phase
from ..core.scheduler import ModelStatistics
from ..errors import BackendExitedError, UnknownModelError
from .context import ControlContext
from .guard import asker, open_to

_STATUS: Final = {
    Phase.STOPPED: "unloaded",
    Phase.STARTING: "loading",
    Phase.READY: "loaded",
    Phase.DRAINING: "loaded",
    Phase.STOPPING: "loaded",
    Phase.BACKOFF: "loading",
    Phase.FAILED: "unloaded",
}


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes under ``/v1/models`` and ``/models``."""
    dispatcher = context.dispatcher
    routes = Blueprint("models", __name__)
    created_s = int(time.time())

    @routes.get("/v1/models")
    @routes.get("/models")
    @open_to(Area.MODELS)
    async def list_models() -> dict[str, Any]:
        statistics = dispatcher.statistics()
        entries = [
            _entry(spec, statistics[model], created_s)
            for model, spec in dispatcher.config.models.items()
            if asker().may_use(spec)
        ]
        return {"object": "list", "data": entries}

    @routes.get("/v1/models/<path:name>")
    @open_to(Area.MODELS)
    async def retrieve_model(name: str) -> dict[str, Any]:
        model = dispatcher.config.resolve(name)
        if model is None:
            raise UnknownModelError(f"no model or alias is named {name!r}")
        spec = dispatcher.config.models[model]
        asker().check_model(spec, name)
        return _entry(spec, dispatcher.statistics()[model], created_s)

    return routes


def _entry(spec: ModelSpec, statistics: ModelStatistics, created_s: int) -> dict[str, Any]:
    status: dict[str, Any] = {"value": _STATUS[statistics.phase]}
    if statistics.phase is Phase.FAILED:
        status["failed"] = True
        if isinstance(statistics.last_error, BackendExitedError):
            status["exit_code"] = statistics.last_error.returncode
    return {
        "id": spec.id,
        "object": "model",
        "created": created_s,
        "owned_by": "llama-router",
        "aliases": list(spec.aliases),
        "tags": [],
        "status": status,
    }
