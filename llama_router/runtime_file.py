"""The file by which commands find the running router. It contains no secret.

It is ``router.json`` in ``$RUNTIME_DIRECTORY`` (set by systemd), else in the state
directory. It is written when the router accepts connections and removed when it stops. If the
configuration in force sets the admin token, ``router.token`` beside it contains that token:
``router.toml`` may have another token, or a mistake, by the time it is read.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from .files import make_folder, read_up_to, replace_atomically

FILE: Final = "router.json"

#: The lock of a state directory; it contains the pid of the router that holds it open. Commands
#: find a router by it whose file is in no usual place.
LOCK: Final = "router.lock"

_MAX_BYTES: Final = 2**20


@attrs.frozen(kw_only=True)
class RuntimeFile:
    """The process and the addresses of a running router.

    Attributes:
        pid: Its process id.
        urls: Its base URLs; the first one is for commands on the same machine.
        config: Its configuration file.
        token_file: The file with the admin token in force.
    """

    pid: int
    urls: tuple[str, ...]
    config: str
    token_file: str


def runtime_path(state_dir: Path, environ: Mapping[str, str]) -> Path:
    """Return the path of the file for a router with this state directory."""
    if folder := environ.get("RUNTIME_DIRECTORY"):
        return Path(folder.split(":")[0]) / FILE
    return state_dir / FILE


def token_path(path: Path) -> Path:
    """Return the path of the token file beside the runtime file *path*."""
    return path.with_suffix(".token")


def write(path: Path, content: RuntimeFile, token: str | None = None) -> None:
    """Write the file in one step. Blocks on files.

    Args:
        path: The file.
        content: Its content.
        token: The admin token, if the configuration sets it.

    Raises:
        OSError: if it cannot be written, or belongs to another running router.
    """
    found = read(path)
    if found is not None and found.pid != content.pid and _is_router(found.pid):
        raise OSError(errno.EEXIST, f"another router, pid {found.pid}, has the file")
    make_folder(path.parent)
    if token is not None:
        replace_atomically(token_path(path), f"{token}\n".encode())
    text = json.dumps(attrs.asdict(content), indent=2) + "\n"
    replace_atomically(path, text.encode(), mode=0o644)
    if token is None:
        token_path(path).unlink(missing_ok=True)


def read(path: Path) -> RuntimeFile | None:
    """Return the content of the file; None if it is missing or its router does not run."""
    try:
        document = json.loads(read_up_to(path, _MAX_BYTES))
        found = RuntimeFile(
            pid=int(document["pid"]),
            urls=tuple(map(str, document["urls"])),
            config=str(document["config"]),
            token_file=str(document["token_file"]),
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if found.urls and _runs(found.pid) else None


def remove(path: Path) -> None:
    """Remove the file if this process wrote it. Blocks on files."""
    found = read(path)
    if found is not None and found.pid == os.getpid():
        path.unlink(missing_ok=True)
        token_path(path).unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # another user's
    except (OSError, OverflowError):
        return False
    return pid > 0


def _is_router(pid: int) -> bool:
    """Return whether a process looks like a router: a pid may have been reused."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"llama-router" in words or b"llama_router" in words
