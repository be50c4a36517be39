"""What scans and imports leave in the state directory, and the configuration that comes of it."""

from __future__ import annotations

import os
import threading
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llama_router.config.catalog import Catalog, ScanReport
from llama_router.config.file import read_file
from llama_router.config.load import LoadedConfig
from llama_router.core.config.names import ModelId
from llama_router.core.config.reload import ReloadPlan, plan_reload
from llama_router.core.config.specs import RouterSpec
from llama_router.errors.config import ConfigError
from llama_router.models import found_file
from tests.gguf_bytes import model_keys, projector_keys, write


class Home:
    """A home with a folder of models, a configuration and a state directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.state = folder / "state"
        self.config = folder / "router.toml"
        self.config.touch()
        self.catalog = self.restarted()

    def restarted(self) -> Catalog:
        """Return the catalog of another process."""
        self.catalog = Catalog(self.state, {"HOME": str(self.folder)})
        return self.catalog

    def scan(self, **options: Any) -> ScanReport:
        router = RouterSpec(models_dirs=(str(self.models),))
        return self.catalog.scan(router, **options)

    def load(self, text: str = "", **options: Any) -> LoadedConfig:
        self.config.write_text(text)
        return self.catalog.load(self.config, **options)

    def ids(self, text: str = "") -> list[str]:
        return [str(model) for model in self.load(text).config.models]

    def remembered(self) -> Mapping[str, Any]:
        return tomllib.loads((self.state / found_file.NAME).read_text())["models"]


@pytest.fixture
def home(tmp_path) -> Home:
    """A home with the models a and b."""
    home = Home(tmp_path)
    write(home.models / "a.gguf")
    write(home.models / "b.gguf", model_keys("bert", pooling_type=4))
    return home


def reasons(scanned: ScanReport) -> list[str]:
    return [warning.reason for warning in scanned.warnings]


# --- auto ----------------------------------------------------------------------------


def test_a_scan_remembers_what_it_found(home) -> None:
    """In a file of the machine's own, with everything that is special about a model."""
    scanned = home.scan()
    assert (scanned.models, scanned.new, scanned.removed) == (("a", "b"), ("a", "b"), ())
    assert home.remembered()["b"] == {
        "state": "auto",
        "path": str(home.models / "b.gguf"),
        "found_args": ["--reranking", "--batch-size", "4096", "--ubatch-size", "4096"],
        "aliases": ["b.gguf"],
        "info": {
            "kind": "rerank",
            "architecture": "bert",
            "name": "A model",
            "context_length": 8192,
            "size_bytes": (found := (home.models / "b.gguf").stat()).st_size,
            "versions": [f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"],
        },
    }
    assert home.ids() == ["a", "b"]
    home.restarted()
    assert home.ids() == ["a", "b"]


def test_auto_models_go_with_their_files(home) -> None:
    """New ones come, and the counts say so."""
    home.scan()
    (home.models / "a.gguf").unlink()
    write(home.models / "c.gguf")
    scanned = home.scan()
    assert (scanned.models, scanned.new, scanned.removed) == (("b", "c"), ("c",), ("a",))
    assert home.ids() == ["b", "c"]


def test_a_scan_that_finds_the_same_writes_nothing(home) -> None:
    """The file keeps its time: who watches it sees no change."""
    home.scan()
    before = (home.state / found_file.NAME).stat()
    scanned = home.restarted().scan(RouterSpec(models_dirs=(str(home.models),)))
    assert (scanned.new, scanned.removed) == ((), ())
    after = (home.state / found_file.NAME).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_scan_that_is_not_kept_leaves_no_trace(home) -> None:
    """``check`` looks, but changes nothing."""
    home.scan(keep=False)
    assert home.ids() == ["a", "b"]
    assert not home.state.exists()


def test_caches_are_scanned_unless_they_are_not_wanted(home) -> None:
    """Where the environment says they are."""
    cache = home.folder / ".cache" / "llama.cpp"
    write(cache / "cached.gguf")
    assert home.scan().models == ("a", "b", "cached")
    router = RouterSpec(models_dirs=(str(home.models),), scan_caches=False)
    assert home.catalog.scan(router).removed == ("cached",)


def test_a_model_whose_file_vanished_since_is_not_offered(home) -> None:
    """The next scan drops it; until then nobody may ask for it."""
    home.scan()
    (home.models / "a.gguf").unlink()
    assert home.ids() == ["b"]
    assert "a" in home.remembered()


# --- manual --------------------------------------------------------------------------


def test_imported_models_stay_when_their_files_are_gone(home) -> None:
    """A scan never touches them; they are offered again when the disk is back."""
    imported = home.catalog.import_folder(home.models)
    assert imported.new == ("a", "b")
    home.models.rename(home.folder / "away")
    scanned = home.scan()
    assert scanned.removed == ()
    assert home.remembered().keys() == {"a", "b"}
    assert home.ids() == []
    (home.folder / "away").rename(home.models)
    assert home.ids() == ["a", "b"]


def test_importing_again_changes_nothing(home) -> None:
    """Nor does a scan of the same folder find the models once more."""
    home.catalog.import_folder(home.models)
    before = home.remembered()
    again = home.catalog.import_folder(home.models)
    assert (again.models, again.new, again.removed) == (("a", "b"), (), ())
    assert home.remembered() == before
    assert home.scan().models == ()
    assert home.remembered() == before


def test_an_import_adds_what_is_new(home) -> None:
    """And a projector that came later."""
    home.catalog.import_folder(home.models)
    write(home.models / "more" / "c.gguf")
    write(home.models / "mmproj-F16.gguf", projector_keys())
    assert home.catalog.import_folder(home.models).new == ("c",)
    assert home.remembered()["a"]["mmproj"] == str(home.models / "mmproj-F16.gguf")


def test_an_import_takes_over_what_a_scan_has_found(home) -> None:
    """The model stays what it is called, and stays for good."""
    home.scan()
    home.catalog.import_folder(home.models)
    assert {table["state"] for table in home.remembered().values()} == {"manual"}
    (home.models / "a.gguf").unlink()
    home.scan()
    assert home.remembered().keys() == {"a", "b"}


def test_two_imported_folders_may_have_namesakes(home) -> None:
    """The later one is told apart by its folder, each time it is imported."""
    home.catalog.import_folder(home.models)
    write(home.folder / "other" / "a.gguf")
    first = home.catalog.import_folder(home.folder / "other")
    assert first.new == ("other/a",)
    assert "another model is called 'a'; this one is called 'other/a'" in reasons(first)
    again = home.catalog.import_folder(home.folder / "other")
    assert (again.models, again.new) == (("other/a",), ())
    assert home.remembered().keys() == {"a", "b", "other/a"}


def test_a_scan_does_not_take_the_name_of_an_imported_model(home) -> None:
    """Its own model gets another one."""
    home.catalog.import_folder(home.models)
    home.models = home.folder / "scanned"
    write(home.models / "a.gguf")
    assert home.scan().models == ("scanned/a",)


# --- The file ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"[models",
        b"\xff\xfe",
        b"models = 3",
        b"[[models]]",
        b"[models.x]\npath = 3",
        b"[models.x]\nstate = 'auto'",
        b"[models.x]\nstate = 'auto'\npath = '/x'\nfound_args = ['$nope']",
        b"[models.x]\nstate = 'odd'\npath = '/x'",
        b"[models.x]\nstate = 'auto'\npath = '/x'\ncommand = ['rm']",
        b"models.x = 3",
        b"[models.x]\nstate = 'auto'\npath = '/x'\naliases = ['y', 'y']",
        b"[models.'']\nstate = 'auto'\npath = '/x'",
        b"startup_model = 3",
        b"a = " + b"[" * 5000,
    ],
)
def test_a_damaged_file_costs_no_more_than_what_was_in_it(home, content) -> None:
    """The router starts, says so, and scans anew."""
    home.state.mkdir()
    (home.state / found_file.NAME).write_bytes(content)
    assert home.ids() == []
    scanned = home.scan()
    assert scanned.models == ("a", "b")
    assert home.ids() == ["a", "b"]
    assert home.remembered().keys() == {"a", "b"}


def test_what_is_usable_in_a_damaged_file_is_kept(home) -> None:
    """One wrong table does not take the imported models along."""
    home.catalog.import_folder(home.models)
    path = home.state / found_file.NAME
    path.write_text(path.read_text() + "\n[models.x]\npath = 3\n")
    scanned = home.scan()
    assert any("'x' is left out" in reason for reason in reasons(scanned))
    assert home.remembered().keys() == {"a", "b"}


def test_a_file_that_cannot_be_parsed_is_put_aside(home) -> None:
    """There may be imported models in it."""
    home.catalog.import_folder(home.models)
    path = home.state / found_file.NAME
    damaged = path.read_text() + "[models"
    path.write_text(damaged)
    home.restarted()
    home.scan()
    assert path.with_suffix(".toml.damaged").read_text() == damaged


def test_a_file_that_is_no_file_is_not_waited_for(home) -> None:
    """A FIFO in its place is replaced."""
    home.state.mkdir()
    os.mkfifo(home.state / found_file.NAME)
    assert home.ids() == []
    assert home.scan().models == ("a", "b")
    home.restarted()
    assert home.ids() == ["a", "b"]


def test_models_are_known_although_they_cannot_be_kept(home) -> None:
    """A state directory that is a file, for instance."""
    home.state.touch()
    scanned = home.scan()
    assert not scanned.is_stored
    assert "what was found cannot be kept" in reasons(scanned)[0]
    assert home.ids() == ["a", "b"]


def test_another_process_may_import_meanwhile(home) -> None:
    """A running router sees it when it reads its configuration again."""
    home.scan()
    write(home.folder / "other" / "c.gguf")
    Catalog(home.state, {}).import_folder(home.folder / "other")
    assert home.ids() == ["a", "b", "c"]
    assert home.scan().removed == ()
    assert home.ids() == ["a", "b", "c"]


def test_imports_at_the_same_time_all_count(home) -> None:
    """Each reads, changes and writes while it alone may."""
    folders = [home.folder / f"f{n}" for n in range(8)]
    for n, folder in enumerate(folders):
        write(folder / f"m{n}.gguf")
    threads = [
        threading.Thread(target=Catalog(home.state, {}).import_folder, args=(folder,))
        for folder in folders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert home.remembered().keys() == {f"m{n}" for n in range(8)}


# --- The configuration that comes of it ----------------------------------------------


def test_router_toml_overlays_what_was_found(home) -> None:
    """And is not touched."""
    home.scan()
    text = '[models.b]\ngroup = "g"\nargs = ["-v"]\n'
    models = {str(m): spec for m, spec in home.load(text).config.models.items()}
    assert models["b"].group == "g"
    assert (models["b"].spawn.args[0], models["b"].spawn.args[-1]) == ("--reranking", "-v")
    assert home.config.read_text() == text


def test_no_found_model_makes_a_configuration_unusable(home) -> None:
    """Settings that do not fit one are the user's affair, not the router's end."""
    home.scan()
    loaded = home.load('[default_spawn]\nargs = ["--mmproj", "$mmproj"]\n')
    assert loaded.config.models == {}
    assert any("'$mmproj'" in str(warning) for warning in loaded.warnings)


def test_mistakes_in_router_toml_are_still_found_with_their_lines(home) -> None:
    """Also inside a table that overlays a found model."""
    home.scan()
    with pytest.raises(ConfigError) as caught:
        home.load("[models.b]\ngruop = 'x'\n\n[router]\nport = '1'\nstartup_model = 'c'\n")
    assert [problem.line for problem in caught.value.problems] == [2, 5, 6]


def test_settings_for_a_model_that_is_gone_are_a_warning_with_a_line(home) -> None:
    """The file may come back."""
    home.scan()
    (home.models / "b.gguf").unlink()
    home.scan()
    loaded = home.load("\n[models.b]\ngroup = 'x'\n")
    assert list(loaded.config.models) == ["a"]
    (warning,) = loaded.warnings
    assert (warning.line, warning.location) == (2, "models.b")


def test_a_file_with_mistakes_says_nothing_about_absent_models(home) -> None:
    """No scan may have been made because of them."""
    with pytest.raises(ConfigError) as refused:
        home.load("\n[router]\nport = 'x'\n[models.gone]\ngroup = 'g'\n")
    assert refused.value.warnings == ()


def test_mistakes_in_models_that_are_left_out_are_said_with_all_others(home) -> None:
    """A name that is taken, an unknown key, a model that is not there to be started with."""
    home.scan()
    text = (
        "[router]\n"
        "startup_model = 'gone'\n"
        "home_model = 5\n"
        "[models.gone]\n"  # has no path, and no scan finds it
        "aliases = ['mine']\n"
        "ttl = 5\n"
        "[models.other]\n"
        "path = 'models/a.gguf'\n"
        "aliases = ['mine']\n"
    )
    with pytest.raises(ConfigError) as refused:
        home.load(text)
    said = [(problem.line, problem.location) for problem in refused.value.problems]
    assert said == [
        (2, "router.startup_model"),
        (3, "router.home_model"),
        (5, "models.gone.aliases[0]"),
        (6, "models.gone.ttl"),
    ]
    assert refused.value.warnings == ()  # that it is left out has its reason there
    with pytest.raises(ConfigError) as refused:
        home.load(text, running=True)  # then it is of no account which one is loaded at start
    assert (2, "router.startup_model") in [(p.line, p.location) for p in refused.value.warnings]
    with pytest.raises(ConfigError, match=r"models\.gone\.ttl: unknown key"):
        home.load("[models.gone]\nttl = 5\n")


def test_a_rescan_without_a_change_changes_nothing(home) -> None:
    """Every model is the very same object, so that nothing is even compared."""
    home.scan()
    current = home.load("[models.b]\ngroup = 'x'\n").config
    home.scan()
    config = home.catalog.reload(read_file(home.config), current).config
    assert all(config.models[model] is spec for model, spec in current.models.items())
    assert plan_reload(current, config) == ReloadPlan()


def test_a_rescan_restarts_only_what_changed(home) -> None:
    """Here a model that got a projector."""
    home.scan()
    write(home.models / "c.gguf")
    current = home.load().config
    write(home.models / "mmproj-F16.gguf", projector_keys())
    (home.models / "b.gguf").unlink()
    home.scan()
    plan = plan_reload(current, home.catalog.reload(read_file(home.config), current).config)
    assert plan == ReloadPlan(
        add=frozenset({ModelId("c")}),
        remove=frozenset({ModelId("b")}),
        restart=frozenset({ModelId("a")}),
    )


def replaced(path: Path, *, by: Path | None = None) -> None:
    """Replace a file by another one with the same content, as ``mv`` does."""
    new = by or path.with_suffix(".new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def test_a_replaced_file_of_a_found_model_is_noticed(home) -> None:
    """Although its header, its size and its name are the same; the others keep running."""
    home.scan()
    current = home.load().config
    replaced(home.models / "a.gguf")
    home.scan()
    config = home.catalog.reload(read_file(home.config), current).config
    assert plan_reload(current, config) == ReloadPlan(restart=frozenset({ModelId("a")}))
    again = home.catalog.reload(read_file(home.config), config).config
    assert plan_reload(config, again) == ReloadPlan()


@pytest.mark.parametrize(
    "name", ["x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "eyes.gguf", "draft.gguf"]
)
def test_every_replaced_file_of_a_written_model_is_noticed(home, name) -> None:
    """Parts, the projector, the draft; also one that was written in place."""
    for each in ("x-00001-of-00002.gguf", "x-00002-of-00002.gguf", "eyes.gguf", "draft.gguf"):
        write(home.folder / each)
    text = (
        "[models.x]\npath = 'x-00001-of-00002.gguf'\nmmproj = 'eyes.gguf'\n"
        f"args = ['--mmproj', '$mmproj', '--model-draft', '{home.folder}/draft.gguf']\n"
    )
    current = home.load(text).config
    assert current.file_versions.keys() == {ModelId("x")}
    replaced(home.folder / name)
    config = home.catalog.reload(read_file(home.config), current).config
    assert plan_reload(current, config).restart == {ModelId("x")}
    info = (home.folder / name).stat()
    os.utime(home.folder / name, ns=(0, info.st_mtime_ns + 1))
    written = home.catalog.reload(read_file(home.config), config).config
    assert plan_reload(config, written).restart == {ModelId("x")}


def test_a_file_that_was_missing_between_two_looks_is_compared_with_the_first(home) -> None:
    """Nothing is restarted for its absence, or if it comes back as it was."""
    path = write(home.folder / "x.gguf")
    first = home.load("[models.x]\npath = 'x.gguf'\n").config
    path.rename(home.folder / "away")
    second = home.catalog.reload(read_file(home.config), first).config
    (home.folder / "away").rename(path)
    third = home.catalog.reload(read_file(home.config), second).config
    assert plan_reload(first, second).restart == plan_reload(second, third).restart == set()
    path.unlink()
    second = home.catalog.reload(read_file(home.config), third).config
    replaced(write(path))
    os.utime(path, ns=(0, 7))
    third = home.catalog.reload(read_file(home.config), second).config
    assert plan_reload(second, third).restart == {ModelId("x")}


def test_a_new_version_of_a_file_is_read_whole_again(home) -> None:
    """It may have been truncated since the last scan."""
    home.scan()
    os.truncate(home.models / "a.gguf", (home.models / "a.gguf").stat().st_size - 1)
    scanned = home.scan()
    assert scanned.removed == ("a",)
    assert reasons(scanned) == ["it was truncated: its last 1 bytes are missing"]


def test_without_a_configuration_file_the_models_found_are_all(home) -> None:
    """If it need not be there; if it appears, it counts."""
    home.config.unlink()
    catalog = Catalog(home.state, {}, optional=True)
    catalog.import_folder(home.models)
    assert list(catalog.load(home.config).config.models) == ["a", "b"]
    assert home.ids("[models.c.spawn]\ncommand = ['/bin/sh']\n") == ["c", "a", "b"]
    home.config.unlink()
    with pytest.raises(ConfigError):
        home.catalog.load(home.config)
