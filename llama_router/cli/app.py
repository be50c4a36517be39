"""The commands and their options. The work is done in modules of their own, imported late."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from .. import __version__

app = App(
    name="llama-router",
    help="Many local models behind one always-ready API: spawns, swaps and streams their backends.",
    version=__version__,
)


@app.command
def serve(
    *,
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
    host: str | None = None,
    port: int | None = None,
    import_dir: Path | None = None,
    hf_repo: Annotated[str | None, Parameter(name=["--hf-repo", "-hf", "-hfr"])] = None,
    hf_file: Annotated[str | None, Parameter(name=["--hf-file", "-hff"])] = None,
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
    # First of all, because it imports structlog at a third of the usual cost.
    from .. import logs  # noqa: F401, PLC0415 -- here, not above, for --help and --version
    from .serve import serve as run  # noqa: PLC0415 -- same

    first = None
    if hf_repo is not None or hf_file is not None:
        from .hub import fetched  # noqa: PLC0415 -- same

        first = fetched(hf_repo, file=hf_file)
    if isinstance(first, int):
        return first
    return run(config, host=host, port=port, import_dir=import_dir, first=first)


@app.command
def check(file: Path | None = None, /, *, commands: bool = False) -> int:
    """Say everything that is wrong with a configuration; exit 1 if anything is.

    Args:
        file: Configuration file. Without it: where ``serve`` would find one.
        commands: Print the command of every model, found ones included.
    """
    from .. import logs  # noqa: F401, PLC0415 -- same, first again
    from .files import check as run  # noqa: PLC0415 -- same

    return run(file, commands=commands)


@app.command
def inspect(
    file: Path, /, *, chat_template: Annotated[bool, Parameter(negative="")] = False
) -> int:
    """Say what the header of a GGUF file says, and as what the router would serve it.

    Args:
        file: The GGUF file.
        chat_template: Print its chat template instead.
    """
    from .. import logs  # noqa: F401, PLC0415 -- same
    from .models import inspect as run  # noqa: PLC0415 -- same

    return run(file, chat_template=chat_template)


@app.command(name="import")
def import_(
    folder: Path, /, *, config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None
) -> int:
    """Make every model in a folder, at any depth, known to the router for good.

    Args:
        folder: Where the GGUF files are.
        config: Configuration file, for its ``state_dir``. Without it: where ``serve`` looks.
    """
    from .. import logs  # noqa: F401, PLC0415 -- same
    from .models import import_folder as run  # noqa: PLC0415 -- same

    return run(folder, config)


@app.command
def init(file: Path = Path("router.toml"), /) -> int:
    """Write the documented example configuration; never over an existing file.

    Args:
        file: Where to.
    """
    from .files import init as run  # noqa: PLC0415 -- same

    return run(file)


@app.command
def demo(*, once: bool = False, port: int | None = None, folder: Path | None = None) -> int:
    """Make two tiny models, serve them, and say what to try.

    Args:
        once: Send the requests, print how long each step took, and end.
        port: Port to listen on; 8082 by default, with --once any free one.
        folder: Where the models are made; $XDG_CACHE_HOME/llama-router/demo by default.
    """
    from .. import logs  # noqa: F401, PLC0415 -- same, first again
    from .demo import demo as run  # noqa: PLC0415 -- same

    return run(once=once, port=port, folder=folder)


@app.command
def import_llama_swap(
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = Path(
        "router.toml"
    ),
) -> int:
    """Translate llama-swap's configuration; never over an existing file.

    Args:
        file: llama-swap's config.yaml. ``${env.NAME}`` in it is taken from the environment.
        output: Where to; "-" is standard output.
    """
    from .migrate import import_llama_swap as run  # noqa: PLC0415 -- same

    return run(file, output)


@app.command
def import_presets(
    file: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)] = Path(
        "router.toml"
    ),
) -> int:
    """Translate the INI presets of llama-server; never over an existing file.

    Args:
        file: What ``llama-server --models-preset`` is given.
        output: Where to; "-" is standard output.
    """
    from .migrate import import_presets as run  # noqa: PLC0415 -- same

    return run(file, output)


@app.command
def pull(
    model: str,
    /,
    *,
    hf_file: Annotated[str | None, Parameter(name=["--hf-file", "-hff"])] = None,
) -> int:
    """Fetch a model from the hub into its cache, and print where it is.

    A download that was cut goes on where it ended.

    Args:
        model: user/repo or user/repo:QUANT. Without a quantization: Q4_K_M, else Q8_0,
            else the first there is.
        hf_file: One file by its path in the repository, instead of a quantization.
    """
    from .hub import pull as run  # noqa: PLC0415 -- same

    return run(model, file=hf_file)


@app.command(name="list")
def list_models(*, json: bool = False) -> int:
    """List the models in the hub cache.

    Args:
        json: Print JSON, with paths.
    """
    from .hub import list_models as run  # noqa: PLC0415 -- same

    return run(as_json=json)


@app.command(name="rm")
def remove(model: str, /) -> int:
    """Delete a model from the hub cache, and what is left of downloads that were cut.

    Args:
        model: user/repo:QUANT; user/repo will do if there is only one of it.
    """
    from .hub import remove as run  # noqa: PLC0415 -- same

    return run(model)


# -- commands to a running router ---------------------------------------------------------

Url = Annotated[str | None, Parameter(name="--url")]
TokenFile = Annotated[Path | None, Parameter(name="--token-file")]
Config = Annotated[Path | None, Parameter(name=["--config", "-c"])]
Json = Annotated[bool, Parameter(name="--json", negative="")]


@app.command
def ps(
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,  # noqa: A002 -- the option's name
    json: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> int:
    """List the models that a running router has loaded.

    Args:
        all: Those that are not loaded, too.
        json: As JSON.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- for --help and --version
    from .operate import ps as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config), every=all, as_json=json)


@app.command
def status(
    *,
    json: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> int:
    """Say how a running router is, and what became of its configuration.

    Args:
        json: Everything, as JSON.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import status as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config), as_json=json)


@app.command
def load(
    model: str, /, *, url: Url = None, token_file: TokenFile = None, config: Config = None
) -> int:
    """Load a model, and wait until it is ready.

    Args:
        model: Its name or an alias.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import load as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config), model)


@app.command
def unload(
    model: str,
    /,
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> int:
    """Unload a model once its requests are done, and wait until it is gone.

    Args:
        model: Its name or an alias.
        force: Cut its requests instead of waiting for them.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import unload as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config), model, force=force)


@app.command
def reload(*, url: Url = None, token_file: TokenFile = None, config: Config = None) -> int:
    """Let a running router read its configuration now, and say what became of it.

    Args:
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import reload as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config))


@app.command
def rescan(*, url: Url = None, token_file: TokenFile = None, config: Config = None) -> int:
    """Let a running router look for models in its folders and caches now.

    Args:
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import rescan as run  # noqa: PLC0415 -- same

    return run(Where(url=url, token_file=token_file, config=config))


@app.command(name="set")
def set_(
    *words: str,
    unset: Annotated[tuple[str, ...], Parameter(name="--unset", negative="")] = (),
    router: Annotated[bool, Parameter(name="--router", negative="")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> int:
    """Change settings of a model in the router's configuration file, and apply them.

    Comments and order of the file are kept. Without KEY=VALUE, what is in force is printed.

    Args:
        words: MODEL KEY=VALUE ...; a VALUE is TOML, or else a string. Dots lead into tables:
            spawn.ready_timeout_s=300.
        unset: A setting to remove; may be given several times.
        router: Those of the router itself; then there is no MODEL.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .operate import set_ as run  # noqa: PLC0415 -- same

    where = Where(url=url, token_file=token_file, config=config)
    return run(where, list(words), unset=list(unset), router=router)


@app.command
def install_unit(
    *,
    user: bool = False,
    force: bool = False,
    config: Annotated[Path | None, Parameter(name=["--config", "-c"])] = None,
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
    from .install_unit import install_unit as run  # noqa: PLC0415 -- same

    return run(user=user, force=force, config=config, socket=socket, folder=folder)


@app.command
def logs(
    model: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: Annotated[int, Parameter(name=["--lines", "-n"])] = 100,
    json: Json = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
) -> int:
    """Print the last output of a model's backends, and with --follow what they print from now on.

    Asks the running router; if there is none, the files that one has written are read.

    Args:
        model: Its name or an alias.
        follow: Go on until Ctrl-C, across restarts of the backend and of the router.
        lines: How many lines of the past.
        json: Each line as a JSON object.
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from .client import Where  # noqa: PLC0415 -- same
    from .model_logs import show as run  # noqa: PLC0415 -- same

    where = Where(url=url, token_file=token_file, config=config)
    return run(where, model, follow=follow, lines=lines, as_json=json)


def main() -> None:
    """Run the command that ``sys.argv`` names, and exit with its status."""
    try:
        sys.exit(app())
    except BrokenPipeError:  # whoever read the output has enough, e.g. `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
