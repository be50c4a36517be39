"""Reads Ollama's store: each manifest names the blobs of one model. Blocks on files.

Blobs are named by the digest of their content, so a manifest names no other file: one that does
is refused.

Source: ollama/ollama, types/model/name.go, manifest/ and server/images.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from ..files import Unseen, look, read_up_to, reason_of
from .caches import ScanWarnings, names_in
from .discovery.ollama_parameters import OllamaParameters, args_of, params_of
from .discovery.ollama_templates import built_in_template

#: The registry and the owner that names of models leave out.
_DEFAULT_HOST: Final = "registry.ollama.ai"
_DEFAULT_OWNER: Final = "library"
_DEFAULT_TAG: Final = "latest"

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}")
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-f]{64})")

_MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
_MAX_TEXT_BYTES: Final = 1024 * 1024

_PREFIX: Final = "application/vnd.ollama.image."


class OllamaStoreError(Exception):
    """A manifest cannot be used; the text is a clause about it: "it ..."."""


@attrs.frozen(kw_only=True)
class OllamaModel:
    """One model in the store.

    Attributes:
        name: As Ollama lists it: ``gemma3:4b``, ``hf.co/owner/repo:Q4_K_M``.
        path: Its file of weights.
        mmproj: Its projector.
        adapters: LoRA adapters that are applied to it.
        template: llama.cpp's own chat template that is nearest to Ollama's; None if none is.
        system_prompt: Its system message.
        args: Arguments of llama-server for parameters that count when it is loaded.
        default_params: Its other parameters, for requests without them.
    """

    name: str
    path: str
    mmproj: str | None = None
    adapters: tuple[str, ...] = ()
    template: str | None = None
    system_prompt: str | None = None
    args: tuple[str, ...] = ()
    default_params: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @property
    def is_plain(self) -> bool:
        """Return whether it is its file and nothing else, as far as that can be served."""
        return not (self.adapters or self.args or self.default_params)


class _Layer(msgspec.Struct, rename="camel"):
    digest: str
    media_type: str = ""


class _Manifest(msgspec.Struct):
    layers: list[_Layer] | None = None


def read_store(folder: Path, warnings: ScanWarnings) -> Iterator[OllamaModel]:
    """Yield the models in Ollama's store *folder*; warn about unusable ones.

    Models that run on another machine (Ollama's cloud) have no weights, and are left out.
    """
    manifests = folder / "manifests"
    for host, owner, name, tag in _manifests(manifests, warnings):
        path = manifests / host / owner / name / tag
        try:
            model = _read(folder, path, _name_of(host, owner, name, tag))
        except OllamaStoreError as exc:
            warnings.add(path, str(exc))
        except OSError as exc:
            warnings.add(path, f"it cannot be read: {reason_of(exc)}")
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
            warnings.add(path, f"it is not a manifest of Ollama: {exc}")
        else:
            if model is None:
                continue
            if model.system_prompt is not None:
                reason = "its system prompt is not used: send it with each chat"
                warnings.add(path, reason)
            yield model


def _manifests(root: Path, warnings: ScanWarnings) -> Iterator[tuple[str, str, str, str]]:
    """Yield the registry, owner, name and tag of each manifest below *root*."""
    for host in _parts_in(root, warnings):
        for owner in _parts_in(root / host, warnings):
            for name in _parts_in(root / host / owner, warnings):
                for tag in _parts_in(root / host / owner / name, warnings):
                    yield host, owner, name, tag


def _parts_in(folder: Path, warnings: ScanWarnings) -> Iterator[str]:
    # A registry may have a port. Other names, hidden ones among them, are not Ollama's.
    return (name for name in names_in(folder, warnings) if _PART.fullmatch(name.replace(":", "")))


def _name_of(host: str, owner: str, name: str, tag: str) -> str:
    if host == _DEFAULT_HOST:
        return f"{name}:{tag}" if owner == _DEFAULT_OWNER else f"{owner}/{name}:{tag}"
    return f"{host}/{owner}/{name}:{tag}"


def bare_name(name: str) -> str | None:
    """Return the name without its tag, by which Ollama's clients may call it; None if not."""
    bare, _, tag = name.rpartition(":")
    return bare if tag == _DEFAULT_TAG else None


def _read(folder: Path, path: Path, name: str) -> OllamaModel | None:
    """Return the model of the manifest *path*; None if it has no weights here.

    Raises:
        OllamaStoreError: if it cannot be served.
        OSError: if a file cannot be read.
        msgspec.MsgspecError: if it is no manifest.
    """
    manifest = msgspec.json.decode(read_up_to(path, _MAX_MANIFEST_BYTES), type=_Manifest)
    blobs: dict[str, list[Path]] = {}
    for layer in manifest.layers or ():
        kind = layer.media_type.removeprefix(_PREFIX)
        blobs.setdefault(kind, []).append(_blob(folder, layer.digest))
    if "tensor" in blobs:
        raise OllamaStoreError(
            "it is in the format of MLX, which needs macOS: pull a GGUF version of the model"
        )
    weights = blobs.get("model", [])
    if not weights:
        return None
    if len(weights) > 1:
        raise OllamaStoreError("its weights are in several files, which llama.cpp cannot open")
    needed = (*weights, *blobs.get("projector", ())[:1], *blobs.get("adapter", ()))
    for blob in needed:
        found = look(blob)
        if isinstance(found, Unseen):
            raise OllamaStoreError(f"its blob {blob.name} cannot be read: {found.reason}")
    return _model(name, blobs)


def _model(name: str, blobs: Mapping[str, list[Path]]) -> OllamaModel:
    projectors = blobs.get("projector", [])
    parameters = OllamaParameters()
    if blobs.get("params"):
        data = read_up_to(blobs["params"][-1], _MAX_TEXT_BYTES)
        parameters = msgspec.json.decode(data, type=OllamaParameters, strict=False)
    template = _text(blobs, "template")
    return OllamaModel(
        name=name,
        path=str(blobs["model"][0]),
        mmproj=str(projectors[0]) if projectors else None,
        adapters=tuple(str(blob) for blob in blobs.get("adapter", ())),
        template=None if template is None else built_in_template(template),
        system_prompt=_text(blobs, "system"),
        args=args_of(parameters),
        default_params=params_of(parameters),
    )


def _text(blobs: Mapping[str, list[Path]], kind: str) -> str | None:
    """Return the text of the last layer of that *kind*; None without one."""
    paths = blobs.get(kind)
    if not paths:
        return None
    return read_up_to(paths[-1], _MAX_TEXT_BYTES).decode() or None


def _blob(folder: Path, digest: str) -> Path:
    """Return the path of a blob.

    Raises:
        OllamaStoreError: if *digest* is none, so that it could name a file elsewhere.
    """
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise OllamaStoreError(f"it names {digest[:100]!r}, which is no blob of this store")
    return folder / "blobs" / f"sha256-{found[1]}"
