"""Commands about configuration files: check, begin and translate them."""

from __future__ import annotations

from pathlib import Path

from .options import DEFAULT_OUTPUT, Config, Output


def check(config: Config = None, *, commands: bool = False) -> int:
    """Say everything that is wrong with a configuration; exit 1 if anything is.

    Args:
        config: Configuration file, with or without ``--config``. Without it: where ``serve``
            would find one.
        commands: Print the command of every model, found ones included.
    """
    from ...logs import quick_structlog  # noqa: F401, PLC0415 -- first: see `router.serve`
    from ..files import check as run  # noqa: PLC0415 -- late, for --help

    return run(config, commands=commands)


def init(file: Path = Path("router.toml"), /) -> int:
    """Write the documented example configuration; never over an existing file.

    Args:
        file: Where to.
    """
    from ..files import init as run  # noqa: PLC0415 -- late, for --help

    return run(file)


def import_llama_swap(
    file: Path,
    /,
    *,
    output: Output = DEFAULT_OUTPUT,
) -> int:
    """Translate llama-swap's configuration; never over an existing file.

    Args:
        file: llama-swap's config.yaml. ``${env.NAME}`` in it is taken from the environment.
        output: Where to; "-" is standard output.
    """
    from ..migrate import import_llama_swap as run  # noqa: PLC0415 -- late, for --help

    return run(file, output)


def import_presets(
    file: Path,
    /,
    *,
    output: Output = DEFAULT_OUTPUT,
) -> int:
    """Translate the INI presets of llama-server; never over an existing file.

    Args:
        file: What ``llama-server --models-preset`` is given.
        output: Where to; "-" is standard output.
    """
    from ..migrate import import_presets as run  # noqa: PLC0415 -- late, for --help

    return run(file, output)
