"""``serve``: runs a router until a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import attrs
from cyclopts import Parameter

from ...config.load import LoadedConfig
from ..config_loading import prepare_or_explain
from ..garbage_collection import fewer_collections
from ..options import Config, HubFile, Port


def serve(
    *,
    config: Config = None,
    host: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    port: Port = None,
    import_dir: Path | None = None,
    hf_repo: Annotated[str | None, Parameter(name=["--hf-repo", "-hf", "-hfr"])] = None,
    hf_file: HubFile = None,
) -> int:
    """Serve the configured models, and those found in caches, until SIGINT or SIGTERM.

    The first of these signals drains: requests in flight get ``drain_s`` seconds. A second
    one stops the router at once. SIGHUP reloads the configuration.

    Args:
        config: Configuration file. Default: ./router.toml, then
            $XDG_CONFIG_HOME/llama-router/router.toml.
        host: Address to listen on, instead of ``router.host``; may be given several times, and
            with a port of its own: 192.168.1.20:9000, [::1]:9000.
        port: Port to listen on, instead of ``router.port``; 0 picks a free one.
        import_dir: Import the models in this folder first, as ``import`` does.
        hf_repo: Download user/repo or user/repo:QUANT from the hub first, as ``pull`` does. The
            model is loaded at start, now and later, unless another startup model is set.
        hf_file: The path of one file in the repository, instead of a quantization.
    """
    with fewer_collections():
        # The whole router: half a second of imports, which `serve --help` does not need.
        from ...supervisor.state_dir import StateDirLock  # noqa: PLC0415 -- see above
        from ..router_process import serve_config  # noqa: PLC0415 -- see above

    first: Path | int | None = None
    if hf_repo is not None or hf_file is not None:
        # A tenth of a second of imports, only for these options.
        from .hub import fetch_for_serve  # noqa: PLC0415 -- see above

        first = fetch_for_serve(hf_repo, file=hf_file)
    if isinstance(first, int):
        return first
    lock = StateDirLock()
    try:
        prepared = prepare_or_explain(
            config,
            import_dir=import_dir,
            first=first,
            may_be_missing=True,
            hold=lock.hold,
        )
        if prepared is None:
            return 1
        loaded = override_address(prepared.loaded, host=host, port=port)
        return serve_config(loaded, prepared.catalog, prepared.scans)
    finally:
        lock.release()


def override_address(
    loaded: LoadedConfig, *, host: tuple[str, ...] = (), port: int | None
) -> LoadedConfig:
    """Return *loaded* with the addresses and port of the command line, where they are given."""
    router = loaded.config.router
    router = attrs.evolve(
        router,
        host=host or router.host,
        port=router.port if port is None else port,
    )
    return attrs.evolve(loaded, config=attrs.evolve(loaded.config, router=router))
