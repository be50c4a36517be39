"""Where the admin token comes from when the configuration does not set one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from .errors.base import RouterError
from .files import Unseen, is_missing, look, make_folder, reason_of

#: Name of the credential, as in ``LoadCredential=admin_token:/etc/...``.
CREDENTIAL: Final = "admin_token"

#: Name of the generated file in the state directory.
FILE: Final = "admin-token"

_MIN_LENGTH: Final = 16


class AdminTokenFileError(RouterError):
    """The file with the admin token cannot be used."""

    code = "admin_token_unusable"


@attrs.frozen
class AdminToken:
    """A token and the file that it is in.

    Attributes:
        value: The secret.
        path: Where it was read from; programs of the same user may read it there, too.
        doubt: Why it may not be a secret, if there is a reason to think so.
    """

    value: str = attrs.field(repr=False)
    path: Path
    doubt: str | None = None


def admin_token(state_dir: Path, environ: Mapping[str, str]) -> AdminToken:
    """Return the service manager's credential, or the token in *state_dir*, made if need be.

    Blocks on files. The generated file can be read by its owner only.

    Raises:
        AdminTokenFileError: if a file is there but holds no token, or cannot be read or made.
    """
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / CREDENTIAL
        if not is_missing(path):
            return AdminToken(read_token(path), path)
    path = state_dir / FILE
    try:
        return AdminToken(_make(path), path)
    except FileExistsError:
        return AdminToken(read_token(path), path, _exposure(path))
    except OSError as exc:
        raise AdminTokenFileError(
            f"cannot write the admin token to {path}: {reason_of(exc)}"
        ) from exc


def read_token(path: Path, *, any_kind: bool = False) -> str:
    """Return the token in *path*.

    Args:
        path: A regular file: whatever else it is could keep a start waiting, for ever perhaps.
        any_kind: Also read it if it is a pipe, say: whoever named it waits, and knows.

    Raises:
        AdminTokenFileError: if it cannot be read, or is too short to be safe.
    """
    try:
        token = (path.read_text("ascii") if any_kind else _text_of_file(path)).strip()
    except (OSError, ValueError) as exc:
        reason = "it is not ASCII text" if isinstance(exc, UnicodeDecodeError) else reason_of(exc)
        raise AdminTokenFileError(f"cannot read the admin token in {path}: {reason}") from exc
    if len(token) < _MIN_LENGTH:
        raise AdminTokenFileError(
            f"the admin token in {path} has fewer than {_MIN_LENGTH} characters; if the router "
            "has made that file, remove it, and the next start makes a new one"
        )
    return token


def _text_of_file(path: Path) -> str:
    """Return what is in a regular file; never waits for a pipe.

    Raises:
        AdminTokenFileError: if it is something else.
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not ASCII.
    """

    def open_at_once(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)

    with open(path, "rb", buffering=0, opener=open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise AdminTokenFileError(
                f"cannot read the admin token in {path}: it is not a regular file; remove it, "
                "or put the token into a file there"
            )
        return file.read().decode("ascii")


def _exposure(path: Path) -> str | None:
    """Say so if others than the owner and group of *path* may read it, or than the owner write.

    That a group may read it may be meant: its members then operate the router.
    """
    found = look(path)
    mode = 0 if isinstance(found, Unseen) else stat.S_IMODE(found.st_mode)
    if not mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return None
    does = "read" if mode & stat.S_IROTH else "change"
    return (
        f"other users may {does} it, because its mode is {mode:04o}: remove it and restart the "
        "router, which then makes a new one, or, if nobody has read it, run chmod 600"
    )


def _make(path: Path) -> str:
    """Write a new token to *path*, all of it or nothing.

    Raises:
        FileExistsError: if there is one.
        OSError: if it cannot be written.
    """
    token = secrets.token_urlsafe(32)
    make_folder(path.parent)
    if not is_missing(path):
        raise FileExistsError
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, token.encode() + b"\n")
        os.link(temporary, path)  # unlike a rename, never over the token of another router
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            temporary.unlink()
    return token
