"""The admin token of a router without one in its configuration: a credential or a file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from .errors.base import RouterError
from .files import Unseen, create_atomically, is_missing, look, make_folder, reason_of

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
        path: The file; programs of the same user can read it, too.
        warning: Why other users may have read or changed it; None if they cannot.
    """

    value: str = attrs.field(repr=False)
    path: Path
    warning: str | None = None


def admin_token(state_dir: Path, environ: Mapping[str, str]) -> AdminToken:
    """Return the service manager's credential, or else the token file in *state_dir*.

    Blocks on files. A missing file is created; only its owner can read it.

    Raises:
        AdminTokenFileError: if a file holds no token, or cannot be read or created.
    """
    if folder := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(folder) / CREDENTIAL
        if not is_missing(path):
            return AdminToken(read_token(path), path)
    path = state_dir / FILE
    try:
        return AdminToken(_make(path), path)
    except FileExistsError:
        return AdminToken(read_token(path), path, _exposure_warning(path))
    except OSError as exc:
        raise AdminTokenFileError(
            f"cannot write the admin token to {path}: {reason_of(exc)}"
        ) from exc


def read_token(path: Path, *, any_kind: bool = False) -> str:
    """Return the token in *path*.

    Args:
        path: A regular file: reading anything else could block the start for ever.
        any_kind: Also read a pipe or a device. For a file that the user named on the command
            line: the command may block then.

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
    """Return the text of a regular file; never blocks on a pipe.

    Raises:
        AdminTokenFileError: if it is no regular file.
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


def _exposure_warning(path: Path) -> str | None:
    """Return a warning if others than owner and group may read *path*, or than the owner write.

    Read access for the group may be intended: its members can then operate the router.
    """
    found = look(path)
    mode = 0 if isinstance(found, Unseen) else stat.S_IMODE(found.st_mode)
    if not mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return None
    does = "read" if mode & stat.S_IROTH else "change"
    return (
        f"other users may {does} it, because its mode is {mode:04o}: remove it and restart the "
        "router, which then makes a new one, or, if it is still secret, run chmod 600"
    )


def _make(path: Path) -> str:
    """Create *path* with a new token, in one step; return the token.

    Raises:
        FileExistsError: if the file exists.
        OSError: if it cannot be written.
    """
    token = secrets.token_urlsafe(32)
    make_folder(path.parent)
    if not is_missing(path):
        raise FileExistsError
    create_atomically(path, f"{token}\n".encode())
    return token
