"""Commands about models on this disk: those in a folder, and those in the hub cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .options import Config, HubFile


def inspect(
    file: Path, /, *, chat_template: Annotated[bool, Parameter(negative="")] = False
) -> int:
    """Say what the header of a GGUF file says, and as what the router would serve it.

    Args:
        file: The GGUF file.
        chat_template: Print its chat template instead.
    """
    from ...logs import quick_structlog  # noqa: F401, PLC0415 -- first: see `router.serve`
    from ..models import inspect as run  # noqa: PLC0415 -- late, for --help

    return run(file, chat_template=chat_template)


def import_(folder: Path, /, *, config: Config = None) -> int:
    """Make every model in a folder, at any depth, known to the router for good.

    Args:
        folder: Where the GGUF files are.
        config: Configuration file, for its ``state_dir``. Without it: where ``serve`` looks.
    """
    from ...logs import quick_structlog  # noqa: F401, PLC0415 -- first: see `router.serve`
    from ..models import import_folder as run  # noqa: PLC0415 -- late, for --help

    return run(folder, config)


def pull(
    model: str,
    /,
    *,
    hf_file: HubFile = None,
) -> int:
    """Fetch a model from the hub into its cache, and print where it is.

    A download that was cut goes on where it ended.

    Args:
        model: user/repo or user/repo:QUANT. Without a quantization: Q4_K_M, else Q8_0,
            else the first there is.
        hf_file: One file by its path in the repository, instead of a quantization.
    """
    from ..hub import pull as run  # noqa: PLC0415 -- late, for --help

    return run(model, file=hf_file)


def list_models(*, json: bool = False) -> int:
    """List the models in the hub cache.

    Args:
        json: Print JSON, with paths.
    """
    from ..hub import list_models as run  # noqa: PLC0415 -- late, for --help

    return run(as_json=json)


def remove(model: str, /, *, config: Config = None) -> int:
    """Delete a model from the hub cache, and what is left of downloads that were cut.

    A model that the configuration uses is not deleted.

    Args:
        model: user/repo:QUANT; user/repo will do if there is only one of it.
        config: Configuration file. Without it: where ``serve`` looks, and the running router's.
    """
    from ..hub import remove as run  # noqa: PLC0415 -- late, for --help

    return run(model, config)
