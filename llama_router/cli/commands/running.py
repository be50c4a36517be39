"""Commands to a running router."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from .options import Config, Json, Lines, TokenFile, Url


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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import ps as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config), every=all, as_json=json)


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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import status as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config), as_json=json)


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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import load as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config), model)


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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import unload as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config), model, force=force)


def reload(*, url: Url = None, token_file: TokenFile = None, config: Config = None) -> int:
    """Let a running router read its configuration now, and say what became of it.

    Args:
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import reload as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config))


def rescan(*, url: Url = None, token_file: TokenFile = None, config: Config = None) -> int:
    """Let a running router look for models in its folders and caches now.

    Args:
        url: The router's base URL; found through its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import rescan as run  # noqa: PLC0415 -- late, for --help

    return run(Where(url=url, token_file=token_file, config=config))


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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..operate import set_ as run  # noqa: PLC0415 -- late, for --help

    where = Where(url=url, token_file=token_file, config=config)
    return run(where, list(words), unset=list(unset), router=router)


def logs(
    model: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    lines: Lines = 100,
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
    from ..client import Where  # noqa: PLC0415 -- late, for --help
    from ..model_logs import show as run  # noqa: PLC0415 -- late, for --help

    where = Where(url=url, token_file=token_file, config=config)
    return run(where, model, follow=follow, lines=lines, as_json=json)
