"""Models that are not deleted, because the configuration uses them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tomlkit

from llama_router.config.load import load_config
from llama_router.config.merge import FoundModels
from llama_router.config.removal import Deletion, check_unused
from llama_router.config.usages import PathReference, find_usages, path_references
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.downloads import ModelInUseError
from llama_router.hub import cache_deletion
from llama_router.hub.cache import RepoCache
from llama_router.models.found_file import FoundFileContent
from tests.privileges import like_anybody

REPO = "acme/tiny"
COMMIT, OLD = "a" * 40, "b" * 40
Q4, Q8, MMPROJ = "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf", "mmproj-F16.gguf"
PARTS = ("big-Q4_K_M-00001-of-00002.gguf", "big-Q4_K_M-00002-of-00002.gguf")


def add(cache: RepoCache, name: str, commit: str = COMMIT) -> Path:
    """Put a file into the cache, as a download does; return its name there."""
    blob = cache.folder / "blobs" / f"{abs(hash((name, commit))):064x}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_text(name)
    path = cache.folder / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(blob, path.parent))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> RepoCache:
    """The cache of a repository with one model and its projector."""
    cache = RepoCache(tmp_path / "hub", REPO)
    add(cache, Q4)
    add(cache, MMPROJ)
    return cache


@pytest.fixture
def file(cache: RepoCache) -> Path:
    """The file of the model."""
    return cache.folder / "snapshots" / COMMIT / Q4


def refusal(
    folder: Path, cache: RepoCache, text: str, tag: str | None = None, **more: object
) -> str:
    """Return why the model is not deleted; empty if it may be."""
    config = folder / "router.toml"
    config.write_text(text)
    deletion = Deletion.of(cache, cache.model_by_tag(tag))
    try:
        check_unused(deletion, config, **more)  # type: ignore[arg-type] # by name
    except ModelInUseError as exc:
        return str(exc)
    return ""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[models.a]\npath = '{file}'\n", "line 2: models.a.path"),
        ("[models.a]\npath = '{blob}'\n", "line 2: models.a.path"),
        ("[models.a]\npath = '{odd}'\n", "line 2: models.a.path"),
        ("[models.a]\npath = 'link.gguf'\n", "line 2: models.a.path"),
        ("[models.a]\npath = 'hard.gguf'\n", "line 2: models.a.path"),
        ("[models.a]\npath = '{snapshot}'\n", "line 2: models.a.path"),
        ("[models.a]\npath = 'own.gguf'\nmmproj = '{mmproj}'\n", "line 3: models.a.mmproj"),
        (
            "[models.a]\nspawn.command = ['x']\nargs = [\n'--model-draft',\n'{file}']\n",
            "line 5: models.a.args[1]",
        ),
        ("[models.a]\nargs = ['--lora=own.gguf,{file}']\n", "line 2: models.a.args[0]"),
        (
            "[models.a]\nspawn.command = ['sh', '-c', 'exec llama-server -m \"{file}\"']\n",
            "line 2: models.a.spawn.command[2]",
        ),
        (
            "[models.a]\nspawn = {{ cwd = '{snapshot}', args = ['./{name}'] }}\n",
            "line 2: models.a.spawn.args[0]",
        ),
        ("[models.a.spawn.env]\nDRAFT = '{file}'\n", "line 2: models.a.spawn.env.DRAFT"),
        ("[templates.t]\nargs = ['-md', '{file}']\n", "line 2: templates.t.args[1]"),
        ("[default_spawn]\nargs = ['-md', '{file}']\n", "line 2: default_spawn.args[1]"),
        ("[router]\nmodels_dirs = ['{snapshot}']\n", "line 2: router.models_dirs[0]"),
        ("[router]\nstartup_model = 'acme/tiny:Q4_K_M'\n", "line 2: router.startup_model"),
        ("[router]\nhome_model = 'ACME/tiny:q4_k_m'\n", "line 2: router.home_model"),
        ("[router]\ndefault_model = 'acme/tiny:Q4_K_M'\n", "line 2: router.default_model"),
        (
            "[models.'acme/tiny:Q4_K_M']\nkeep_loaded = true\n",
            'line 1: models."acme/tiny:Q4_K_M"',
        ),
    ],
)
def test_a_use_is_found_and_said_with_its_line(
    tmp_path: Path, cache: RepoCache, file: Path, text: str, place: str
) -> None:
    """However the file is spelled or linked, and wherever the configuration has it."""
    (tmp_path / "link.gguf").symlink_to(file)
    (tmp_path / "hard.gguf").hardlink_to(file.resolve())
    (tmp_path / "own.gguf").touch()
    text = text.format(
        file=file,
        name=Q4,
        blob=file.resolve(),
        odd=f"{file.parent}/../{COMMIT}//{Q4}",
        snapshot=file.parent,
        mmproj=file.parent / MMPROJ,
    )
    said = refusal(tmp_path, cache, text)
    assert f"{tmp_path}/router.toml {place} " in said
    assert said.endswith("Take that out of the file first, and let the router apply it.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[models.a]\npath = 'own.gguf'\nargs = ['--temp', '0.7', '--alias', 'acme/tiny']\n",
        "[router]\nmodels_dirs = ['hub']\n",
        "[models.a]\nspawn = { command = ['x'], cwd = '.', env.HF_HOME = 'hub' }\n",
        "[models.'acme/tiny:Q4_K_M']\npath = 'own.gguf'\n",
        "[api_keys.k]\nkey = 'sesame, open'\nmodels = ['acme/tiny:Q4_K_M']\n",
    ],
)
def test_what_uses_nothing_of_it_is_no_reason(tmp_path: Path, cache: RepoCache, text: str) -> None:
    """Other files, folders that stay, names of models with another file, and permissions."""
    (tmp_path / "own.gguf").touch()
    assert refusal(tmp_path, cache, text) == ""


def test_a_shared_projector_may_be_used_as_long_as_it_stays(
    tmp_path: Path, cache: RepoCache, file: Path
) -> None:
    """It goes with the last model of its repository only."""
    (tmp_path / "own.gguf").touch()
    add(cache, Q8)
    text = f"[models.a]\npath = 'own.gguf'\nmmproj = '{file.parent / MMPROJ}'\n"
    assert refusal(tmp_path, cache, text, "Q8_0") == ""
    cache_deletion.remove(cache, cache.model_by_tag("Q8_0"))
    assert "line 3: models.a.mmproj" in refusal(tmp_path, cache, text)


def test_a_projector_stays_for_a_model_that_is_being_fetched(cache: RepoCache, file: Path) -> None:
    """A download of another quantization has found it here."""
    with cache.in_use():
        cache_deletion.remove(cache, cache.model_by_tag(None))
        assert (file.exists(), (file.parent / MMPROJ).exists()) == (False, True)


@pytest.mark.parametrize("named", PARTS)
def test_one_part_of_a_split_model_stands_for_all(tmp_path: Path, named: str) -> None:
    """Also where the user's folder has a link to another one only."""
    cache = RepoCache(tmp_path / "hub", "acme/big")
    files = [add(cache, part) for part in PARTS]
    (tmp_path / PARTS[0]).touch()
    (tmp_path / PARTS[1]).symlink_to(files[1])
    assert "models.a.path" in refusal(tmp_path, cache, f"[models.a]\npath = '{named}'\n")


def test_older_versions_and_leftovers_count_too(tmp_path: Path, cache: RepoCache) -> None:
    """They go with the model."""
    old = add(cache, Q4, OLD)
    assert "models.a.path" in refusal(tmp_path, cache, f"[models.a]\npath = '{old}'\n")
    unnamed = cache.folder / "blobs" / ("c" * 64)
    unnamed.touch()
    assert "models.a.path" in refusal(tmp_path, cache, f"[models.a]\npath = '{unnamed}'\n")
    with pytest.raises(ModelInUseError):
        check_unused(Deletion.of(cache, None), tmp_path / "router.toml")


def test_a_configuration_that_cannot_be_read_may_use_anything(
    tmp_path: Path, cache: RepoCache
) -> None:
    """Nothing is deleted while that cannot be told."""
    assert "line 1: not valid TOML" in refusal(tmp_path, cache, "[models")


def test_an_imported_model_is_in_use(tmp_path: Path, cache: RepoCache, file: Path) -> None:
    """It was taken in for good; one that a scan found in the cache is not."""
    for state, said in (("manual", "'m', which llama-router import took in"), ("auto", "")):
        content = FoundFileContent(models={"m": {"state": state, "path": str(file)}})
        assert said in refusal(tmp_path, cache, "", content=content)
        assert bool(said) == bool(refusal(tmp_path, cache, "", content=content))


def test_a_found_model_is_also_used_by_its_aliases(
    tmp_path: Path, cache: RepoCache, file: Path
) -> None:
    """Whatever the scan has named it."""
    table = {"state": "auto", "path": str(file), "aliases": ["acme/tiny"]}
    content = FoundFileContent(models={"m": table})
    text = "router.home_model = 'acme/tiny'\n"
    assert "router.home_model" in refusal(tmp_path, cache, text, content=content)


def test_a_link_in_a_folder_of_models_is_a_use(
    tmp_path: Path, cache: RepoCache, file: Path
) -> None:
    """A scan found the model there."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "m.gguf").symlink_to(file)
    table = {"state": "auto", "path": str(tmp_path / "mine" / "m.gguf")}
    content = FoundFileContent(models={"m": table})
    text = "[router]\nmodels_dirs = ['mine']\n"
    assert "line 2: router.models_dirs[0]" in refusal(tmp_path, cache, text, content=content)


def test_what_a_router_runs_with_counts_beside_the_file(
    tmp_path: Path, cache: RepoCache, file: Path
) -> None:
    """A change of the file that is not applied yet takes nothing out of use."""
    in_force = parse_config({"models": {"a": {"path": str(file)}}})
    said = refusal(tmp_path, cache, "", in_force=in_force)
    assert "the router still uses" in said
    assert "'a'" in said


def test_the_decision_needs_no_files() -> None:
    """It is made from names and what identifies the files."""
    document = {"models": {"a": {"path": "/x"}, "b": {"path": "/y"}}}
    seen = [
        (PathReference(("models", "a", "path"), "/x"), 1),
        (PathReference(("models", "b", "path"), "/y"), 2),
    ]
    (use,) = find_usages(document, seen, names=["z"], deleted={2})
    assert use.where == ("models", "b", "path")


def test_a_malformed_document_mentions_what_it_can() -> None:
    """A mistake elsewhere is no reason to overlook a file."""
    document = {
        "router": 1,
        "templates": [],
        "models": {"a": 1, "b": {"spawn": 2, "args": [1, "/x"], "path": 3}},
    }
    assert [each.path for each in path_references(document)] == ["/x"]


# -- The list of models ---------------------------------------------------------------


def test_the_list_does_not_offer_what_is_in_use(
    tmp_path: Path, cache: RepoCache, file: Path
) -> None:
    """A found model whose file another one needs, or for which there are settings."""
    files = {"free": file.parent / MMPROJ, "used": file, "set": add(cache, Q8)}
    found = FoundModels(
        models={name: {"path": str(path), "state": "auto"} for name, path in files.items()},
        files={name: name for name in files},
    )
    document = {
        "models": {
            "set": {"ttl_s": 1},
            "d": {"spawn": {"command": ["x"]}, "args": ["-md", str(file)]},
        }
    }
    config = tmp_path / "router.toml"
    config.write_text(tomlkit.dumps(document))
    in_use = load_config(config, found=found).config.in_use
    assert in_use == {ModelId("used"), ModelId("set")}


# -- Deleting -------------------------------------------------------------------------


def test_names_are_deleted_all_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could be put back is back; the error has the file."""
    cache = RepoCache(tmp_path, "acme/big")
    files = [add(cache, part) for part in PARTS]
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == PARTS[1]:
            raise PermissionError(13, "Permission denied", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match=PARTS[1]):
        cache_deletion.remove(cache, cache.model_by_tag(None))
    assert [file.exists() for file in files] == [True, True]
    assert len(cache.models()) == 1


def test_a_content_that_stays_is_a_leftover(
    cache: RepoCache, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is gone as a whole; the next removal takes the rest."""
    content, unlink = file.resolve(), Path.unlink

    def refuse(self: Path, *, missing_ok: bool = False) -> None:
        if self == content:
            raise PermissionError(13, "Permission denied", str(self))
        unlink(self, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(PermissionError):
            cache_deletion.remove(cache, cache.model_by_tag(None))
    assert (cache.models(), content.exists()) == ([], True)
    assert cache_deletion.remove_leftovers(cache) > 0
    assert not content.exists()


def test_a_removal_that_was_cut_is_finished_by_the_next(cache: RepoCache, file: Path) -> None:
    """Names on their way keep no content alive."""
    content = file.resolve()
    file.rename(file.with_name(f".{file.name}{cache_deletion._DELETED_SUFFIX}"))
    assert cache.models() == []
    cache_deletion.remove_leftovers(cache)
    assert not content.exists()


def test_what_an_unreadable_folder_may_link_to_stays(cache: RepoCache, file: Path) -> None:
    """A content that two snapshots share is not deleted because one of them cannot be read."""
    content = file.resolve()
    nested = cache.folder / "snapshots" / OLD / "nested" / Q4
    nested.parent.mkdir(parents=True)
    nested.symlink_to(os.path.relpath(content, nested.parent))
    nested.parent.chmod(0)
    try:
        with like_anybody(), pytest.raises(PermissionError):
            cache_deletion.remove(cache, cache.model_by_tag(None))
    finally:
        nested.parent.chmod(0o700)
    assert content.exists()


def test_what_is_deleted_was_announced(tmp_path: Path, cache: RepoCache) -> None:
    """The decision sees every file that goes."""
    add(cache, Q4, OLD)
    (cache.folder / "blobs" / ("c" * 64)).touch()
    before = {path for path in cache.folder.rglob("*") if not path.is_dir()}
    announced = set(cache_deletion.deleted_paths(cache, cache.model_by_tag(None)))
    cache_deletion.remove(cache, cache.model_by_tag(None))
    refs = {path for path in before if "refs" in path.parts}
    assert before - set(cache.folder.rglob("*")) - refs == announced
