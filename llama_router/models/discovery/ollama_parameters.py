"""Parameters of a Modelfile as settings of a model: arguments, and defaults of requests. Pure.

Source: https://docs.ollama.com/modelfile#parameter.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

#: Parameters with the same name in the requests that llama-server takes.
_SAME: Final = (
    *("temperature", "top_p", "min_p", "typical_p", "seed", "top_k", "repeat_last_n"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("mirostat", "mirostat_tau", "mirostat_eta"),
)


class OllamaParameters(msgspec.Struct, kw_only=True):
    """The parameters of one model that have a counterpart; others are ignored, as Ollama does."""

    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    mirostat: int | None = None
    seed: int | None = None
    top_k: int | None = None
    repeat_last_n: int | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    num_ctx: int | None = None
    num_gpu: int | None = None
    num_thread: int | None = None
    num_batch: int | None = None
    stop: str | list[str] | None = None


def args_of(parameters: OllamaParameters) -> tuple[str, ...]:
    """Return the arguments of llama-server for parameters that count when a model is loaded."""
    options = (
        ("--ctx-size", parameters.num_ctx),
        ("--batch-size", parameters.num_batch),
        ("--threads", parameters.num_thread),
    )
    args = [word for name, value in options if value and value > 0 for word in (name, str(value))]
    # Ollama's own choice is -1; 0 is a deliberate one.
    if parameters.num_gpu is not None and parameters.num_gpu >= 0:
        args += ["--n-gpu-layers", str(parameters.num_gpu)]
    return tuple(args)


def params_of(parameters: OllamaParameters) -> dict[str, Any]:
    """Return the other parameters, as requests for a backend have them."""
    params = {
        name: value
        for name in _SAME
        if (value := getattr(parameters, name)) is not None and math.isfinite(value)
    }
    if parameters.num_keep is not None:
        params["n_keep"] = parameters.num_keep
    # Negative means without a limit, which is the default of backends.
    if parameters.num_predict is not None and parameters.num_predict >= 0:
        params["max_tokens"] = parameters.num_predict
    if parameters.stop:
        params["stop"] = parameters.stop
    return params
