"""Replaces the configuration file: as a whole, with its permissions, through links."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..errors.config import ConfigChangedError, SettingError
from ..files import read_up_to
from .file import MAX_BYTES


def read_config(path: Path) -> bytes:
    """Return what is in the file; nothing if there is none.

    Raises:
        SettingError: if it cannot be read.
    """
    try:
        return read_up_to(path, MAX_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise SettingError(f"cannot read {path}: {exc.strerror}") from exc


def replace_config(path: Path, before: bytes, data: bytes) -> None:
    """Let the file hold *data* instead of *before*, at one moment.

    A link stays a link: the file that it leads to is replaced. Owner and permissions stay,
    as far as this process may set them.

    Raises:
        ConfigChangedError: if it holds something else by now.
        SettingError: if it cannot be written.
    """
    try:
        target = path.resolve()
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        try:
            _write(temporary, data, like=target)
            if read_config(path) != before:
                raise ConfigChangedError(
                    "the configuration file was changed meanwhile, so nothing was written; "
                    "try again"
                )
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as exc:
        raise SettingError(f"cannot write {path}: {exc.strerror}") from exc


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
