"""Default locations of the configuration file and the state directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ..errors.config import ConfigError, Problem
from ..files import home_folder

#: The reason why a folder below the home folder has no path.
NO_HOME: Final = "there is no home folder: HOME is not set, and the user database has no entry"


def default_config_path(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of ``router.toml`` that are tried, in this order.

    The working folder is first, then ``$XDG_CONFIG_HOME/llama-router``, or
    ``~/.config/llama-router`` where that variable is not an absolute path. Without a home folder
    it is left out.
    """
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        if (home := home_folder(environ)) is None:
            return [Path("router.toml")]
        base = home / ".config"
    return [Path("router.toml"), base / "llama-router" / "router.toml"]


def state_dir_for(config_dir: str | None, environ: Mapping[str, str]) -> Path:
    """Return the state directory of this router.

    Args:
        config_dir: ``router.state_dir``, if it is set.
        environ: ``STATE_DIRECTORY`` (set by systemd), ``XDG_STATE_HOME`` and ``HOME`` count.

    Raises:
        ConfigError: if none of them names a folder, and there is no home folder.
    """
    if config_dir is not None:
        return Path(config_dir)
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if base := environ.get("XDG_STATE_HOME"):
        return Path(base, "llama-router")
    if (home := home_folder(environ)) is None:
        message = f"the state directory is unknown ({NO_HOME}): set it"
        raise ConfigError((Problem(("router", "state_dir"), message),))
    return home / ".local" / "state" / "llama-router"
