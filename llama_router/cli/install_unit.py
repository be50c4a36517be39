"""``install-unit``: the router as a service of systemd."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Final

from ..files import Unseen, look, read_up_to, replace_atomically, resolved
from ..systemd.unit import UnitOptions, is_unmodified_unit, units

#: Where an administrator's units are. Source: systemd.unit(5).
SYSTEM_FOLDER: Final = Path("/etc/systemd/system")

#: Larger than any unit, in bytes.
_MAX_BYTES: Final = 2**20

#: Folders that the unit hides from the service (``PrivateTmp=``).
_HIDDEN: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 -- nothing is written there


def install_unit(
    *, user: bool, force: bool, config: Path | None, socket: str | None, folder: Path | None
) -> int:
    """Write the units, say what to do next; return the exit status."""
    program = _program()
    try:
        texts = units(
            UnitOptions(
                program=program,
                config=None if config is None else str(config.absolute()),
                user=user,
                socket=socket,
            )
        )
    except ValueError as exc:
        return _fail(str(exc))
    folder = folder or (_user_folder() if user else SYSTEM_FOLDER)
    for name, text in texts.items():
        if fault := _write(folder / name, text, force=force):
            return _fail(fault)
    if not user and (warning := _access_warning(Path(program[0]))):
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201 -- the command's output
    _say("\n".join(_next_steps(list(texts), config, user=user)))
    return 0


def _program() -> tuple[str, ...]:
    """Return the command that runs this very installation."""
    script = Path(sys.executable).with_name("llama-router")
    if os.access(script, os.X_OK):
        return (str(script),)
    return (sys.executable, "-m", "llama_router")


def _user_folder() -> Path:
    return _config_home() / "systemd" / "user"


def _config_home() -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return base if base.is_absolute() else Path("~/.config").expanduser()


def _write(path: Path, text: str, *, force: bool) -> str | None:
    """Write a unit; return what prevents it."""
    try:
        old = _text_of(path)
        if old == text:
            _say(f"{path} is as it should be")
            return None
        if old is not None and not force and not is_unmodified_unit(old):
            return (
                f"{path} was changed by somebody and was not touched; --force replaces it "
                "(changes belong into 'systemctl edit', where they stay)"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_atomically(path, text.encode(), mode=0o666)
    except PermissionError:
        return f"{path} cannot be written: run this as root, or with --user for a unit of your own"
    except (OSError, UnicodeDecodeError) as exc:
        return f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}"
    _say(f"wrote {path}")
    return None


def _text_of(path: Path) -> str | None:
    """Return what is in a unit; None if there is none.

    Raises:
        OSError: if it cannot be read.
        UnicodeDecodeError: if it is not text.
    """
    try:
        return read_up_to(path, _MAX_BYTES).decode()
    except FileNotFoundError:
        return None


def _access_warning(program: Path) -> str | None:
    """Return the reason why the service's own user could not run *program*; None without one."""
    real = resolved(program)
    for folder in (*program.parents, *(() if isinstance(real, Unseen) else real.parents)):
        if folder in _HIDDEN:
            return f"the service does not see {folder}, where {program} is; {_ELSEWHERE}"
        found = look(folder)
        if not isinstance(found, Unseen) and not found.st_mode & stat.S_IXOTH:
            return f"the service's own user cannot enter {folder}, where {program} is; {_ELSEWHERE}"
    return None


_ELSEWHERE: Final = (
    "install llama-router into a virtual environment elsewhere, /opt/llama-router for example, "
    "and run the install-unit of that one"
)


def _next_steps(names: list[str], config: Path | None, *, user: bool) -> list[str]:
    systemctl = "systemctl --user" if user else "sudo systemctl"
    file = shlex.quote(str(config or "/etc/llama-router/router.toml"))
    journal = "journalctl --user" if user else "journalctl"
    if user and config is None:
        file = "~/.config/llama-router/router.toml"
        if _config_home() != Path("~/.config").expanduser():
            file = shlex.quote(str(_config_home() / "llama-router" / "router.toml"))
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


def _fail(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201 -- the command's output
    return 1


def _say(sentence: str) -> None:
    print(sentence)  # noqa: T201 -- the command's output
