"""Reads folders of safetensors, the format of transformers, vLLM and SGLang. Blocks on files.

Source: https://huggingface.co/docs/safetensors; config.json of transformers' models.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec

from ..files import Unseen, list_folder, look, open_file, read_up_to, reason_of
from .discovery.found import Header

#: The file that makes a folder of safetensors a model.
CONFIG_NAME: Final = "config.json"
_INDEX_NAME: Final = "model.safetensors.index.json"
_SUFFIX: Final = ".safetensors"

_MAX_JSON_BYTES: Final = 32 * 2**20
_BEGINNING_BYTES: Final = 4096

#: Classes of models that generate text; others embed, classify or draw.
_GENERATES: Final = re.compile(r".+For(?:CausalLM|ConditionalGeneration)")
_MLX: Final = re.compile(rb'"format"\s*:\s*"mlx"')
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class SafetensorsError(Exception):
    """A folder cannot be served; the text is a clause about it: "it ..."."""


class MlxError(SafetensorsError):
    """A folder is for MLX, which this platform does not have."""


@attrs.frozen(kw_only=True)
class SafetensorsModel:
    """A model in a folder.

    Attributes:
        header: What its ``config.json`` says: architecture, context, width, layers.
        quant: Its quantization: ``AWQ``, ``FP8``, or the type of its numbers.
        size_bytes: Of all its weights.
    """

    header: Header
    quant: str | None
    size_bytes: int


class _Text(msgspec.Struct, kw_only=True):
    max_position_embeddings: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    torch_dtype: str | None = None
    dtype: str | None = None


class _Config(_Text, kw_only=True):
    model_type: str = ""
    architectures: list[str] | None = None
    text_config: _Text | None = None
    quantization: Any = None
    quantization_config: Any = None


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_model(folder: Path, *, is_wanted: bool = True) -> SafetensorsModel | None:
    """Return the model in *folder*; None if it has none that generates text, or is not wanted.

    Args:
        folder: The folder.
        is_wanted: Whether the model would be served; else it is only looked at for MLX.

    Raises:
        SafetensorsError: if it is damaged, incomplete, or for another platform.
    """
    names = list_folder(folder)
    if isinstance(names, Unseen) or CONFIG_NAME not in names:
        return None
    weights = [name for name in names if name.endswith(_SUFFIX)]
    if not weights:
        return None
    try:
        data = read_up_to(folder / CONFIG_NAME, _MAX_JSON_BYTES)
        config = msgspec.json.decode(data, type=_Config, strict=False)
        is_for_mlx = _is_for_mlx(folder / weights[0], config)
        missing = _missing(folder, names) if is_wanted and not is_for_mlx else None
    except OSError as exc:
        raise SafetensorsError(f"it cannot be read: {reason_of(exc)}") from exc
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as exc:
        raise SafetensorsError(f"its config.json or index is damaged: {exc}") from exc
    if is_for_mlx:
        raise MlxError("it is a model for MLX, which needs macOS")
    if not is_wanted or not any(_GENERATES.fullmatch(name) for name in config.architectures or ()):
        return None
    if missing:
        raise SafetensorsError(f"its file {missing} is missing")
    sizes = (look(folder / name) for name in weights)
    return SafetensorsModel(
        header=_header(config),
        quant=_quant(config),
        size_bytes=sum(found.st_size for found in sizes if not isinstance(found, Unseen)),
    )


def _header(config: _Config) -> Header:
    text = config.text_config or config
    kind = config.model_type
    return Header(
        architecture=kind if _NAME.fullmatch(kind) else "transformers",
        context_length=_positive(text.max_position_embeddings),
        embedding_length=_positive(text.hidden_size),
        block_count=_positive(text.num_hidden_layers),
        head_count=_positive(text.num_attention_heads),
    )


def _positive(number: int | None) -> int | None:
    return number if number is not None and 0 < number < 2**31 else None


def _quant(config: _Config) -> str | None:
    """Return the quantization that ``config.json`` names, else the type of the numbers."""
    method = None
    if isinstance(config.quantization_config, dict):
        method = config.quantization_config.get("quant_method")
    text = config.text_config or config
    for name in (method, config.dtype, config.torch_dtype, text.dtype, text.torch_dtype):
        if isinstance(name, str) and _NAME.fullmatch(name):
            return {"BFLOAT16": "BF16", "FLOAT16": "F16", "FLOAT32": "F32"}.get(
                name.upper(), name.upper()
            )
    return None


def _missing(folder: Path, names: list[str]) -> str | None:
    """Return a file of weights that the index names and *folder* lacks; None without one."""
    if _INDEX_NAME not in names:
        return None
    data = read_up_to(folder / _INDEX_NAME, _MAX_JSON_BYTES)
    wanted = set(msgspec.json.decode(data, type=_Index).weight_map.values())
    # Names with a folder in them are not this folder's, wherever they lead.
    lacking = sorted(
        name for name in wanted if name not in names or isinstance(look(folder / name), Unseen)
    )
    return repr(lacking[0][:200]) if lacking else None


def _is_for_mlx(weights: Path, config: _Config) -> bool:
    """Return whether the weights were written for MLX: it has a quantization of its own."""
    if isinstance(config.quantization, dict) and "group_size" in config.quantization:
        return True
    with open_file(weights) as file:
        return _MLX.search(file.read(_BEGINNING_BYTES)) is not None
