"""Models by Ollama's names, and in the form of ``/api/tags``, ``/api/ps``, ``/api/show``. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from types import MappingProxyType
from typing import Any, Final

import attrs

from ...core.access.caller import Caller
from ...core.apis.ollama import timestamp
from ...core.config.config import Config
from ...core.config.names import ResolvedModel
from ...core.config.specs import Capability, ModelSpec
from ...hub.references import without_host
from ...models.discovery.found import Header, ModelKind, kind_of
from ...models.discovery.naming import quant_of
from ..llama_cpp.model_facts import (
    Reported,
    abilities,
    context_length,
    described,
    parameter_count,
)

#: The version of Ollama that ``/api/version`` returns, and its only place in the product.
#:
#: Clients refuse servers that are older than the version they need; none refuses a newer one.
#: So this is the newest release of Ollama when the line was last changed, in November 2026:
#: tags of https://github.com/ollama/ollama. Raise it with each release of the router.
API_VERSION: Final = "0.34.4"

#: Time to the expiry of a model that is never unloaded: Go's longest duration, as in Ollama.
_NEVER_S: Final = 106_751 * 86_400.0

_SHA256: Final = re.compile(r"[0-9a-f]{64}")

#: The number of parameters in the name of a file or model: ``7B``, ``8x7b``, ``0.6B``, ``270m``.
_SIZE_IN_NAME: Final = re.compile(
    r"(?:^|[-_ .:])((?:[0-9]{1,3}x)?[0-9]{1,4}(?:\.[0-9]{1,2})?[BbMm])(?=[-_ .:]|$)"
)

_NOTHING: Final[Reported] = MappingProxyType({})


@attrs.frozen(kw_only=True)
class ModelFile:
    """Facts about a model's file; the default values if the model has none.

    Attributes:
        size_bytes: Size of all its parts.
        modified_s: Time of its last change, in seconds since the epoch.
        real_path: The path with all links resolved.
        header: Its header, if it is a GGUF file.
    """

    size_bytes: int = 0
    modified_s: float = 0.0
    real_path: str = ""
    header: Header | None = None


@attrs.frozen(kw_only=True)
class Residency:
    """The state of a loaded model.

    Attributes:
        memory_bytes: Resident memory of its processes.
        expires_s: Time at which it is unloaded if it stays idle, in seconds since the epoch;
            infinite for never.
    """

    memory_bytes: int
    expires_s: float


def lookup(config: Config, name: str) -> ResolvedModel | None:
    """Return the model of that name, or None.

    The name counts as it is; else without Ollama's ``:latest``; else without the hub's host.
    """
    plain = name.removesuffix(":latest")
    for spelling in (name, plain, without_host(plain)):
        if (resolved := config.lookup(spelling)) is not None:
            return resolved
    return None


def resolve_request(config: Config, name: str) -> ResolvedModel | None:
    """Return the model for a request that names *name*: that one, or the default model."""
    return lookup(config, name) or config.resolve_request(name)


def find_model(config: Config, name: str, caller: Caller, *, or_default: bool = False) -> ModelSpec:
    """Return the model of that name.

    Args:
        config: The configuration in force.
        name: The name that the client used.
        caller: The client.
        or_default: Whether the default model may stand in for it.

    Raises:
        UnknownModelError: if there is none that *caller* may use.
    """
    resolved = (resolve_request if or_default else lookup)(config, name)
    if resolved is None:
        raise caller.unknown(name, config)
    spec = config.models[resolved.model]
    caller.check_model(spec, name, config)
    return spec


def tags_entries(
    spec: ModelSpec, file: ModelFile, reported: Reported = _NOTHING
) -> list[dict[str, Any]]:
    """Return the entries of a model and of its presets in ``/api/tags``.

    Args:
        spec: The model.
        file: Its file, with the whole header.
        reported: What its backend reported at the last load.
    """
    names = (str(spec.id), *(f"{spec.id}:{preset}" for preset in spec.presets))
    return [
        {
            "name": name,
            "model": name,
            "modified_at": timestamp(file.modified_s),
            "size": file.size_bytes,
            "digest": digest(name, file),
            "details": details(spec, file, reported),
            **_facts(spec, file, reported),
        }
        for name in names
    ]


def ps_entry(
    spec: ModelSpec,
    file: ModelFile,
    residency: Residency,
    *,
    now_s: float,
    reported: Reported = _NOTHING,
) -> dict[str, Any]:
    """Return the entry of a loaded model in ``/api/ps``.

    The part of its memory that is on a GPU is unknown; ``size_vram`` is 0.
    """
    expires_s = now_s + _NEVER_S if math.isinf(residency.expires_s) else residency.expires_s
    return {
        "name": str(spec.id),
        "model": str(spec.id),
        "size": residency.memory_bytes,
        "digest": digest(str(spec.id), file),
        "details": details(spec, file, reported),
        "expires_at": timestamp(min(expires_s, now_s + _NEVER_S)),
        "size_vram": 0,
        **_facts(spec, file, reported),
    }


def show_answer(spec: ModelSpec, file: ModelFile, reported: Reported = _NOTHING) -> dict[str, Any]:
    """Return the answer of ``/api/show``."""
    header = file.header
    facts = _facts(spec, file, reported)
    context = facts.pop("context_length", None)
    return {
        "license": "",
        "modelfile": f"# Settings of this model are in router.toml.\nFROM {spec.path or spec.id}\n",
        # Clients read the context from here, too. The form is Ollama's.
        "parameters": "" if context is None else f"{'num_ctx':<30} {context}",
        "template": (header and header.chat_template) or "",
        "details": details(spec, file, reported),
        "model_info": _model_info(header, context, parameter_count(reported)),
        "modified_at": timestamp(file.modified_s),
        **facts,
    }


def details(spec: ModelSpec, file: ModelFile, reported: Reported = _NOTHING) -> dict[str, Any]:
    """Return format, architecture, size and quantization, as far as they are known."""
    header = file.header
    family = "" if header is None else header.architecture
    quant = (header and header.quant) or (spec.path and quant_of(spec.path)) or ""
    return {
        "parent_model": "",
        "format": "" if header is None else "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": _parameter_size(spec, header, reported),
        "quantization_level": quant,
    }


def digest(name: str, file: ModelFile) -> str:
    """Return 64 hexadecimal digits that differ between names, and change when the file does.

    Clients take two entries with one digest for the same model.
    """
    # A SHA-256 of the content is only known for a file of the hub cache, whose name it is.
    blob = file.real_path.rpartition("/")[2]
    identity = f"{file.real_path}\n{file.size_bytes}\n{file.modified_s}"
    content = blob if _SHA256.fullmatch(blob) else identity
    return hashlib.sha256(f"{name}\n{content}".encode("utf-8", "surrogatepass")).hexdigest()


def capabilities(
    spec: ModelSpec, header: Header | None, reported: Reported = _NOTHING
) -> list[str]:
    """Return the abilities of a model, in Ollama's words; see `abilities`.

    A model of which nothing is known answers chats, and one that only reranks does nothing that
    Ollama has.
    """
    found = abilities(
        spec,
        kind=ModelKind.CHAT if header is None else kind_of(header),
        takes_tools=header is not None and header.takes_tools,
        thinks=header is not None and header.thinks,
        reported=reported,
    )
    is_declared = spec.capabilities is not None
    return [] if found == [Capability.RERANK] and not is_declared else list(found)


def _facts(spec: ModelSpec, file: ModelFile, reported: Reported) -> dict[str, Any]:
    """Return the fields that all lists share: abilities, context, and texts of the settings."""
    header = file.header
    trained = None if header is None else header.context_length
    context = context_length(spec, trained=trained, reported=reported)
    return {
        "capabilities": capabilities(spec, header, reported),
        **({} if context is None else {"context_length": context}),
        **described(spec),
    }


def _parameter_size(spec: ModelSpec, header: Header | None, reported: Reported) -> str:
    """Return the number of parameters in Ollama's form; empty if it is unknown."""
    count = parameter_count(reported)
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if count is not None and count >= limit:
            return f"{count / limit:.1f}{unit}"
    if header is not None and header.size_label:
        return header.size_label
    named = _SIZE_IN_NAME.search((spec.path or str(spec.id)).rpartition("/")[2])
    return named[1].upper().replace("X", "x") if named else ""


def _model_info(
    header: Header | None, context: int | None, parameters: int | None
) -> dict[str, Any]:
    # Clients find the context under the architecture, which therefore always has a name.
    architecture = "unknown" if header is None else header.architecture
    found = {
        "general.architecture": architecture,
        "general.parameter_count": parameters,
        f"{architecture}.context_length": context,
    }
    if header is not None:
        found |= {
            "general.basename": header.name,
            "general.file_type": header.file_type,
            f"{architecture}.embedding_length": header.embedding_length,
            f"{architecture}.block_count": header.block_count,
            f"{architecture}.attention.head_count": header.head_count,
            f"{architecture}.pooling_type": header.pooling_type,
        }
    elif context is None and parameters is None:
        return {}
    return {key: value for key, value in found.items() if value is not None}
