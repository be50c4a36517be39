"""Locations of other programs' model stores: Ollama's, LM Studio's, Jan's and GPT4All's.

Sources: https://docs.ollama.com/faq; https://lmstudio.ai/docs/app/basics/import-model;
janhq/jan, src-tauri/src/core/app/commands.rs; nomic-ai/gpt4all, gpt4all-chat/src/mysettings.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import attrs
import msgspec

from ..files import absolute, home_folder, read_up_to

#: Longest settings file of another program that is read.
_MAX_SETTINGS_BYTES: Final = 1024 * 1024

#: Homes of Ollama's own user: its installer's, and Arch Linux's.
_OLLAMA_OF_SYSTEM: Final = (Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama"))


class StoreKind(StrEnum):
    """The program that a store belongs to."""

    OLLAMA = "Ollama"
    LM_STUDIO = "LM Studio"
    JAN = "Jan"
    GPT4ALL = "GPT4All"


@attrs.frozen
class Store:
    """A folder in which another program keeps models.

    Attributes:
        kind: That program.
        folder: The folder; it may be missing.
    """

    kind: StoreKind
    folder: Path

    @property
    def title(self) -> str:
        """Return it in words: ``store of Ollama``."""
        return f"store of {self.kind}"


def find_stores(environ: Mapping[str, str]) -> tuple[Store, ...]:
    """Return the stores that these programs would use with that environment. Blocks on files.

    Those below the home folder are left out if there is none.
    """
    home = home_folder(environ)
    return tuple(dict.fromkeys(_candidates(environ, None if home is None else absolute(home))))


def _candidates(environ: Mapping[str, str], home: Path | None) -> Iterator[Store]:
    if named := environ.get("OLLAMA_MODELS"):
        yield Store(StoreKind.OLLAMA, absolute(Path(named)))
    if home is not None:
        yield Store(StoreKind.OLLAMA, home / ".ollama" / "models")
    for folder in _OLLAMA_OF_SYSTEM:
        yield Store(StoreKind.OLLAMA, folder)
    if home is not None:
        for folder in _homes_of_lm_studio(home):
            yield Store(StoreKind.LM_STUDIO, folder / "models")
    for folder in _homes_of_jan(environ, home):
        yield Store(StoreKind.JAN, folder / "llamacpp" / "models")
    if data := _xdg(environ, "XDG_DATA_HOME", home, ".local/share"):
        yield Store(StoreKind.GPT4ALL, data / "nomic.ai" / "GPT4All")


def _homes_of_lm_studio(home: Path) -> Iterator[Path]:
    """Yield the folders that LM Studio may work in: the one that it points to first."""
    pointer = _text(home / ".lmstudio-home-pointer").strip()
    if pointer.startswith("/"):
        yield Path(pointer)
    yield home / ".lmstudio"
    yield home / ".cache" / "lm-studio"


def _homes_of_jan(environ: Mapping[str, str], home: Path | None) -> Iterator[Path]:
    """Yield the folders that Jan may keep its data in: the one that its settings name first."""
    if named := environ.get("JAN_DATA_FOLDER"):
        yield absolute(Path(named))
    bases = (
        _xdg(environ, "XDG_DATA_HOME", home, ".local/share"),
        _xdg(environ, "XDG_CONFIG_HOME", home, ".config"),
    )
    for base in bases:
        if base is None:
            continue
        try:
            settings = msgspec.json.decode(_text(base / "Jan" / "settings.json"), type=_JanSettings)
        except (msgspec.MsgspecError, RecursionError):
            pass
        else:
            if settings.data_folder.startswith("/"):
                yield Path(settings.data_folder)
        yield base / "Jan" / "data"


class _JanSettings(msgspec.Struct):
    data_folder: str


def _xdg(environ: Mapping[str, str], name: str, home: Path | None, default: str) -> Path | None:
    """Return the folder of that variable, or its *default* below *home*; None without both."""
    if named := environ.get(name):
        return absolute(Path(named))
    return None if home is None else home / default


def _text(path: Path) -> str:
    """Return the content of a file of settings; an empty text if it cannot be read."""
    try:
        return read_up_to(path, _MAX_SETTINGS_BYTES).decode()
    except (OSError, UnicodeError):
        return ""
