"""Finds the draft and the adapters of models among the files of one collection. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import attrs

from ...core.config.placeholders import escape
from . import naming
from .found import FoundFile, Header

Check = Callable[[FoundFile, FoundFile], str | None]
"""Returns the reason why a side file (the first) does not fit a model's file; None if it does."""

#: Architectures of drafts that llama.cpp knows, and its way to use each.
#: Source: ``llama-server --help``, ``--spec-type``.
_TYPES: Final = {
    "eagle3": "draft-eagle3",
    "dflash": "draft-dflash",
    "gemma4-assistant": "draft-mtp",
}


@attrs.frozen
class Companions:
    """The side files that belong to one model.

    Attributes:
        draft: It guesses tokens for the model.
        adapters: Adapters that requests may apply, in the order of their numbers.
    """

    draft: FoundFile | None = None
    adapters: tuple[FoundFile, ...] = ()

    @property
    def args(self) -> tuple[str, ...]:
        """Return the arguments by which llama-server takes them; no adapter is applied yet."""
        args: list[str] = []
        if self.draft is not None:
            kind = draft_type(self.draft.header)
            assert kind is not None, "only drafts that llama.cpp knows are used"
            args += ["--model-draft", escape(self.draft.path), "--spec-type", kind]
        if self.adapters:
            args.append("--lora-init-without-apply")
            args += [word for file in self.adapters for word in ("--lora", escape(file.path))]
        return tuple(args)


def draft_type(header: Header | None) -> str | None:
    """Return how llama.cpp uses a draft with that *header*; None if it is none that it knows."""
    if header is None or not header.is_draft:
        return None
    # Draft layers in a file of their own have the architecture of their model.
    return _TYPES.get(header.architecture, "draft-mtp" if header.first_layer > 0 else None)


class CompanionMatcher:
    """Finds the side files of the models of one collection.

    Args:
        files: All files of the collection.
        in_repo: They come from one repository, where all side files belong to its models.
        check: Reads two files and compares them; None if no side file is to be used.
    """

    def __init__(self, files: Sequence[FoundFile], *, in_repo: bool, check: Check | None) -> None:
        self._in_repo = in_repo
        self._check = check or (lambda _side_file, _file: None)
        files = files if check is not None else ()
        self._drafts = [file for file in files if draft_type(file.header) is not None]
        self._adapters = [
            file for file in files if file.header is not None and file.header.type == "adapter"
        ]
        self._used: set[str] = set()
        self._faults: dict[str, tuple[FoundFile, str]] = {}

    def best(self, file: FoundFile, header: Header) -> Companions:
        """Return the side files that fit the chat model *file*."""
        drafts = [
            draft
            for draft in self._drafts
            if self._is_beside(draft, file) and self._has_name_of(draft, file)
        ]
        drafts.sort(key=lambda draft: (_distance(draft, file), draft.size_bytes, draft.path))
        adapters = [
            adapter
            for adapter in self._adapters
            if self._is_beside(adapter, file)
            and adapter.header is not None
            and adapter.header.architecture == header.architecture
        ]
        adapters.sort(key=lambda adapter: adapter.relative_path)
        return Companions(
            draft=next((draft for draft in drafts if self._fits(draft, file, "a draft")), None),
            adapters=tuple(each for each in adapters if self._fits(each, file, "an adapter")),
        )

    def unused(self) -> Iterator[tuple[FoundFile, str]]:
        """Yield each side file that fits no model, with the reason for one of them."""
        for path, (file, reason) in self._faults.items():
            if path not in self._used:
                yield file, reason

    def _fits(self, side_file: FoundFile, file: FoundFile, kind: str) -> bool:
        fault = self._check(side_file, file)
        if fault is None and kind == "an adapter" and "," in side_file.path:
            fault = "llama-server takes a comma in its path for the end of it"
        if fault is None:
            self._used.add(side_file.path)
        else:
            reason = f"it is {kind} beside {file.name}, and is not used: {fault}"
            self._faults.setdefault(side_file.path, (side_file, reason))
        return fault is None

    def _is_beside(self, side_file: FoundFile, file: FoundFile) -> bool:
        """Return whether both are in one folder, or the side file in a folder for such below."""
        if self._in_repo or side_file.folder == file.folder:
            return True
        above, _, last = side_file.folder.rpartition("/")
        return above == file.folder and naming.is_side_folder(last)

    def _has_name_of(self, draft: FoundFile, file: FoundFile) -> bool:
        """Return whether the names allow that *draft* belongs to *file*."""
        name = naming.draft_family_of(draft.name)
        if not name:  # it is called "draft.gguf", for example
            return True
        return self._in_repo or naming.are_related(name, naming.family_of(file.name))


def _distance(draft: FoundFile, file: FoundFile) -> int:
    """Return a number that is smaller the more of two names is the same."""
    return abs(len(naming.draft_family_of(draft.name)) - len(naming.family_of(file.name)))
