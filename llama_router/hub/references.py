"""References to models on the hub, ``user/repo[:quant]``, and their files. Pure.

The rules are llama.cpp's (common/download.cpp), made stricter in two places: a quantization
that matches completely is preferred to a partial match, and a split model counts only with
all of its parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from ..errors.downloads import HubFileMissingError, HubReferenceError
from ..models.discovery import naming

#: The file of a repository that holds arguments for models of other repositories, or for its own.
#: Source: llama.cpp, pull requests 18520 and 24739.
PRESET_FILE: Final = "preset.ini"

_PREFIX: Final = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
# Source: huggingface_hub's validate_repo_id; llama.cpp also insists on one slash.
_REPO_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPO: Final = re.compile(rf"{_REPO_PART}/{_REPO_PART}")
_TAG: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./-]*[A-Za-z0-9_])?")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


@attrs.frozen
class Reference:
    """A reference of the user to a model on the hub.

    Attributes:
        repo: ``user/repo``.
        tag: The requested quantization; None for the default one.
        file: One file by its path in the repository, instead of a quantization.
    """

    repo: str
    tag: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        if self.file is not None:
            return f"{self.repo}/{self.file}"
        return self.repo if self.tag is None else f"{self.repo}:{self.tag}"


@attrs.frozen
class RepoFile:
    """A file of a repository.

    Attributes:
        path: Path in the repository, see `is_safe_path`.
        size_bytes: The size that the hub announces.
        blob: Name of its content in the cache: its sha256, or git's hash of a small file.
    """

    path: str
    size_bytes: int = 0
    blob: str = ""


@attrs.frozen
class RepoModel:
    """The files of one model, in the order of its parts.

    Attributes:
        label: Its name among the models of its repository.
        parts: One file, or all parts of a split model.
    """

    label: str
    parts: tuple[RepoFile, ...]


@attrs.frozen
class Selection:
    """The files of a download: a model and its projector."""

    model: RepoModel
    mmproj: RepoFile | None

    @property
    def files(self) -> tuple[RepoFile, ...]:
        """Return all files, the model first."""
        return self.model.parts if self.mmproj is None else (*self.model.parts, self.mmproj)


def parse_reference(text: str, file: str | None = None) -> Reference:
    """Return the reference ``user/repo[:quant]``, also from the URL of a repository's page.

    Raises:
        HubReferenceError: if it is anything else, or *file* leads out of the repository.
    """
    repo, colon, tag = without_host(text[:1024].strip()).rstrip("/").partition(":")
    if not is_repo(repo):
        raise HubReferenceError(
            f"{text!r} is not the name of a model on the hub; it should read "
            "user/repo or user/repo:QUANT, for example ggml-org/gemma-3-4b-it-GGUF:Q4_K_M"
        )
    if colon and not (_TAG.fullmatch(tag) and is_safe_path(tag)):
        raise HubReferenceError(
            f"{tag!r} in {text!r} is not a quantization; one looks like Q4_K_M or UD-Q4_K_XL"
        )
    if file is not None and not is_safe_path(file):
        raise HubReferenceError(f"{file!r} is not the path of a file in a repository")
    return Reference(repo, tag or None, file)


def without_host(text: str) -> str:
    """Return *text* without the hub's URL in front."""
    return _PREFIX.sub("", text)


def is_repo(name: str) -> bool:
    """Return whether *name* is a valid ``user/repo``, which is safe as part of a file name."""
    return (
        _REPO.fullmatch(name) is not None
        and len(name) <= 160
        and not any(wrong in name for wrong in ("--", ".."))
        and not name.endswith(".git")
    )


def is_safe_path(path: str) -> bool:
    """Return whether *path* stays inside its folder and is safe in a request line."""
    return (
        not _CONTROL.search(path)
        and len(path) <= 1024
        and all(
            part not in {"", ".", ".."} and len(part.encode("utf-8", "replace")) <= 255
            for part in path.split("/")
        )
    )


def is_side_file(path: str) -> bool:
    """Return whether *path* is a GGUF file that looks like a projector, a draft and the like."""
    return naming.is_gguf(_name(path)) and not (
        _may_be_model(path) and not naming.may_be_side_file(path)
    )


def _may_be_model(path: str) -> bool:
    name = _name(path)
    return naming.is_gguf(name) and not (naming.is_projector(name) or naming.is_side_file(name))


def _model_files(files: Iterable[RepoFile]) -> list[RepoFile]:
    """Return the files of models among *files*.

    Files that may be side files by their names are models in a repository without any others.
    """
    models = [file for file in files if _may_be_model(file.path)]
    return [file for file in models if not naming.may_be_side_file(file.path)] or models


def models_in(files: Iterable[RepoFile]) -> list[RepoModel]:
    """Return the complete models among *files*, in the order of the files.

    Labels are quantizations. Where several models share one, it is that of the only one that
    cannot be a draft by its name. All others, and models without a quantization in their names,
    have the file's path without its ending as label.
    """
    groups: dict[str, dict[int, RepoFile]] = {}
    counts: dict[str, int] = {}
    for file in _model_files(files):
        part = naming.part_of(file.path)
        key = f"{part.stem}-of-{part.count}" if part else file.path
        groups.setdefault(key, {})[part.number if part else 1] = file
        counts[key] = part.count if part else 1
    complete = [
        tuple(parts[index] for index in sorted(parts))
        for key, parts in groups.items()
        if parts.keys() == set(range(1, counts[key] + 1)) and all(map(_opens, parts.values()))
    ]
    quants = {parts[0].path: naming.quant_of(parts[0].path) for parts in complete}
    labels = {path: quants[path] for path in naming.own_labels(quants.items())}
    return [
        RepoModel(labels.get(parts[0].path) or naming.stem_of(parts[0].path), parts)
        for parts in complete
    ]


def _opens(file: RepoFile) -> bool:
    return naming.spelling_fault(_name(file.path)) is None


def choose(files: Sequence[RepoFile], wanted: Reference) -> Selection:
    """Return the files of the *wanted* model among a repository's *files*.

    Raises:
        HubFileMissingError: if there is none; the message lists the existing models.
    """
    models = models_in(files)
    chosen = _by_file(models, wanted.file) if wanted.file else by_tag(models, wanted.tag)
    if chosen is None:
        raise HubFileMissingError(_missing(files, models, wanted))
    return Selection(chosen, best_projector(files, chosen.parts[0].path))


def best_projector(files: Iterable[RepoFile], model: str) -> RepoFile | None:
    """Return the best projector for the file *model*; None without one.

    Projectors in the deepest folder above *model* are preferred, then the bits per weight
    closest to the model's; BF16 wins a tie, because F16 overflows in some models.
    """
    *model_folders, _ = model.split("/")
    best: tuple[tuple[int, int, bool], RepoFile] | None = None
    for file in files:
        *folders, name = file.path.split("/")
        if (
            not (naming.is_gguf(name) and naming.is_projector(name))
            or folders != model_folders[: len(folders)]
        ):
            continue
        distance = abs(_bits(file.path) - _bits(model))
        rank = (-len(folders), distance, naming.quant_of(file.path) != "BF16")
        if best is None or rank < best[0]:
            best = (rank, file)
    return None if best is None else best[1]


def _by_file(models: list[RepoModel], path: str) -> RepoModel | None:
    wanted = path.lower()
    return next((m for m in models if wanted in (p.path.lower() for p in m.parts)), None)


def by_tag(models: Sequence[RepoModel], tag: str | None) -> RepoModel | None:
    """Return the model with the quantization *tag*; None stands for the default one."""
    for wanted in naming.DEFAULT_QUANTS if tag is None else (tag,):
        complete = [model for model in models if _is_named(model, wanted)]
        partial = [model for model in models if _contains(model, wanted)]
        if found := complete or partial:
            return min(found, key=_is_doubtful)
    return min(models, key=_is_doubtful) if tag is None and models else None


def _is_doubtful(model: RepoModel) -> bool:
    return naming.is_doubtful(model.parts[0].path)


def _is_named(model: RepoModel, tag: str) -> bool:
    path = model.parts[0].path
    names = (model.label, naming.quant_of(path) or "", naming.stem_of(path))
    return tag.lower() in (name.lower() for name in names)


def _contains(model: RepoModel, tag: str) -> bool:
    found = re.search(re.escape(tag) + "[.-]", model.parts[0].path, re.IGNORECASE)
    return found is not None


def _missing(files: Sequence[RepoFile], models: list[RepoModel], wanted: Reference) -> str:
    if models:
        labels = ", ".join(sorted(model.label for model in models))
        what = f"model file {wanted.file!r}" if wanted.file else f"quantization {wanted.tag!r}"
        return f"{wanted.repo} has no {what}; there are: {labels}"
    parts = [file.path for file in _model_files(files)]
    if parts:
        wrong = [f.path for f in files if not _opens(f)]
        share = "parts with names that llama.cpp does not open" if wrong else "only a part"
        return f"{wanted.repo} has {share} of a split model: {', '.join(sorted(wrong or parts))}"
    if any(file.path == PRESET_FILE for file in files):
        # Its options are arguments of a program, by a stranger: they are not run unread.
        return (
            f"{wanted.repo} holds only a preset of llama-server, {PRESET_FILE}, and no model: "
            f"save that file, and let 'llama-router import-presets {PRESET_FILE}' make a "
            "configuration of it; llama-server then fetches each model when it first loads it"
        )
    return (
        f"{wanted.repo} has no GGUF files; look for a repository with a name that ends in -GGUF, "
        "or run the model with another backend"
    )


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _bits(path: str) -> int:
    digits = re.search(r"\d+", naming.quant_of(path) or "")
    return int(digits[0]) if digits else 0
