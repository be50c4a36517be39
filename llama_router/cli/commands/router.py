"""Commands that run a router, or let systemd do it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..quick_imports import few_collections
from .options import Config, HubFile, Port


def serve(
    *,
    config: Config = None,
    host: str | None = None,
    port: Port = None,
    import_dir: Path | None = None,
    hf_repo: Annotated[str | None, Parameter(name=["--hf-repo", "-hf", "-hfr"])] = None,
    hf_file: HubFile = None,
) -> int:
    """Serve the models of a configuration, and those found in caches, until SIGINT or SIGTERM.

    The first of these signals drains: requests in flight get ``drain_s`` seconds. A second
    one ends at once. SIGHUP reads the configuration again.

    Args:
        config: Configuration file. Without it: ./router.toml, then
            $XDG_CONFIG_HOME/llama-router/router.toml.
        host: Address to listen on, instead of ``router.host``.
        port: Port to listen on, instead of ``router.port``; 0 picks a free one.
        import_dir: Import the models in this folder first, as ``import`` does.
        hf_repo: Fetch user/repo or user/repo:QUANT from the hub first, as ``pull`` does. It
            is loaded at start, now and later, unless another model is already.
        hf_file: One file of it by its path in the repository, instead of a quantization.
    """
    with few_collections():
        # First of all, because it imports structlog at a third of the usual cost.
        from ...logs import quick_structlog  # noqa: F401, PLC0415 -- here, not above, for --help
        from ..serve import serve as run  # noqa: PLC0415 -- late, for --help

    first = None
    if hf_repo is not None or hf_file is not None:
        from ..hub import fetched  # noqa: PLC0415 -- late, for --help

        first = fetched(hf_repo, file=hf_file)
    if isinstance(first, int):
        return first
    return run(config, host=host, port=port, import_dir=import_dir, first=first)


def demo(*, once: bool = False, port: Port = None, folder: Path | None = None) -> int:
    """Make two tiny models, serve them, and say what to try.

    Args:
        once: Send the requests, print how long each step took, and end.
        port: Port to listen on; 8082 by default, with --once any free one.
        folder: Where the models are made; $XDG_CACHE_HOME/llama-router/demo by default.
    """
    from ...logs import quick_structlog  # noqa: F401, PLC0415 -- first: see `router.serve`
    from ..demo import demo as run  # noqa: PLC0415 -- late, for --help

    return run(once=once, port=port, folder=folder)


def install_unit(
    *,
    user: bool = False,
    force: bool = False,
    config: Config = None,
    socket: str | None = None,
    folder: Path | None = None,
) -> int:
    """Make the router a service of systemd, and say what to do next.

    A unit that somebody has changed is not touched.

    Args:
        user: A service of yours instead of one of the system.
        force: Replace a unit that somebody has changed.
        config: The service's configuration. Without it: /etc/llama-router/router.toml,
            with --user llama-router/router.toml in $XDG_CONFIG_HOME.
        socket: Also write a socket unit that listens there: a port, ADDRESS:PORT or a path.
        folder: Where to; where systemd looks by default.
    """
    from ..install_unit import install_unit as run  # noqa: PLC0415 -- late, for --help

    return run(user=user, force=force, config=config, socket=socket, folder=folder)
