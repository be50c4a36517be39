"""Scans caches and folders for GGUF files and reads their headers. Blocks on files."""

from __future__ import annotations

import os
import stat
from collections import Counter, deque
from collections.abc import Collection as Container
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, assert_never

import attrs

from ..core.config.placeholders import escape
from ..files import Unseen, list_entries, look, unseen
from ..files.json_text import encode_kept
from ..files.stalls import look_at
from .caches import (
    Caches,
    Manifest,
    ScanWarnings,
    find_repositories,
    is_repo,
    names_in,
    read_manifests,
)
from .discovery import naming
from .discovery.found import Collection, FoundFile, Header, ModelFormat, ScanWarning, StoreEntry
from .gguf import TensorTable, read_header, read_tensor_table
from .gguf_reader import GgufError, KnownArrays
from .llamafile import COMMAND, is_llamafile, name_of
from .llamafile import fault_of as fault_of_llamafile
from .ollama_store import OllamaModel, bare_name, read_store
from .safetensors_folder import CONFIG_NAME, MlxError, SafetensorsError, read_model
from .stores import Store, StoreKind

_Identity = tuple[int, int]

#: What llama.cpp uses for a file without a template.
_DEFAULT_TEMPLATE: Final = "chatml"


@attrs.frozen
class Scan:
    """The result of a scan.

    Attributes:
        collections: The files.
        warnings: Problems with single files and folders.
        unreadable: Folders and files that could not be read: models found there before may
            still exist.
    """

    collections: tuple[Collection, ...]
    warnings: tuple[ScanWarning, ...]
    unreadable: tuple[str, ...] = ()


def scan(
    caches: Caches | None,
    folders: Iterable[Path],
    *,
    complete: Container[str] = (),
    safetensors: bool = False,
) -> Scan:
    """Return the files of models in *caches* and *folders*, at any depth.

    Args:
        caches: Those of llama.cpp, huggingface_hub and other programs; None leaves them out.
        folders: Folders of the user; their files come after those of the caches.
        complete: Versions of files that were complete in an earlier scan: only the beginning of
            their headers is read.
        safetensors: Folders of safetensors are models, too.
    """
    scanner = _Scanner(complete, safetensors=safetensors)
    collections: list[Collection] = []
    if caches is not None:
        for hub in caches.hubs:
            collections += scanner.hub(hub)
        if caches.flat is not None:
            collections += scanner.flat(caches.flat)
        for store in caches.stores:
            collections += scanner.store(store)
    collections += map(scanner.folder, folders)
    return Scan(tuple(collections), tuple(scanner.warnings), tuple(scanner.warnings.unreadable))


class _Scanner:
    def __init__(self, complete: Container[str], *, safetensors: bool) -> None:
        self.warnings = ScanWarnings()
        self._with_safetensors = safetensors
        self._complete = complete
        self._known_arrays = KnownArrays()
        # A file may have several names: snapshots share what did not change.
        self._headers: dict[_Identity, Header | str | None] = {}

    def hub(self, hub: Path) -> Iterator[Collection]:
        """Yield one collection per repository."""
        for repository in find_repositories(hub, self.warnings):
            files = [
                _named(file, repository.repo)
                for snapshot in repository.snapshots
                for file in self._files(snapshot, in_repo=True)
            ]
            if files:
                yield Collection(files=tuple(files), repo=repository.repo)

    def flat(self, folder: Path) -> Iterator[Collection]:
        """Yield one collection per manifest, and one of the files that are in no manifest."""
        names = names_in(folder, self.warnings)
        paths = {name: str(folder / name) for name in names if naming.is_gguf(name)}
        left = dict.fromkeys(paths)
        for manifest in read_manifests(folder, names, self.warnings):
            repo_paths = _repo_paths(manifest, paths)
            for name in repo_paths:
                left.pop(name, None)
            files = [
                attrs.evolve(file, tag=manifest.tag)
                for name, repo_path in repo_paths.items()
                if (file := self._file(paths[name], repo_path, in_repo=True))
            ]
            if files:
                yield Collection(files=tuple(files), repo=manifest.repo)
        loose = (self._file(paths[name], name) for name in left)
        yield Collection(files=tuple(file for file in loose if file))

    def store(self, store: Store) -> Iterator[Collection]:
        """Yield the files in the store of another program, as it names them."""
        match store.kind:
            case StoreKind.OLLAMA:
                yield Collection(files=tuple(self._ollama_files(store.folder)))
            case StoreKind.LM_STUDIO:
                yield from self._by_repository(store.folder)
            case StoreKind.JAN:
                yield Collection(files=tuple(_named_by_folder([*self._files(store.folder)])))
            case StoreKind.GPT4ALL:
                yield Collection(files=tuple(self._files(store.folder)))
            case _:
                assert_never(store.kind)

    def _ollama_files(self, folder: Path) -> Iterator[FoundFile]:
        """Yield the models of Ollama's store; names that mean the same are aliases of one."""
        same: dict[bytes, list[OllamaModel]] = {}
        for model in read_store(folder, self.warnings):
            served = attrs.evolve(model, name="", template=None, system_prompt=None)
            key = encode_kept(attrs.asdict(served))
            same.setdefault(key, []).append(model)
        for models in same.values():
            # A tag that says more than "latest" is the better name.
            first, *others = sorted(models, key=lambda m: (bare_name(m.name) is not None, m.name))
            blob = first.path.rpartition("/")[2]
            # The template is behind the vocabulary, and so is the quantization.
            file = self._file(first.path, blob, in_repo=True)
            if file is None:
                continue
            names = dict.fromkeys(
                name
                for model in (first, *others)
                for name in (model.name, bare_name(model.name))
                if name is not None and name != first.name
            )
            entry = StoreEntry(
                name=first.name,
                aliases=tuple(names),
                mmproj=first.mmproj,
                args=_args_of(first, file.header),
                default_params=first.default_params,
                versions=tuple(self._versions((first.mmproj, *first.adapters))),
                is_plain=first.is_plain,
            )
            quant = naming.quant_of(first.name.replace(":", "-"))
            yield attrs.evolve(file, relative_path=first.name, tag=quant, entry=entry)

    @staticmethod
    def _versions(paths: Iterable[str | None]) -> Iterator[str]:
        for path in paths:
            if path is not None and not isinstance(found := look(path), Unseen):
                yield file_version(found)

    def _by_repository(self, folder: Path) -> Iterator[Collection]:
        """Yield one collection per folder ``owner/repo``, and one of the other files."""
        repos: dict[str | None, list[FoundFile]] = {None: []}
        for file in self._files(folder, in_repo=True):
            parts = file.relative_path.split("/")
            repo = "/".join(parts[:2]) if len(parts) > 2 else None
            if repo is None or not is_repo(repo):
                repos[None].append(file)
            else:
                below = attrs.evolve(file, relative_path="/".join(parts[2:]))
                repos.setdefault(repo, []).append(_named(below, repo))
        for repo, files in repos.items():
            yield Collection(files=tuple(files), repo=repo)

    def folder(self, folder: Path) -> Collection:
        """Return all files in *folder*."""
        found = look(folder)
        if isinstance(found, Unseen) and not found.is_missing:
            self.warnings.add_unreadable(folder, found)
            return Collection(files=())
        if isinstance(found, Unseen) or not stat.S_ISDIR(found.st_mode):
            self.warnings.add(folder, "there is no such folder")
        return Collection(files=tuple(self._files(folder)))

    def _files(self, root: Path, *, in_repo: bool = False) -> Iterator[FoundFile]:
        """Yield the files of models below *root*, in order; each folder is visited once.

        Links are followed last, so that a file gets its own name if it has one here.
        """
        waiting: list[tuple[str, str]] = [(str(root), "")]
        linked_folders: deque[tuple[str, str]] = deque()
        linked_files: list[tuple[str, str]] = []
        visited: set[_Identity] = set()
        while waiting or linked_folders:
            folder, prefix = waiting.pop() if waiting else linked_folders.popleft()
            folders: list[tuple[str, str]] = []
            is_folder_of_model = False
            for entry in self._listed(folder, visited):
                relative_path = f"{prefix}/{entry.name}" if prefix else entry.name
                is_folder, is_link = self._nature_of(entry)
                if is_folder:
                    if not entry.name.startswith("."):
                        (linked_folders if is_link else folders).append((entry.path, relative_path))
                elif naming.is_gguf(entry.name) and is_link:
                    linked_files.append((entry.path, relative_path))
                elif file := self._model_file(entry, relative_path, in_repo=in_repo):
                    yield file
                is_folder_of_model |= entry.name == CONFIG_NAME and not is_folder
            if is_folder_of_model and (file := self._safetensors(folder, prefix)):
                yield file
            waiting += reversed(folders)
        for path, relative_path in linked_files:
            if file := self._file(path, relative_path, in_repo=in_repo):
                yield file

    def _model_file(
        self, entry: os.DirEntry[str], relative_path: str, *, in_repo: bool
    ) -> FoundFile | None:
        """Return a file that may be a model; None for any other one."""
        if is_llamafile(entry.name):
            return self._llamafile(entry.path, relative_path)
        if naming.is_gguf(entry.name):
            return self._file(entry.path, relative_path, in_repo=in_repo)
        return None

    def _llamafile(self, path: str, relative_path: str) -> FoundFile:
        """Return the model in a llamafile, which serves itself."""
        name = relative_path.rpartition("/")[2]
        entry = StoreEntry(
            name=name_of(name),
            aliases=(name,),
            format=ModelFormat.LLAMAFILE,
            command=COMMAND,
        )
        file = FoundFile(path=path, relative_path=relative_path, entry=entry)
        found = look(path)
        if isinstance(found, Unseen):
            return attrs.evolve(file, fault=f"it cannot be read: {found.reason}")
        fault = fault_of_llamafile(path)
        return attrs.evolve(
            file,
            fault=fault,
            header=None if fault else Header(architecture=str(ModelFormat.LLAMAFILE)),
            size_bytes=found.st_size,
            identity=(found.st_dev, found.st_ino),
        )

    def _safetensors(self, folder: str, relative_path: str) -> FoundFile | None:
        """Return the model of which *folder* holds the safetensors; None if there is none."""
        path = Path(folder)
        try:
            model = read_model(path, is_wanted=self._with_safetensors)
        except SafetensorsError as exc:
            if self._with_safetensors or isinstance(exc, MlxError):
                self.warnings.add(path, str(exc))
            return None
        if model is None or isinstance(found := look(path), Unseen):
            return None
        name = relative_path.rpartition("/")[2] or path.name
        return FoundFile(
            path=folder,
            relative_path=f"{relative_path}/{CONFIG_NAME}".removeprefix("/"),
            size_bytes=model.size_bytes,
            header=model.header,
            tag=model.quant,
            identity=(found.st_dev, found.st_ino),
            entry=StoreEntry(name=name, format=ModelFormat.SAFETENSORS),
        )

    def _listed(self, folder: str, visited: set[_Identity]) -> list[os.DirEntry[str]]:
        """Return the entries of *folder*, by name; none if it was *visited* already."""
        found = look(folder)
        if not isinstance(found, Unseen):
            if (identity := (found.st_dev, found.st_ino)) in visited:
                return []
            visited.add(identity)
            listing = list_entries(folder)
            if not isinstance(listing, Unseen):
                return listing
            found = listing
        self.warnings.add_unreadable(folder, found)
        return []

    def _nature_of(self, entry: os.DirEntry[str]) -> tuple[bool, bool]:
        """Return whether *entry* is a folder, and whether it is a link."""
        try:
            with look_at(entry.path):
                return entry.is_dir(), entry.is_symlink()
        except OSError as exc:
            if not (entry.name.startswith(".") or naming.is_gguf(entry.name)):
                self.warnings.add_unreadable(entry.path, unseen(exc))
            return False, True

    def _file(self, path: str, relative_path: str, *, in_repo: bool = False) -> FoundFile | None:
        """Return the file with its header; None if it does not exist."""
        found = look(path)
        if isinstance(found, Unseen):
            if found.is_missing and not found.is_circle:
                return None  # a link to a file that was removed
            if not found.is_missing:
                self.warnings.unreadable.append(path)
            fault = f"it cannot be read: {found.reason}"
            return FoundFile(path=path, relative_path=relative_path, fault=fault)
        file = FoundFile(
            path=path,
            relative_path=relative_path,
            size_bytes=found.st_size,
            identity=(found.st_dev, found.st_ino),
            version=file_version(found),
        )
        if not stat.S_ISREG(found.st_mode):
            return attrs.evolve(file, fault="it is not a file")
        if naming.is_side_file(file.name) and not naming.is_draft(file.name):
            return file  # its header is not needed
        identity = (found.st_dev, found.st_ino)
        if identity not in self._headers:
            try:
                self._headers[identity] = self._read(file, in_repo=in_repo)
            except GgufError as exc:
                self._headers[identity] = str(exc)
        known = self._headers[identity]
        if isinstance(known, str):
            return attrs.evolve(file, fault=known)
        return attrs.evolve(file, header=known)

    def _read(self, file: FoundFile, *, in_repo: bool) -> Header | None:
        """Return the header of *file*; None for a part of a split model other than the first.

        Raises:
            GgufError: if llama.cpp could not load it.
        """
        part = naming.part_of(file.name)
        header = None
        if part is None or part.number == 1:
            # The id of a model of the hub ends in its quantization. If the file's name does not
            # contain it, the end of the header may.
            whole = in_repo and naming.quant_of(file.relative_path) is None
            header = read_header(file.path, whole=whole)
        if file.version in self._complete:
            return header
        table = read_complete(file.path, self._known_arrays)
        if header is None or part is not None:
            return header
        return attrs.evolve(header, first_layer=table.first_layer or 0)


def _named(file: FoundFile, repo: str) -> FoundFile:
    """Return *file*, named after its repository if it is a folder of safetensors."""
    if file.entry is None or file.entry.format is not ModelFormat.SAFETENSORS:
        return file
    return attrs.evolve(file, entry=attrs.evolve(file.entry, name=repo))


def _named_by_folder(files: list[FoundFile]) -> Iterator[FoundFile]:
    """Yield *files*; the only model of a folder is named after it, as all are that Jan keeps."""
    models = Counter(file.folder for file in files if not naming.is_projector(file.name))
    for file in files:
        is_named = (
            file.entry is None
            and file.folder
            and models[file.folder] == 1
            and not naming.is_projector(file.name)
        )
        yield attrs.evolve(file, entry=StoreEntry(name=file.folder)) if is_named else file


def _args_of(model: OllamaModel, header: Header | None) -> tuple[str, ...]:
    """Return the arguments of llama-server for what Ollama keeps beside the weights."""
    args = [word for path in model.adapters for word in ("--lora", escape(path))]
    has_template = header is None or header.chat_template is not None
    if not has_template and model.template not in (None, _DEFAULT_TEMPLATE):
        # With --jinja the name would be taken for a template.
        args += ["--no-jinja", "--chat-template", model.template or ""]
    return (*model.args, *args)


def read_complete(path: str, known_arrays: KnownArrays | None = None) -> TensorTable:
    """Return facts from the table of tensors in *path*, which llama.cpp could open.

    Raises:
        GgufError: if it could not: the file is damaged, was truncated, or is a part of a split
            model under a name that does not say so.
    """
    table = read_tensor_table(path, known_arrays)
    name = path.rpartition("/")[2]
    part = naming.part_of(name)
    if (fault := naming.spelling_fault(name)) is not None:
        raise GgufError(fault)
    number_and_count = (table.split_number, table.split_count)
    if table.split_count > 1 and (part is None or (part.number, part.count) != number_and_count):
        ending = f"-{table.split_number or 0:05}-of-{table.split_count:05}.gguf"
        raise GgufError(f"it is a part of a split model, and its name must end in {ending!r}")
    return table


def fault_of_model(path: str) -> str | None:
    """Return the reason why llama.cpp could not load the model in *path*; None without one.

    A damaged part of a split model is named in it.
    """
    if (fault := naming.spelling_fault(path.rpartition("/")[2])) is not None:
        return fault
    for part in naming.parts_of(path):
        try:
            read_complete(part)
        except GgufError as exc:
            return str(exc) if part == path else f"its part {part.rpartition('/')[2]}: {exc}"
    return None


def file_version(found: os.stat_result) -> str:
    """Return a text that is another one after the file was replaced or written."""
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _repo_paths(manifest: Manifest, paths: dict[str, str]) -> dict[str, str]:
    """Return the files of *manifest* in the flat cache: name to path in the repository."""
    repo_paths = {manifest.gguf: manifest.gguf_repo_path}
    if part := naming.part_of(manifest.gguf):
        folder = manifest.gguf_repo_path.rpartition("/")[0]
        repo_part = naming.part_of(manifest.gguf_repo_path.rpartition("/")[2])
        stem = repo_part.stem if repo_part else part.stem
        for name in paths:
            other = naming.part_of(name)
            if other and (other.stem, other.count) == (part.stem, part.count):
                file = f"{stem}-{other.number:05}-of-{other.count:05}.gguf"
                repo_paths[name] = f"{folder}/{file}" if folder else file
    if manifest.mmproj is not None and manifest.mmproj_repo_path is not None:
        repo_paths[manifest.mmproj] = manifest.mmproj_repo_path
    return {name: path for name, path in repo_paths.items() if name in paths}
