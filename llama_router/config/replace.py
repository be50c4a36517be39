"""Replaces the configuration file: as a whole, with its permissions, through links."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors.config import ConfigChangedError, ConfigError, SettingError
from .file import ConfigFile, read_file


def read_config(path: Path) -> ConfigFile:
    """Return the file *path*, also if there is none.

    Raises:
        SettingError: if it cannot be read.
    """
    try:
        return read_file(path)
    except ConfigError as exc:
        raise SettingError(str(exc)) from exc


def replace_config(file: ConfigFile, data: bytes) -> None:
    """Let *file* hold *data* instead of what was read, at one moment.

    A link stays a link: the file that it leads to is replaced. Owner and permissions stay,
    as far as this process may set them.

    Raises:
        ConfigChangedError: if it holds something else by now.
        SettingError: if it cannot be written.
    """
    try:
        target = file.path.resolve()
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            _write(temporary, data, like=target)
            if read_config(file.path).data != file.data:
                raise ConfigChangedError(
                    "the configuration file was changed meanwhile, so nothing was written; "
                    "try again"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise SettingError(f"cannot write {file.path}: {exc.strerror}") from exc


def _write(path: Path, data: bytes, *, like: Path) -> None:
    # It may hold secrets: nobody else may read it, until it is known who may.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        with contextlib.suppress(FileNotFoundError):
            found = like.stat()
            with contextlib.suppress(PermissionError):
                os.fchown(descriptor, found.st_uid, found.st_gid)
            os.fchmod(descriptor, found.st_mode & 0o7777)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
