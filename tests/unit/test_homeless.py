"""A user without a home folder: no ``HOME``, and no entry in the user database."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from llama_router.cli.commands.configuration import check
from llama_router.cli.commands.demo import demo
from llama_router.cli.commands.hub import remove
from llama_router.cli.commands.install_unit import install_unit
from llama_router.cli.commands.list_models import list_models
from llama_router.cli.commands.models import import_
from llama_router.cli.commands.operate import status
from llama_router.cli.commands.ps import ps
from llama_router.cli.commands.serve import serve
from llama_router.cli.failures import NoRouterError
from llama_router.cli.options import Connection
from llama_router.cli.router_search import find_router, state_dirs
from llama_router.config.locations import default_config_path, state_dir_for
from llama_router.errors.config import ConfigError
from llama_router.files import home_folder
from llama_router.models.caches import Caches, find_caches


@pytest.fixture(autouse=True)
def _homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Work in an empty folder as a user of whom the system knows nothing but the number."""

    def unknown(number: int) -> pwd.struct_passwd:
        raise KeyError(number)

    for name in list(os.environ):
        if name == "HOME" or name.startswith(("XDG_", "HF_", "HUGGINGFACE_", "LLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)


def test_there_is_no_home_folder() -> None:
    """That is a value, not an exception."""
    assert home_folder({}) is None
    assert home_folder({"HOME": "/h"}) == Path("/h")


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (serve, "the state directory is unknown"),
        (check, "there is no configuration: router.toml does not exist"),
        (lambda: import_(Path()), "the state directory is unknown"),
        (ps, "no router is running"),
        (status, "no router is running"),
        (list_models, "the state directory is unknown"),
        (lambda: remove("user/repo"), "set HOME, or HF_HOME"),
        (demo, "give --folder"),
        (lambda: install_unit(user=True), "the folder of your configuration is unknown"),
    ],
    ids=["serve", "check", "import", "ps", "status", "list", "rm", "demo", "install-unit"],
)
def test_a_command_says_what_it_lacks(
    command: Callable[[], int], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, below it may stand what to do; the exit status is 1, without a traceback."""
    assert command() == 1
    first, *below = capsys.readouterr().err.splitlines()
    assert reason in first
    assert all(line.startswith("  ") for line in below)


def test_folders_that_are_named_are_used() -> None:
    """A variable for each of them takes the place of the home folder."""
    assert default_config_path({"XDG_CONFIG_HOME": "/c"})[1] == Path("/c/llama-router/router.toml")
    assert state_dir_for(None, {"XDG_STATE_HOME": "/s"}) == Path("/s/llama-router")
    assert state_dir_for("/here", {}) == Path("/here")
    assert find_caches({"HF_HOME": "/f"}) == Caches(None, (Path("/f/hub"),))
    assert find_caches({"LLAMA_CACHE": "/l"}) == Caches(Path("/l"), (Path("/l"),))
    assert find_caches({"HF_HUB_CACHE": "~/hub"}) == Caches(None, ())


def test_the_state_directory_is_a_mistake_of_the_configuration() -> None:
    """It names the key that helps."""
    with pytest.raises(ConfigError, match=r"router\.state_dir: .* HOME is not set"):
        state_dir_for(None, {})


def test_a_router_is_looked_for_where_it_can_be() -> None:
    """A folder that has no path is left out."""
    assert state_dirs(Connection(), {}) == []
    with pytest.raises(NoRouterError) as missing:
        find_router(Connection(), {})
    assert missing.value.details == ("looked for /run/llama-router/router.json",)
    with pytest.raises(NoRouterError) as missing:
        find_router(Connection(config=Path("router.toml")), {})
    assert missing.value.details[0].startswith(
        "looked for nothing, because there is no home folder"
    )
