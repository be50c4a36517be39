"""``install-unit``: installs the router as a systemd service."""

from __future__ import annotations

import grp
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path
from typing import Final

from ...config.locations import NO_HOME
from ...files import (
    Unseen,
    absolute,
    home_folder,
    look,
    may_access,
    read_up_to,
    replace_atomically,
    resolved,
)
from ...systemd.unit import UnitOptions, is_unmodified_unit, units
from ..options import Config
from ..printing import fail, print_line, print_message

#: The folder of the administrator's units. Source: systemd.unit(5).
SYSTEM_FOLDER: Final = Path("/etc/systemd/system")

#: Largest unit file that is read, in bytes.
_MAX_BYTES: Final = 2**20

#: The groups of GPU devices.
_GPU_GROUPS: Final = ("video", "render")

#: Where a unit finds programs, whatever PATH this command has.
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Folders that the unit makes invisible to the service (``PrivateTmp=``).
_HIDDEN: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- nothing is written there


def install_unit(
    *,
    user: bool = False,
    force: bool = False,
    config: Config = None,
    socket: str | None = None,
    folder: Path | None = None,
) -> int:
    """Install the router as a systemd service, and print the next steps.

    A unit that was edited by hand is not overwritten.

    Args:
        user: Install a service of the user instead of a system service.
        force: Overwrite a unit that was edited by hand.
        config: The service's configuration. Default: /etc/llama-router/router.toml,
            with --user llama-router/router.toml in $XDG_CONFIG_HOME.
        socket: Also install a socket unit that listens there: a port, ADDRESS:PORT or a path.
        folder: The folder to write to; by default systemd's own.
    """
    program = _program()
    config = None if config is None else absolute(config)
    if config is not None and not config.is_absolute():
        return fail(f"cannot find {config}: the working directory no longer exists")
    try:
        texts = units(
            UnitOptions(
                program=program,
                config=None if config is None else str(config),
                user=user,
                socket=socket,
                groups=tuple(filter(_has_group, _GPU_GROUPS)),
                nvidia_modprobe=shutil.which("nvidia-modprobe", path=_SYSTEM_PATH),
            )
        )
    except ValueError as exc:
        return fail(str(exc))
    if user and _config_home() is None:
        return fail(f"the folder of your configuration is unknown: {NO_HOME}")
    folder = folder or (_user_folder() if user else SYSTEM_FOLDER)
    for name, text in texts.items():
        if fault := _write(folder / name, text, force=force):
            return fail(fault)
    if not user and (warning := _access_warning(Path(program[0]))):
        print_message(f"warning: {warning}")
    for line in _next_steps(list(texts), config, user=user):
        print_line(line)
    return 0


def _has_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _program() -> tuple[str, ...]:
    """Return the command that runs this installation of the router."""
    script = Path(sys.executable).with_name("llama-router")
    if may_access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-m", "llama_router")


def _user_folder() -> Path:
    return Path(_config_home() or "", "systemd", "user")


def _config_home() -> Path | None:
    """Return ``$XDG_CONFIG_HOME``, or ``~/.config``; None if there is no home folder."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    home = home_folder(os.environ)
    if base.is_absolute():
        return base
    return None if home is None else home / ".config"


def _write(path: Path, text: str, *, force: bool) -> str | None:
    """Write a unit; return None, or the reason why it was not written."""
    try:
        old = _text_of(path)
        if old == text:
            print_line(f"{path} is up to date")
            return None
        if old is not None and not force and not is_unmodified_unit(old):
            return (
                f"{path} was edited by hand and was not touched; --force overwrites it "
                "(edits made with 'systemctl edit' are kept)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, text.encode(), mode=0o666)
    except PermissionError:
        return f"{path} cannot be written: run this as root, or with --user for a unit of your own"
    except (OSError, UnicodeDecodeError) as exc:
        return f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}"
    print_line(f"wrote {path}")
    return None


def _text_of(path: Path) -> str | None:
    """Return the text of a unit; None if it does not exist.

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not text.
    """
    try:
        return read_up_to(path, _MAX_BYTES).decode()
    except FileNotFoundError:
        return None


def _access_warning(program: Path) -> str | None:
    """Return the reason why the service's user could not run *program*, or None."""
    real = resolved(program)
    for folder in (*program.parents, *(() if isinstance(real, Unseen) else real.parents)):
        if folder in _HIDDEN:
            return f"the service does not see {folder}, where {program} is; {_ELSEWHERE}"
        found = look(folder)
        if not isinstance(found, Unseen) and not found.st_mode & stat.S_IXOTH:
            return f"the service's own user cannot enter {folder}, where {program} is; {_ELSEWHERE}"
    for file in (program, real):
        found = file if isinstance(file, Unseen) else look(file)
        if not isinstance(found, Unseen) and not found.st_mode & stat.S_IXOTH:
            return f"the service's own user cannot run {file}; {_ELSEWHERE}"
    return None


_ELSEWHERE: Final = (
    "let all users read and enter that (an umask of 022 does so for new files), or install "
    "llama-router into a virtual environment elsewhere, /opt/llama-router for example, and run "
    "the install-unit of that one"
)


def _next_steps(names: list[str], config: Path | None, *, user: bool) -> list[str]:
    systemctl = "systemctl --user" if user else "sudo systemctl"
    file = shlex.quote(str(config or "/etc/llama-router/router.toml"))
    journal = "journalctl --user" if user else "journalctl"
    if user and config is None and (base := _config_home()) is not None:
        home = home_folder(os.environ)
        file = "~/.config/llama-router/router.toml"
        if home is None or base != home / ".config":
            file = shlex.quote(str(base / "llama-router" / "router.toml"))
    init = f"{'' if user else 'sudo '}llama-router init {file}"
    start = "llama-router.socket" if "llama-router.socket" in names else "llama-router"
    lines = [
        "next:",
        f"  {init}    # and edit it",
        f"  {systemctl} daemon-reload",
        f"  {systemctl} enable --now {start}",
        f"  {systemctl.removeprefix('sudo ')} status llama-router",
        f"  {journal} -u llama-router -f",
    ]
    if user:
        lines.append("  loginctl enable-linger    # to keep it running when you are logged out")
    return lines
