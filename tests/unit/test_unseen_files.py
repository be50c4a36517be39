"""A look at a path that fails, in whatever way, costs what is there, and nothing else."""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path

import pytest

from llama_router.admin_token import AdminTokenFileError, admin_token, read_token
from llama_router.backends.child_protocol import parse_state
from llama_router.cli.commands import hub
from llama_router.cli.commands.configuration import check
from llama_router.cli.commands.install_unit import install_unit
from llama_router.cli.commands.list_models import list_models
from llama_router.cli.commands.model_logs import logs
from llama_router.cli.commands.models import import_
from llama_router.cli.config_loading import prepare_or_explain
from llama_router.cli.failures import NoRouterError
from llama_router.cli.options import Connection
from llama_router.cli.router_search import find_router
from llama_router.config.catalog import Catalog
from llama_router.config.load import load_config
from llama_router.config.watcher import Watcher
from llama_router.core.config.specs import RouterSpec
from llama_router.errors.config import ConfigError
from llama_router.errors.downloads import CacheUnusableError
from llama_router.hub.cache import RepoCache, repositories
from llama_router.hub.transfer import disk_errors
from llama_router.model_logs.log_files import FileFollower, append_rotating, read_tail
from llama_router.process.instances import InstanceRecord, SweepOutcome, sweep
from llama_router.runtime_file import FILE, RuntimeFile, read, write
from llama_router.supervisor.state_dir import StateDirError, prepare_state_dir
from tests.broken_files import ERRNOS, break_with
from tests.events import capture_logs
from tests.gguf_bytes import write as write_gguf

CONFIG = """\
[router]
state_dir = "state"
models_dirs = ["models", "more"]

[models.by-hand]
spawn.command = ["/bin/true", "$port"]
"""

NESTED = "[" * 200_000


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home with a configuration, two folders of models and a hub cache with two repositories."""
    for variable in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state-home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "router.toml").write_text(CONFIG)
    write_gguf(tmp_path / "models" / "a.gguf")
    write_gguf(tmp_path / "more" / "b.gguf")
    for repo in ("one", "two"):
        write_gguf(snapshot_of(tmp_path, repo) / f"{repo}-Q8_0.gguf")
    return tmp_path


def hub_of(home: Path) -> Path:
    return home / "cache" / "huggingface" / "hub"


def snapshot_of(home: Path, repo: str) -> Path:
    return hub_of(home) / f"models--user--{repo}" / "snapshots" / ("0" * 40)


def models_of(path: Path | None) -> set[str]:
    prepared = prepare_or_explain(path, may_be_missing=True)
    assert prepared is not None
    return set(map(str, prepared.loaded.config.models))


# --- Start and scan ------------------------------------------------------------------


@pytest.mark.parametrize("number", ERRNOS)
def test_a_folder_of_models_that_cannot_be_read_costs_its_models(
    home, monkeypatch, capsys, number: int
) -> None:
    """Models written by hand, and those elsewhere, are served; a warning says what is wrong."""
    break_with(monkeypatch, home / "models", number)
    assert models_of(home / "router.toml") == {"by-hand", "b", "user/one:Q8_0", "user/two:Q8_0"}
    said = capsys.readouterr().err
    assert f"router.toml:3: warning: router.models_dirs[0]: {home}/models: " in said
    assert os.strerror(number) in said


@pytest.mark.parametrize("number", ERRNOS)
def test_a_folder_in_a_cache_that_cannot_be_read_costs_what_is_in_it(
    home, monkeypatch, capsys, number: int
) -> None:
    """`check` says so."""
    break_with(monkeypatch, snapshot_of(home, "one").parent, number)
    assert check(home / "router.toml") == 0
    said = capsys.readouterr()
    assert "ok, 4 models" in said.out
    warning = f"{snapshot_of(home, 'one').parent}: warning: it cannot be read: "
    assert warning + os.strerror(number) in said.err


@pytest.mark.parametrize("number", ERRNOS)
def test_a_whole_cache_that_cannot_be_read_is_a_warning(
    home, monkeypatch, capsys, number: int
) -> None:
    """Be it the hub's or that of older versions of llama.cpp."""
    break_with(monkeypatch, home / "cache", number)
    assert check(home / "router.toml") == 0
    said = capsys.readouterr()
    assert "ok, 3 models" in said.out
    assert f"{hub_of(home)}: warning: it cannot be read: {os.strerror(number)}" in said.err
    assert f"{home}/cache/llama.cpp: warning: it cannot be read: " in said.err


@pytest.mark.parametrize("number", ERRNOS)
def test_models_that_were_known_stay_known(home, monkeypatch, number: int) -> None:
    """A disk that cannot be read for a while takes no running model away."""
    catalog = Catalog(home / "state", {"HOME": str(home)})
    router = RouterSpec(models_dirs=(str(home / "models"), str(home / "more")), scan_caches=False)
    catalog.scan(router)
    with monkeypatch.context() as broken:
        break_with(broken, home / "models", number)
        scanned = catalog.scan(router)
        loaded = catalog.load(home / "router.toml")
    assert (scanned.models, scanned.removed) == (("b",), ())
    assert {"a", "b"} <= set(map(str, loaded.config.models))
    (home / "models" / "a.gguf").unlink()
    assert catalog.scan(router).removed == ("a",)


@pytest.mark.parametrize("number", ERRNOS)
def test_a_state_directory_that_cannot_be_read_keeps_nothing_from_being_found(
    home, monkeypatch, number: int
) -> None:
    """Models are known for as long as the process runs."""
    (home / "router.toml").write_text(CONFIG.replace('state_dir = "state"', ""))
    break_with(monkeypatch, home / "state-home", number)
    prepared = prepare_or_explain(home / "router.toml")
    assert prepared is not None
    assert {"by-hand", "a", "b"} <= set(map(str, prepared.loaded.config.models))
    assert not prepared.scans[0].is_stored


@pytest.mark.parametrize("number", ERRNOS)
def test_a_configuration_folder_that_cannot_be_read_is_a_warning(
    home, monkeypatch, capsys, number: int
) -> None:
    """The models that are found are served."""
    (home / "router.toml").unlink()
    break_with(monkeypatch, home / "config", number)
    assert models_of(None) == {"user/one:Q8_0", "user/two:Q8_0"}
    said = capsys.readouterr().err
    assert "router.toml cannot be looked at, and is left out: " + os.strerror(number) in said


@pytest.mark.parametrize("number", ERRNOS)
def test_a_configuration_that_cannot_be_read_is_an_error(
    home, monkeypatch, capsys, number: int
) -> None:
    """One that was named, or is surely there, is never left out."""
    break_with(monkeypatch, home / "router.toml", number)
    assert check(home / "router.toml") == 1
    assert f"cannot read {home}/router.toml: {os.strerror(number)}" in capsys.readouterr().err


@pytest.mark.parametrize("number", ERRNOS)
def test_no_file_of_a_configuration_ends_its_check(home, monkeypatch, number: int) -> None:
    """Each makes its model unavailable, and is said with its line."""
    (home / "router.toml").write_text(
        f"[models.a]\npath = '{home}/gone/a.gguf'\nspawn.cwd = '{home}/gone'\n"
        f"spawn.command = ['{home}/gone/x', '$port']\n"
    )
    break_with(monkeypatch, home / "gone", number)
    unavailable = load_config(home / "router.toml").unavailable
    assert [problem.line for problem in unavailable] == [2, 3, 4]
    assert all(os.strerror(number) in str(problem) for problem in unavailable)


@pytest.mark.parametrize("number", ERRNOS)
def test_a_running_router_keeps_its_models_when_the_file_cannot_be_read(
    home, monkeypatch, number: int
) -> None:
    """Also where no file is needed: one that was there is not taken for an empty one."""
    catalog = Catalog(home / "state", os.environ, optional=True)
    loaded = catalog.load(home / "router.toml")

    async def unused(*_: object) -> frozenset[str]:
        raise AssertionError

    watcher = Watcher(loaded, current=lambda: loaded.config, apply=unused, load=catalog.reload)  # type: ignore[arg-type]  # never called
    break_with(monkeypatch, home / "router.toml", number)
    with pytest.raises(ConfigError, match=os.strerror(number).replace("/", ".")):
        watcher._read(loaded.config, None)


# --- Commands ------------------------------------------------------------------------


@pytest.mark.parametrize("number", ERRNOS)
def test_an_import_says_in_one_sentence_why_it_cannot(
    home, monkeypatch, capsys, number: int
) -> None:
    """The folder is all that it is about."""
    break_with(monkeypatch, home / "models", number)
    assert import_(home / "models", config=home / "router.toml") == 1
    assert capsys.readouterr().err == f"{home}/models cannot be read: {os.strerror(number)}\n"


@pytest.mark.parametrize("number", ERRNOS)
def test_a_list_has_what_can_be_read(home, monkeypatch, capsys, number: int) -> None:
    """And a warning about the rest."""
    break_with(monkeypatch, snapshot_of(home, "one"), number)
    assert list_models(config=home / "router.toml") == 0
    said = capsys.readouterr()
    assert "user/two:Q8_0" in said.out
    assert f"warning: it cannot be read: {os.strerror(number)}" in said.err


@pytest.mark.parametrize("number", ERRNOS)
def test_a_cache_that_cannot_be_used_is_one_sentence(
    home, monkeypatch, capsys, number: int
) -> None:
    """For `rm`, and for a download; `list` has what is elsewhere."""
    break_with(monkeypatch, hub_of(home), number)
    assert list_models(config=home / "router.toml") == 0
    assert hub.remove("user/one") == 1
    said = capsys.readouterr().err
    assert f"cannot delete {hub_of(home)}" in said
    with (
        pytest.raises(CacheUnusableError, match=os.strerror(number).replace("/", ".")),
        disk_errors(RepoCache(hub_of(home), "user/one")),
    ):
        repositories(hub_of(home))


@pytest.mark.parametrize("number", ERRNOS)
def test_a_unit_that_cannot_be_looked_at_is_one_sentence(
    home, monkeypatch, capsys, number: int
) -> None:
    """Nothing is written."""
    break_with(monkeypatch, home / "units", number)
    status = install_unit(user=True, force=False, config=None, socket=None, folder=home / "units")
    assert status == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", ERRNOS)
def test_a_log_that_cannot_be_looked_at_is_one_sentence(
    home, monkeypatch, capsys, number: int
) -> None:
    """It says why, in a line below what happened."""
    break_with(monkeypatch, home / "state", number)
    connection = Connection(config=home / "router.toml")
    assert logs("a", lines=5, connection=connection) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no router is running, and there is no log of a model 'a'\n")
    assert f"cannot be accessed: {os.strerror(number)}" in said


@pytest.mark.parametrize("number", ERRNOS)
def test_a_router_that_cannot_be_found_for_want_of_rights_is_said_so(
    home, monkeypatch, number: int
) -> None:
    """The sentence names the file and the reason."""
    break_with(monkeypatch, home / "state", number)
    connection = Connection(config=home / "router.toml")
    with pytest.raises(NoRouterError, match=f"accessed: {os.strerror(number)}"):
        find_router(connection, {"HOME": str(home)})


# --- The state directory -------------------------------------------------------------


@pytest.mark.parametrize("number", ERRNOS)
def test_a_state_directory_that_cannot_be_used_is_one_sentence(
    tmp_path, monkeypatch, number: int
) -> None:
    """Without it the router could leave processes behind, so it does not start."""
    break_with(monkeypatch, tmp_path / "state", number)
    with pytest.raises(StateDirError, match="set router"):
        prepare_state_dir(tmp_path / "state", {}, "me")


@pytest.mark.parametrize("number", ERRNOS)
def test_a_credential_that_cannot_be_looked_at_is_one_sentence(
    tmp_path, monkeypatch, number: int
) -> None:
    """Another token is not made in its place."""
    break_with(monkeypatch, tmp_path / "credentials", number)
    with pytest.raises(AdminTokenFileError, match="cannot read the admin token"):
        admin_token(tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")})
    assert not (tmp_path / "admin-token").exists()


def test_a_name_that_no_file_can_have_is_no_token() -> None:
    """A runtime file may hold one."""
    with pytest.raises(AdminTokenFileError, match="not a file name"):
        read_token(Path("a\0b"))


def test_a_runtime_file_that_is_none_is_left_alone(tmp_path) -> None:
    """A FIFO, a link to a device, nested without end: no router is there, and nothing waits."""
    (tmp_path / "nested").write_text(NESTED)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert [read(tmp_path / name) for name in ("nested", "fifo", "zero")] == [None] * 3
    content = RuntimeFile(pid=os.getpid(), urls=("http://x",), config="c", token_file="t")
    for name in ("nested", "fifo", "zero"):
        write(tmp_path / name, content)
        assert read(tmp_path / name) == content


def test_what_a_router_writes_is_closed_to_others(tmp_path) -> None:
    """Whatever the umask is: the state directory holds commands."""
    before = os.umask(0)
    try:
        prepared = prepare_state_dir(tmp_path / "x" / "state", {}, "me")
        content = RuntimeFile(pid=os.getpid(), urls=("http://x",), config="c", token_file="t")
        write(tmp_path / "x" / "state" / FILE, content, "token-of-sixteen-letters")
    finally:
        os.umask(before)
    assert (tmp_path / "x" / "state").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "x").rglob("*"):
        # The folder of the records is closed; so what is in it need not be.
        assert path.parent.name == "instances" or path.stat().st_mode & 0o022 == 0, path
    prepared.record.close()


def test_a_state_directory_that_all_may_write_is_said(tmp_path) -> None:
    """One that was there keeps its mode: it may be meant so."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with capture_logs() as logs:
        prepare_state_dir(tmp_path / "state", {}, "me").record.close()
    assert [entry["event"] for entry in logs] == ["state_dir.exposed"]


def test_a_record_nested_without_end_is_skipped(tmp_path) -> None:
    """Like any other that is broken."""
    InstanceRecord(tmp_path, "mine")
    (tmp_path / "instances" / "bad.json").write_text('{"x":' + NESTED)
    outcomes = {swept.path.name: swept.outcome for swept in sweep(tmp_path)}
    assert outcomes == {"bad.json": SweepOutcome.SKIPPED, "mine.json": SweepOutcome.LIVING}


def test_a_word_of_a_backend_nested_without_end_is_no_word() -> None:
    """The line is of no use."""
    assert parse_state(f"cmd_child_to_router:state:{NESTED}") is None


def test_a_log_that_is_no_file_is_an_error(tmp_path) -> None:
    """It is neither waited for nor read without end."""
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(OSError, match="not a file"):
        read_tail(tmp_path / "a.jsonl", 5)
    with pytest.raises(OSError, match="not a file"):
        FileFollower(tmp_path / "a.jsonl").read()
    with pytest.raises(OSError, match="not a file"):
        append_rotating(tmp_path / "a.jsonl", deque([b"x\n"]), max_bytes=99, backups=1)


def test_a_folder_with_an_impossible_name_is_a_problem(home) -> None:
    """A null byte in `models_dirs` is no crash."""
    (home / "router.toml").write_text(f"[router]\nmodels_dirs = [{json.dumps('a' + chr(0))}]\n")
    with pytest.raises(ConfigError):
        load_config(home / "router.toml")
