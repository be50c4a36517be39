"""Facts about the service of a model: context length and capabilities. Pure.

The sources are the model's settings, its command, and the latest answer of its backend. The
lists of all APIs take the facts from here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from ...core.config.placeholders import names_in
from ...core.config.specs import Capability, ModelSpec
from ...models.discovery.found import ModelKind

Reported: TypeAlias = Mapping[str, Any]
"""Fields of a model's entry in the list of its backend, from the last load."""

_NOTHING: Final[Reported] = MappingProxyType({})

#: Options with the context of the whole server. ``-c`` has other meanings in other programs.
#: Sources: llama.cpp, tools/server/README.md; vLLM and SGLang, their ``--help``.
_CONTEXT_OPTIONS: Final = frozenset(("--ctx-size", "--max-model-len", "--context-length"))
_SHORT_CONTEXT_OPTIONS: Final = frozenset(("-c",))
_CONTEXT_VARIABLE: Final = "LLAMA_ARG_CTX_SIZE"

#: llama-server divides its context by the number of its slots, unless they share one.
_SLOT_OPTIONS: Final = frozenset(("--parallel", "-np"))
_SHARED_OPTIONS: Final = frozenset(("--kv-unified", "-kvu"))
_SLOTS_VARIABLE: Final = "LLAMA_ARG_N_PARALLEL"
_SHARED_VARIABLE: Final = "LLAMA_ARG_KV_UNIFIED"

_PROJECTOR_OPTIONS: Final = frozenset(("--mmproj", "-mm", "--mmproj-url", "-mmu"))
_NO_PROJECTOR_OPTIONS: Final = frozenset(("--no-mmproj",))
_PROJECTOR_VARIABLES: Final = frozenset(("LLAMA_ARG_MMPROJ", "LLAMA_ARG_MMPROJ_URL"))
_EMBEDDING_OPTIONS: Final = frozenset(("--embedding", "--embeddings"))
_EMBEDDING_VARIABLES: Final = frozenset(("LLAMA_ARG_EMBEDDINGS",))
_RERANK_OPTIONS: Final = frozenset(("--rerank", "--reranking"))
_RERANK_VARIABLES: Final = frozenset(("LLAMA_ARG_RERANKING",))

#: Tasks of models that do nothing else.
_ONLY: Final = {ModelKind.EMBEDDING: Capability.EMBEDDING, ModelKind.RERANK: Capability.RERANK}

#: Values of a variable that turn its option off.
_OFF: Final = frozenset(("", "0", "off", "false", "disabled"))


def context_length(
    spec: ModelSpec, *, trained: int | None = None, reported: Reported = _NOTHING
) -> int | None:
    """Return the context of one request to a model, in tokens; None if it is unknown.

    The smallest known value counts: of the context that the model was trained for, of the
    one in its command, and of the one that its backend reported. A ``context_length`` in the
    configuration takes the place of the first two.

    Args:
        spec: The model.
        trained: Context that the model was trained for, from its file.
        reported: What its backend reported.
    """
    if spec.context_length is not None:
        stated = [spec.context_length]
    else:
        candidates = (trained, _meta(reported, "n_ctx_train"), _context_of_command(spec))
        stated = [tokens for tokens in candidates if tokens]
    served = _meta(reported, "n_ctx") or _positive(reported.get("max_model_len"))  # or vLLM's
    return min(stated if served is None else (*stated, served), default=None)


def parameter_count(reported: Reported) -> int | None:
    """Return the number of parameters that a backend reported; None if it reported none."""
    return _meta(reported, "n_params")


def serves_only(spec: ModelSpec) -> Capability | None:
    """Return the only kind of request that a model's command allows; None for no such limit."""
    if _is_on(spec, _RERANK_OPTIONS, _RERANK_VARIABLES):
        return Capability.RERANK
    if _is_on(spec, _EMBEDDING_OPTIONS, _EMBEDDING_VARIABLES):
        return Capability.EMBEDDING
    return None


def abilities(
    spec: ModelSpec,
    *,
    kind: ModelKind | None,
    takes_tools: bool,
    thinks: bool,
    reported: Reported = _NOTHING,
) -> list[Capability]:
    """Return the abilities of a model; empty if nothing is known of them.

    They are those of its settings, or else found out from its command, its file, and the report
    of its backend.

    Args:
        spec: The model.
        kind: Its task, from its file; None if that is not known.
        takes_tools: Whether its chat template passes tools on.
        thinks: Whether its chat template has a place for thoughts.
        reported: What its backend reported.
    """
    if spec.capabilities is not None:
        return list(spec.capabilities)
    only = serves_only(spec) or (None if kind is None else _ONLY.get(kind))
    if only is not None:
        return [only]
    sees = accepts_images(spec, reported)
    if kind is None and not sees:
        return []
    found = [Capability.COMPLETION]
    if takes_tools:
        found.append(Capability.TOOLS)
    if sees:
        found.append(Capability.VISION)
    if thinks:
        found.append(Capability.THINKING)
    return found


def accepts_images(spec: ModelSpec, reported: Reported = _NOTHING) -> bool:
    """Return whether a model gets a projector, by its command or by its backend's report."""
    if spec.capabilities is not None:
        return Capability.VISION in spec.capabilities
    words = tuple(_words(spec))
    if _NO_PROJECTOR_OPTIONS.intersection(words):
        return False
    capabilities = reported.get("capabilities")
    return (
        _is_on(spec, _PROJECTOR_OPTIONS, _PROJECTOR_VARIABLES)
        or any("mmproj" in names_in(word) for word in words)
        or (isinstance(capabilities, list | tuple) and "multimodal" in capabilities)
    )


def described(spec: ModelSpec) -> dict[str, Any]:
    """Return the texts and facts about a model that only its settings have."""
    found = {"description": spec.description, "metadata": dict(spec.metadata)}
    return {name: value for name, value in found.items() if value}


def _meta(reported: Reported, name: str) -> int | None:
    """Return a number of the object ``meta``, which llama-server's list has."""
    meta = reported.get("meta")
    return _positive(meta.get(name)) if isinstance(meta, dict) else None


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _context_of_command(spec: ModelSpec) -> int | None:
    options = _CONTEXT_OPTIONS
    if any("llama" in word for word in _words(spec)):
        options |= _SHORT_CONTEXT_OPTIONS
    total = _number(spec, options, _CONTEXT_VARIABLE)
    slots = _number(spec, _SLOT_OPTIONS, _SLOTS_VARIABLE)
    if not total or not slots or _is_on(spec, _SHARED_OPTIONS, frozenset((_SHARED_VARIABLE,))):
        return total
    return total // slots or None


def _number(spec: ModelSpec, options: Collection[str], variable: str) -> int | None:
    """Return the number of the last of *options*, or of *variable*; None if it is not above 0."""
    words = list(_words(spec))
    found = [word for option, word in pairwise(words) if option in options]
    found += [
        value
        for option, equals, value in (word.partition("=") for word in words)
        if equals and option in options
    ]
    text = found[-1] if found else spec.spawn.env.get(variable, "")
    return _positive(int(text)) if text.isdecimal() and len(text) < _MAX_DIGITS else None


#: No context has so many digits; longer numbers are not converted.
_MAX_DIGITS: Final = 12


def _is_on(spec: ModelSpec, options: frozenset[str], variables: frozenset[str]) -> bool:
    if any(word.partition("=")[0] in options for word in _words(spec)):
        return True
    return any(spec.spawn.env.get(name, "").lower() not in _OFF for name in variables)


def _words(spec: ModelSpec) -> Iterator[str]:
    yield from spec.spawn.command
    yield from spec.spawn.args
