"""Models by Ollama's names, and in the form of ``/api/tags``, ``/api/ps``, ``/api/show``. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

import attrs

from ...core.access.gate import Caller
from ...core.apis.ollama import timestamp
from ...core.config.config import Config
from ...core.config.names import ResolvedModel
from ...core.config.specs import ModelSpec
from ...hub.references import without_host
from ...models.discovery.found import Header, Kind, kind_of
from ...models.discovery.naming import quant_of

#: The version of Ollama that ``/api/version`` returns, and its only place in the product.
#:
#: Clients refuse servers that are older than the version they need; none refuses a newer one.
#: So this is the newest release of Ollama when the line was last changed, in November 2026:
#: tags of https://github.com/ollama/ollama. Raise it with each release of the router.
API_VERSION: Final = "0.34.4"

#: Time to the expiry of a model that is never unloaded: Go's longest duration, as in Ollama.
_NEVER_S: Final = 106_751 * 86_400.0

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


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


def tags_entries(spec: ModelSpec, file: ModelFile) -> list[dict[str, Any]]:
    """Return the entries of a model and of its presets in ``/api/tags``.

    All have the same digest, as Ollama's entries have for several tags of one model.
    """
    common = {
        "modified_at": timestamp(file.modified_s),
        "size": file.size_bytes,
        "digest": digest(spec, file),
        "details": details(spec, file),
    }
    names = (str(spec.id), *(f"{spec.id}:{preset}" for preset in spec.presets))
    return [{"name": name, "model": name, **common} for name in names]


def ps_entry(
    spec: ModelSpec, file: ModelFile, residency: Residency, *, now_s: float
) -> dict[str, Any]:
    """Return the entry of a loaded model in ``/api/ps``.

    The part of its memory that is on a GPU is unknown; ``size_vram`` is 0.
    """
    expires_s = now_s + _NEVER_S if math.isinf(residency.expires_s) else residency.expires_s
    return {
        "name": str(spec.id),
        "model": str(spec.id),
        "size": residency.memory_bytes,
        "digest": digest(spec, file),
        "details": details(spec, file),
        "expires_at": timestamp(min(expires_s, now_s + _NEVER_S)),
        "size_vram": 0,
    }


def show_answer(spec: ModelSpec, file: ModelFile) -> dict[str, Any]:
    """Return the answer of ``/api/show``."""
    header = file.header
    return {
        "license": "",
        "modelfile": f"# Settings of this model are in router.toml.\nFROM {spec.path or spec.id}\n",
        "parameters": "",
        "template": (header and header.chat_template) or "",
        "details": details(spec, file),
        "model_info": {} if header is None else _model_info(header),
        "capabilities": capabilities(spec, header),
        "modified_at": timestamp(file.modified_s),
    }


def details(spec: ModelSpec, file: ModelFile) -> dict[str, Any]:
    """Return format, architecture and quantization, as far as the file states them."""
    header = file.header
    family = "" if header is None else header.architecture
    quant = (header and header.quant) or (spec.path and quant_of(spec.path)) or ""
    return {
        "parent_model": "",
        "format": "" if header is None else "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "",
        "quantization_level": quant,
    }


def digest(spec: ModelSpec, file: ModelFile) -> str:
    """Return 64 hexadecimal digits that change when the file does.

    For a file of the hub cache they are its SHA-256. For any other they are a hash of name, size
    and time, because a SHA-256 would need the whole content.
    """
    name = file.real_path.rpartition("/")[2]
    if _SHA256.fullmatch(name):
        return name
    identity = f"{spec.id}\n{file.real_path}\n{file.size_bytes}\n{file.modified_s}"
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()


def capabilities(spec: ModelSpec, header: Header | None) -> list[str]:
    """Return the abilities of a model, from its header and its chat template."""
    if header is not None and kind_of(header) is not Kind.CHAT:
        return ["embedding"] if kind_of(header) is Kind.EMBEDDING else []
    found = ["completion"]
    template = (header and header.chat_template) or ""
    if "tools" in template:
        found.append("tools")
    if spec.mmproj is not None:
        found.append("vision")
    if "enable_thinking" in template or "<think>" in template or "reasoning_effort" in template:
        found.append("thinking")
    return found


def _model_info(header: Header) -> dict[str, Any]:
    architecture = header.architecture
    found = {
        "general.architecture": architecture,
        "general.basename": header.name,
        "general.file_type": header.file_type,
        f"{architecture}.context_length": header.context_length,
        f"{architecture}.embedding_length": header.embedding_length,
        f"{architecture}.block_count": header.block_count,
        f"{architecture}.attention.head_count": header.head_count,
        f"{architecture}.pooling_type": header.pooling_type,
    }
    return {key: value for key, value in found.items() if value is not None}
