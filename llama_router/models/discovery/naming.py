"""File names of GGUF files: parts of a split model, quantization, side files. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

# Source: llama.cpp, llama_split_path() in src/llama.cpp.
_SPLIT: Final = re.compile(r"^(.+)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE | re.DOTALL)

_QUANT: Final = re.compile(
    r"(?:^|[-._/])"
    r"((?:UD-)?(?:IQ\d\w*|T?Q\d\w*|BF16|FP?16|FP?32|FP8\w*|MXFP\d\w*|NVFP\d\w*))"
    r"(?=[-./]|$)",
    re.IGNORECASE,
)
_SPELLINGS: Final = {"FP16": "F16", "FP32": "F32"}

# Prefixes of the names of draft models, which only speed up another model. Source: llama.cpp,
# common/download.cpp.
_DRAFTS: Final = ("mtp-", "eagle3-", "dflash-", "dspark-")

# Folders, words and endings of side files in repositories, where only names are known.
_SIDE_FOLDER: Final = re.compile(
    r"(?:mtp|eagle\d?|dflash\d?|dspark|medusa|drafts?|drafters?|draft-models?|assistants?"
    r"|speculat(?:ive|ors?)|imatrix|mmproj|loras?|adapters?|control-?vectors?|cvectors?"
    r"|vocabs?|vocoders?)"
)
_SIDE_WORD: Final = re.compile(
    r"\b(?:eagle[23]|dflash\d?|dspark|medusa|speculator|control-?vector|cvector|wavtokenizer"
    r"|vocoder)\b|^ggml-vocab\b|\b(?:assistant|draft|drafter|eagle|lora|adapter|vocab)$"
)
# Both a draft model and a model with draft layers of its own may have this word.
_DRAFT_LAYERS: Final = re.compile(r"\bmtp\b")

# What the name of a draft has beside that of its model.
_DRAFT_WORDS: Final = re.compile(
    r"\b(?:mtp|eagle\d?|dflash\d?|dspark|assistant|draft|drafter|speculator)\b"
)

_NOT_LETTERS: Final = re.compile(r"[^a-z0-9]+")

#: Quantizations that ``owner/repo`` without one stands for, in this order. Source: llama.cpp,
#: common/download.cpp.
DEFAULT_QUANTS: Final = ("Q4_K_M", "Q8_0")

#: Preferred projectors, best first: F16 overflows in some models, F32 only costs memory.
PROJECTOR_QUANTS: Final = ("BF16", "F16", "F32")


@attrs.frozen
class Part:
    """One file of a split model.

    Attributes:
        stem: The name that all parts share.
        number: From 1.
        count: Of all parts.
    """

    stem: str
    number: int
    count: int


def part_of(name: str) -> Part | None:
    """Return the part of a split model that the file *name* is; None for any other file."""
    found = _SPLIT.match(name)
    return Part(found[1], int(found[2]), int(found[3])) if found else None


def spelling_fault(name: str) -> str | None:
    """Return the reason why llama.cpp does not find the part *name* of a split model, or None.

    It makes the names of all parts itself, in one spelling.
    """
    part = part_of(name)
    if part is None or part.count == 1:
        return None
    known = part_name(part.stem, part.number, part.count)
    return None if name == known else f"llama.cpp opens it only under the name {known!r}"


def parts_of(path: str) -> Iterator[str]:
    """Yield the paths of all parts of the split model in *path*; of any other file its own."""
    folder, slash, name = path.rpartition("/")
    part = part_of(name)
    if part is None:
        yield path
        return
    for number in range(1, part.count + 1):
        yield f"{folder}{slash}{part_name(part.stem, number, part.count)}"


def part_name(stem: str, number: int, count: int) -> str:
    """Return the name of a part of a split model, as llama.cpp spells it."""
    return f"{stem}-{number:05}-of-{count:05}.gguf"


def is_gguf(name: str) -> bool:
    """Return whether *name* is that of a GGUF file, and not of a temporary one."""
    return name.lower().endswith(".gguf") and not name.startswith(".")


def stem_of(path: str) -> str:
    """Return *path* without ``.gguf`` and without the number of its part."""
    if part := part_of(path):
        return part.stem
    return path[: -len(".gguf")] if path.lower().endswith(".gguf") else path


def quant_of(path: str) -> str | None:
    """Return the quantization in the file's name, or else in a folder's; None without one."""
    *folders, name = stem_of(path).split("/")
    for word in (name, *reversed(folders)):
        if found := _QUANT.findall(word):
            quant = str(found[-1]).upper()
            return _SPELLINGS.get(quant, quant)
    return None


def is_projector(name: str) -> bool:
    """Return whether a file of this *name* is a projector."""
    return "mmproj" in name.lower()


def is_side_file(name: str) -> bool:
    """Return whether a file of this *name* is a draft or an importance matrix, not a model.

    A quantization in the name shows a model that was quantized with a matrix.
    """
    lowered = name.lower()
    is_matrix = "imatrix" in lowered and (lowered.startswith("imatrix") or quant_of(name) is None)
    return is_matrix or lowered.startswith(_DRAFTS)


def is_draft(name: str) -> bool:
    """Return whether a file of this *name* is a draft model, by its first word."""
    return name.lower().startswith(_DRAFTS)


def is_side_folder(name: str) -> bool:
    """Return whether a folder of this *name* holds side files of the models above it."""
    return _SIDE_FOLDER.fullmatch(_words(name)) is not None


def may_be_side_file(path: str) -> bool:
    """Return whether *path* in a repository looks like that of a side file.

    Only a header makes it certain: there are models with such names, too.
    """
    *folders, name = path.split("/")
    return any(_SIDE_FOLDER.fullmatch(_words(folder)) for folder in folders) or bool(
        _SIDE_WORD.search(_words(_QUANT.sub("", stem_of(name))))
    )


def is_doubtful(path: str) -> bool:
    """Return whether a model at *path* ranks behind others of its quantization."""
    return may_be_side_file(path) or bool(_DRAFT_LAYERS.search(_words(path)))


def own_labels(models: Iterable[tuple[str, str | None]]) -> set[str]:
    """Return the paths of those *models* that have their quantization for themselves.

    Of several models with one quantization, one has it if all others are doubtful.

    Args:
        models: Path and quantization of each model of a repository.
    """
    rivals: dict[str, list[str]] = defaultdict(list)
    for path, quant in models:
        if quant is not None:
            rivals[quant].append(path)
    own = set()
    for paths in rivals.values():
        best = [path for path in paths if not is_doubtful(path)] or paths
        if len(best) == 1:
            own.add(best[0])
    return own


def _words(text: str) -> str:
    """Return the words of *text* in lower case, with ``-`` between them."""
    return _NOT_LETTERS.sub("-", text.lower()).strip("-")


def family_of(name: str) -> str:
    """Return the part of a name that all quants of a model and its projector share; may be empty.

    Both ``gemma-3-4b-it-Q4_K_M.gguf`` and ``mmproj-gemma-3-4b-it-f16.gguf`` have the
    family ``gemma34bit``; that of ``mmproj-F16.gguf``, ``mmproj-model-f16.gguf`` and
    ``ggml-model-Q4_0.gguf`` is empty.
    """
    word = _QUANT.sub("", stem_of(name)).lower().replace("mmproj", "")
    word = _NOT_LETTERS.sub("", word)
    return "" if word in {"model", "ggmlmodel"} else word


def draft_family_of(name: str) -> str:
    """Return the part of a draft's name that its model has, too; empty for ``draft.gguf``."""
    return _NOT_LETTERS.sub("", _DRAFT_WORDS.sub("", _words(_QUANT.sub("", stem_of(name)))))


def are_related(one: str, other: str) -> bool:
    """Return whether one of two families is a part of the other."""
    return bool(one and other) and (one in other or other in one)
