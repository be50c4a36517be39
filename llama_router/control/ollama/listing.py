"""What Ollama's API says about models: ``/api/tags``, ``/api/ps``, ``/api/show``. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final

import attrs

from ...core.access.gate import Caller
from ...core.config.config import Config
from ...core.config.names import ResolvedModel
from ...core.config.specs import ModelSpec
from ...hub.names import without_host
from ...models.discovery.header import Header
from ...models.discovery.kinds import Kind, kind_of
from ...models.discovery.naming import quant_of
from .answers import timestamp

#: The version of Ollama's API that is spoken. Clients refuse servers that are too old.
API_VERSION: Final = "0.12.6"

#: What Ollama says of a model that stays for ever: Go's longest duration from now.
_FOR_EVER_S: Final = 106_751 * 86_400.0

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@attrs.frozen(kw_only=True)
class File:
    """What is known of a model's file; all of it is unknown for a model without one.

    Attributes:
        size_bytes: Of all its parts.
        modified_s: When it was written, in seconds since the epoch.
        real_path: Where links lead to.
        header: What it says about itself, if it is a GGUF file.
    """

    size_bytes: int = 0
    modified_s: float = 0.0
    real_path: str = ""
    header: Header | None = None


@attrs.frozen(kw_only=True)
class Running:
    """A model that is loaded.

    Attributes:
        memory_bytes: What its processes have in memory.
        expires_s: When it goes if nobody uses it, in seconds since the epoch; infinite for never.
    """

    memory_bytes: int
    expires_s: float


def meaning_of(config: Config, name: str) -> ResolvedModel | None:
    """Return what *name* stands for.

    As it is; or without Ollama's ``:latest``; or as the hub's name that its address has.
    """
    plain = name.removesuffix(":latest")
    for spelling in (name, plain, without_host(plain)):
        if (meaning := config.find(spelling)) is not None:
            return meaning
    return None


def meant_by(config: Config, name: str) -> ResolvedModel | None:
    """Return what a request that needs *name* means; the default model may stand in for it."""
    return meaning_of(config, name) or config.meant(name)


def find(config: Config, name: str, asker: Caller, *, needed: bool = False) -> ModelSpec:
    """Return the model that *name* means.

    Args:
        config: The configuration in force.
        name: As the client wrote it.
        asker: Who asks.
        needed: The request needs the model, so that the default one may stand in for it.

    Raises:
        UnknownModelError: if there is none that *asker* may use.
    """
    meaning = (meant_by if needed else meaning_of)(config, name)
    if meaning is None:
        raise asker.unknown(name, config)
    spec = config.models[meaning.model]
    asker.check_model(spec, name, config)
    return spec


def listed(spec: ModelSpec, file: File) -> list[dict[str, Any]]:
    """Return a model as it stands in ``/api/tags``, and each of its presets.

    Ollama has the same model under several tags in its list, too: the digest is the same.
    """
    about = {
        "modified_at": timestamp(file.modified_s),
        "size": file.size_bytes,
        "digest": digest(spec, file),
        "details": details(spec, file),
    }
    names = (str(spec.id), *(f"{spec.id}:{preset}" for preset in spec.presets))
    return [{"name": name, "model": name, **about} for name in names]


def running(spec: ModelSpec, file: File, now: Running, *, now_s: float) -> dict[str, Any]:
    """Return a model as it stands in ``/api/ps``.

    Where its memory is, nobody knows: the part on a GPU is said to be 0.
    """
    expires_s = now_s + _FOR_EVER_S if math.isinf(now.expires_s) else now.expires_s
    return {
        "name": str(spec.id),
        "model": str(spec.id),
        "size": now.memory_bytes,
        "digest": digest(spec, file),
        "details": details(spec, file),
        "expires_at": timestamp(min(expires_s, now_s + _FOR_EVER_S)),
        "size_vram": 0,
    }


def shown(spec: ModelSpec, file: File) -> dict[str, Any]:
    """Return a model as ``/api/show`` describes it."""
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


def details(spec: ModelSpec, file: File) -> dict[str, Any]:
    """Return what kind of model it is, as far as its file says."""
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


def digest(spec: ModelSpec, file: File) -> str:
    """Return 64 hexadecimal digits that change when the file does.

    For a file of the hub cache they are its SHA-256. Elsewhere the content would have to be
    read for that, so they are a hash of name, size and time.
    """
    name = file.real_path.rpartition("/")[2]
    if _SHA256.fullmatch(name):
        return name
    about = f"{spec.id}\n{file.real_path}\n{file.size_bytes}\n{file.modified_s}"
    return hashlib.sha256(about.encode("utf-8", "surrogatepass")).hexdigest()


def capabilities(spec: ModelSpec, header: Header | None) -> list[str]:
    """Return what a model can do, from its header and its chat template."""
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
