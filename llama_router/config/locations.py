"""Default locations of the configuration file and the state directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_config_path(environ: Mapping[str, str]) -> list[Path]:
    """Return the paths of ``router.toml`` that are tried, in this order.

    The working folder is first, then ``$XDG_CONFIG_HOME/llama-router``, or
    ``~/.config/llama-router`` where that variable is not an absolute path.
    """
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        base = Path(environ.get("HOME") or Path("~").expanduser()) / ".config"
    return [Path("router.toml"), base / "llama-router" / "router.toml"]


def state_dir_for(config_dir: str | None, environ: Mapping[str, str]) -> Path:
    """Return the state directory of this router.

    Args:
        config_dir: ``router.state_dir``, if it is set.
        environ: ``STATE_DIRECTORY`` (set by systemd), ``XDG_STATE_HOME`` and ``HOME`` count.
    """
    if config_dir is not None:
        return Path(config_dir)
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    base = Path(environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser())
    return base / "llama-router"
