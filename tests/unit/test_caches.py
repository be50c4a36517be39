"""Caches of llama.cpp and huggingface_hub, and folders: what a scan makes of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from llama_router.models.caches import Caches, find_caches
from llama_router.models.discovery.discover import discover
from llama_router.models.discovery.found import Discovery
from llama_router.models.scan import scan
from tests.gguf_bytes import UINT16, Typed, model_keys, projector_keys, write
from tests.privileges import like_anybody


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """The cache of an older llama.cpp."""
    (tmp_path / "flat").mkdir()
    return tmp_path / "flat"


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """The cache of huggingface_hub."""
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


def look(flat: Path | None = None, *hubs: Path, folders: tuple[Path, ...] = ()) -> Discovery:
    caches = None if flat is None else Caches(flat, hubs)
    found = scan(caches, folders)
    discovery = discover(found.collections)
    return Discovery(discovery.models, (*found.warnings, *discovery.warnings))


def reasons(discovery: Discovery) -> list[str]:
    return [f"{Path(warning.path).name}: {warning.reason}" for warning in discovery.warnings]


def manifest(flat: Path, name: str, document: object) -> Path:
    path = flat / f"manifest={name}.json"
    path.write_text(json.dumps(document) if not isinstance(document, str) else document)
    return path


def in_hub(hub: Path, repo: str, revision: str, name: str, **keys: object) -> Path:
    """Put a file into a snapshot, as a link to a blob, which is how it is done."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    blob = folder / "blobs" / f"{revision}-{name.replace('/', '_')}"
    write(blob, keys.get("keys", model_keys()))  # type: ignore[arg-type]
    link = folder / "snapshots" / revision / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


# --- Where they are ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "flat", "hubs"),
    [
        ({}, "/h/.cache/llama.cpp", ["/h/.cache/huggingface/hub"]),
        ({"XDG_CACHE_HOME": "/x"}, "/x/llama.cpp", ["/x/huggingface/hub"]),
        ({"XDG_CACHE_HOME": "/x", "HF_HOME": "/f"}, "/x/llama.cpp", ["/f/hub"]),
        ({"HF_HOME": "/f", "HUGGINGFACE_HUB_CACHE": "/o"}, "/h/.cache/llama.cpp", ["/o"]),
        (
            {"HUGGINGFACE_HUB_CACHE": "/o", "HF_HUB_CACHE": "/n", "HF_HOME": "/f"},
            "/h/.cache/llama.cpp",
            ["/n"],
        ),
        ({"LLAMA_CACHE": "/l", "HF_HUB_CACHE": "/n"}, "/l", ["/l", "/n"]),
        ({"LLAMA_CACHE": "/l"}, "/l", ["/l", "/h/.cache/huggingface/hub"]),
        ({"LLAMA_CACHE": "", "HF_HOME": ""}, "/h/.cache/llama.cpp", ["/h/.cache/huggingface/hub"]),
        ({"LLAMA_CACHE": "/l", "HF_HUB_CACHE": "/l"}, "/l", ["/l"]),
        ({"HF_HOME": "~/f"}, "/h/.cache/llama.cpp", ["/h/f/hub"]),
    ],
)
def test_variables_are_looked_at_in_the_order_of_llama_cpp(environ, flat, hubs) -> None:
    """The first that is set counts; an empty one is not set."""
    caches = find_caches({"HOME": "/h", **environ}, platform="linux")
    assert (str(caches.flat), [str(hub) for hub in caches.hubs]) == (flat, hubs)


def test_on_a_mac_the_old_cache_is_in_the_library() -> None:
    """That of Hugging Face is where it always is."""
    caches = find_caches({"HOME": "/h"}, platform="darwin")
    assert str(caches.flat) == "/h/Library/Caches/llama.cpp"
    assert [str(hub) for hub in caches.hubs] == ["/h/.cache/huggingface/hub"]


def test_caches_that_are_not_there_are_empty(tmp_path) -> None:
    """Most machines have only one of them; nothing is to be said."""
    found = look(tmp_path / "none", tmp_path / "neither")
    assert (found.models, found.warnings) == ((), ())


# --- The flat cache ------------------------------------------------------------------


def test_a_manifest_names_a_model_and_its_projector(flat) -> None:
    """Both lie in one folder, under flat names."""
    write(flat / "o_r-GGUF_sub_x-Q4_K_M.gguf")
    write(flat / "o_r-GGUF_mmproj-x-f16.gguf", projector_keys())
    write(flat / "p_q_mmproj-other-bf16.gguf", projector_keys())
    manifest(
        flat,
        "o=r-GGUF=Q4_K_M",
        {
            "ggufFile": {"rfilename": "sub/x-Q4_K_M.gguf", "size": 3},
            "mmprojFile": {"rfilename": "mmproj-x-f16.gguf"},
        },
    )
    (model,) = look(flat).models
    assert model.id == "o/r-GGUF:Q4_K_M"
    assert model.path == str(flat / "o_r-GGUF_sub_x-Q4_K_M.gguf")
    assert model.mmproj == str(flat / "o_r-GGUF_mmproj-x-f16.gguf")
    assert "x-Q4_K_M.gguf" in model.aliases


def test_the_latest_is_called_by_what_it_is(flat) -> None:
    """Without a tag, the hub chose the quantization."""
    write(flat / "o_r_x-Q4_K_M.gguf")
    manifest(flat, "o=r=latest", {"ggufFile": {"rfilename": "x-Q4_K_M.gguf"}})
    manifest(flat, "o=r=Q4_K_M", {"ggufFile": {"rfilename": "x-Q4_K_M.gguf"}})
    found = look(flat)
    assert [model.id for model in found.models] == ["o/r:Q4_K_M"]
    assert found.warnings == ()


def test_a_manifest_of_a_split_model_means_all_parts(flat) -> None:
    """It names the first one only."""
    for number in (1, 2):
        write(flat / f"o_r_big-Q8_0-{number:05}-of-00002.gguf")
    manifest(flat, "o=r=Q8_0", {"ggufFile": {"rfilename": "big-Q8_0-00001-of-00002.gguf"}})
    found = look(flat)
    assert [model.id for model in found.models] == ["o/r:Q8_0"]
    assert found.warnings == ()


def test_files_without_a_manifest_are_local_models(flat) -> None:
    """They were fetched by their address."""
    write(flat / "something.gguf")
    (flat / "something.gguf.json").write_text("{}")
    assert [model.id for model in look(flat).models] == ["something"]


@pytest.mark.parametrize(
    ("name", "document", "reason"),
    [
        ("o=r=Q4_0", "", "not a manifest"),
        ("o=r=Q4_0", "{", "not a manifest"),
        ("o=r=Q4_0", "[" * 5000, "not a manifest"),
        ("o=r=Q4_0", [], "not a manifest"),
        ("o=r=Q4_0", {}, "ggufFile"),
        ("o=r=Q4_0", {"ggufFile": None}, "ggufFile"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": 3}}, "rfilename"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": "../../etc/passwd.gguf"}}, "not the path"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": "/etc/x.gguf"}}, "not the path"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": "a/../b.gguf"}}, "not the path"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": "a\0.gguf"}}, "not the path"),
        ("o=r=Q4_0", {"ggufFile": {"rfilename": "x"}, "mmprojFile": {"rfilename": ".."}}, "path"),
        ("..=..=Q4_0", {"ggufFile": {"rfilename": "x.gguf"}}, "OWNER=REPO=TAG"),
        ("o=r", {"ggufFile": {"rfilename": "x.gguf"}}, "OWNER=REPO=TAG"),
        ("o=.=Q4_0", {"ggufFile": {"rfilename": "x.gguf"}}, "OWNER=REPO=TAG"),
    ],
)
def test_a_broken_manifest_is_skipped_with_a_word(flat, name, document, reason) -> None:
    """It costs nothing else: the other one is followed, and files stay what they are."""
    write(flat / "p_q_fine-Q4_0.gguf")
    manifest(flat, "p=q=Q4_0", {"ggufFile": {"rfilename": "fine-Q4_0.gguf"}})
    manifest(flat, name, document)
    found = look(flat)
    assert [model.id for model in found.models] == ["p/q:Q4_0"]
    (said,) = reasons(found)
    assert reason in said


def test_a_manifest_that_is_no_file_is_not_waited_for(flat) -> None:
    """A FIFO, a folder, a link to nothing."""
    os.mkfifo(flat / "manifest=o=r=A.json")
    (flat / "manifest=o=r=B.json").mkdir()
    (flat / "manifest=o=r=C.json").symlink_to("nowhere")
    found = look(flat)
    assert found.models == ()
    assert len(found.warnings) == 3


# --- The cache of the hub ------------------------------------------------------------


def test_models_of_the_hub_are_found_in_their_snapshots(hub, flat) -> None:
    """With their projector, by the path of the link."""
    link = in_hub(hub, "o/r-GGUF", "aa", "x-Q4_K_M.gguf")
    eyes = in_hub(hub, "o/r-GGUF", "aa", "mmproj-BF16.gguf", keys=projector_keys())
    (model,) = look(flat, hub).models
    assert (model.id, model.path, model.mmproj) == ("o/r-GGUF:Q4_K_M", str(link), str(eyes))


def test_the_snapshot_of_a_branch_comes_first(hub, flat) -> None:
    """Main before others, then by age; what only an older one has is found, too."""
    for revision in ("aa", "bb", "cc"):
        in_hub(hub, "o/r", revision, "x-Q4_0.gguf")
    in_hub(hub, "o/r", "bb", "old-Q8_0.gguf")
    refs = hub / "models--o--r" / "refs"
    (refs / "pr").mkdir(parents=True)
    (refs / "pr" / "1").write_text("bb")
    (refs / "main").write_text("cc\n")
    paths = {model.id: model.path for model in look(flat, hub).models}
    assert paths.keys() == {"o/r:Q4_0", "o/r:Q8_0"}
    assert "/cc/" in paths["o/r:Q4_0"]
    (refs / "main").unlink()
    assert "/bb/" in next(m.path for m in look(flat, hub).models if m.id == "o/r:Q4_0")
    (refs / "pr" / "1").unlink()
    snapshots = hub / "models--o--r" / "snapshots"
    os.utime(snapshots / "aa", (2e9, 2e9))
    assert "/aa/" in next(m.path for m in look(flat, hub).models if m.id == "o/r:Q4_0")


def test_dangling_links_are_skipped(hub, flat) -> None:
    """Blobs that somebody removed to have room; a half-fetched split model is incomplete."""
    link = in_hub(hub, "o/r", "aa", "x-Q4_0.gguf")
    link.resolve().unlink()
    in_hub(hub, "o/r", "aa", "y-Q8_0-00001-of-00002.gguf")
    in_hub(hub, "o/r", "aa", "y-Q8_0-00002-of-00002.gguf").resolve().unlink()
    found = look(flat, hub)
    assert found.models == ()
    assert reasons(found) == [
        "y-Q8_0-00001-of-00002.gguf: parts of this split model are missing: 1 of 2"
    ]


def test_a_projector_may_be_in_another_snapshot(hub, flat) -> None:
    """It belongs to the repository."""
    in_hub(hub, "o/r", "aa", "x-Q4_0.gguf")
    eyes = in_hub(hub, "o/r", "bb", "mmproj-F16.gguf", keys=projector_keys())
    (model,) = look(flat, hub).models
    assert model.mmproj == str(eyes)


def test_a_quantization_that_no_name_says_is_read_from_behind_the_vocabulary(hub, flat) -> None:
    """There the quantizer wrote it."""
    in_hub(hub, "o/r", "aa", "model.gguf", keys=model_keys(vocabulary=100))
    assert [model.id for model in look(flat, hub).models] == ["o/r:Q4_K_M"]


@pytest.mark.parametrize("name", ["models--..--x", "models--a--..", "models--", "models--a b--c"])
def test_a_repository_with_a_wrong_name_is_skipped(hub, flat, name) -> None:
    """It could lead out of the cache; data sets and the like are not even mentioned."""
    write(hub / name / "snapshots" / "aa" / "x-Q4_0.gguf")
    write(hub / "datasets--a--b" / "snapshots" / "aa" / "x-Q4_0.gguf")
    found = look(flat, hub)
    assert found.models == ()
    assert ["not that of a repository" in reason for reason in reasons(found)] == [True]


def test_strange_refs_do_no_harm(hub, flat) -> None:
    """A folder, a FIFO, a huge file, no text."""
    for revision in ("aa", "bb"):
        in_hub(hub, "o/r", revision, "x-Q4_0.gguf")
    refs = hub / "models--o--r" / "refs"
    (refs / "folder").mkdir(parents=True)
    os.mkfifo(refs / "fifo")
    (refs / "huge").write_bytes(b"aa" * 10_000)
    (refs / "bytes").write_bytes(b"\xff\xfe")
    (refs / "main").symlink_to("main")
    assert [model.id for model in look(flat, hub).models] == ["o/r:Q4_0"]


# --- Folders -------------------------------------------------------------------------


def test_folders_are_searched_at_any_depth(tmp_path) -> None:
    """Through links as well, but not through hidden folders."""
    write(tmp_path / "m" / "top.gguf")
    write(tmp_path / "m" / "a" / "b" / "c" / "deep.gguf")
    write(tmp_path / "m" / ".cache" / "hidden.gguf")
    write(tmp_path / "elsewhere" / "linked.gguf")
    (tmp_path / "m" / "link").symlink_to(tmp_path / "elsewhere")
    found = look(folders=(tmp_path / "m",))
    assert [model.id for model in found.models] == ["top", "deep", "linked"]


def test_circles_of_links_are_survived(tmp_path) -> None:
    """To the folder itself, to one above, and of links that lead nowhere else."""
    folder = tmp_path / "m"
    write(folder / "x" / "one.gguf")
    (folder / "x" / "self").symlink_to(".")
    (folder / "x" / "up").symlink_to("../..")
    (folder / "loop").symlink_to("loop")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    found = look(folders=(folder,))
    assert [model.id for model in found.models] == ["one"]
    assert len(found.warnings) == 1


def test_a_file_is_called_by_its_own_name(tmp_path) -> None:
    """Not by that of a link to it, or of a folder that is one, though they come first."""
    write(tmp_path / "real" / "model.gguf", model_keys())
    (tmp_path / "real" / "a-link.gguf").symlink_to("model.gguf")
    (tmp_path / "a-folder").symlink_to("real")
    (model,) = look(folders=(tmp_path,)).models
    assert (model.id, model.path) == ("model", str(tmp_path / "real" / "model.gguf"))


def test_what_only_looks_like_a_model_file_is_skipped(tmp_path) -> None:
    """A folder is searched; a FIFO, an empty file and a damaged one are mentioned."""
    folder = tmp_path / "m"
    write(folder / "folder.gguf" / "inside.gguf")
    os.mkfifo(folder / "fifo.gguf")
    (folder / "empty.gguf").touch()
    (folder / "damaged.gguf").write_bytes(write(folder / "fine.gguf").read_bytes()[:40])
    (folder / "notes.txt").touch()
    found = look(folders=(folder,))
    assert [model.id for model in found.models] == ["fine", "inside"]
    assert reasons(found) == [
        "damaged.gguf: it ends in the middle of its header",
        "empty.gguf: it is empty",
        "fifo.gguf: it is not a file",
    ]


@pytest.mark.parametrize(
    "name", ["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "mmproj-F16.gguf"]
)
def test_a_truncated_file_is_left_out_with_a_word(tmp_path, name) -> None:
    """A model, any of its parts, a projector."""
    for each in ("a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf"):
        write(tmp_path / each)
    write(tmp_path / "mmproj-F16.gguf", projector_keys())
    os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 1)
    found = look(folders=(tmp_path,))
    kept = {"a", "b"} - {name[0]}
    assert {model.id for model in found.models} == kept
    assert all((model.mmproj is None) is (name[0] == "m") for model in found.models)
    assert reasons(found) == [f"{name}: it was truncated: its last 1 bytes are missing"]


def test_a_part_under_another_name_is_left_out_with_a_word(tmp_path) -> None:
    """llama.cpp finds no other parts of it."""
    keys = model_keys() | {"split.no": Typed(UINT16, 0), "split.count": Typed(UINT16, 2)}
    write(tmp_path / "a.gguf", keys)
    found = look(folders=(tmp_path,))
    assert found.models == ()
    (said,) = reasons(found)
    assert "its name must end in '-00001-of-00002.gguf'" in said


def test_draft_layers_in_a_file_of_their_own_are_no_model(tmp_path) -> None:
    """They have the architecture of the model, and only its last layer."""
    write(tmp_path / "a-Q8_0.gguf", names=["token_embd.weight", "blk.0.x", "blk.1.x"])
    write(tmp_path / "a-MTP-Q8_0.gguf", names=["token_embd.weight", "blk.2.nextn.x"])
    assert [model.id for model in look(folders=(tmp_path,)).models] == ["a-Q8_0"]


def test_only_a_new_version_of_a_file_is_read_whole(tmp_path) -> None:
    """The others were complete in an earlier scan."""
    path = write(tmp_path / "a.gguf")
    (file,) = scan(None, [tmp_path]).collections[0].files
    assert file.version is not None
    with path.open("r+b") as opened:  # damaged behind the keys, without another time or size
        opened.seek(path.stat().st_size - 80)
        opened.write(b"\xff" * 40)
    os.utime(path, ns=(0, int(file.version.rpartition(":")[2])))
    (again,) = scan(None, [tmp_path], complete={file.version}).collections[0].files
    assert again == file
    os.utime(path, ns=(0, 5))
    (other,) = scan(None, [tmp_path], complete={file.version}).collections[0].files
    assert other.fault is not None


def test_a_name_that_is_no_text_is_survived(tmp_path) -> None:
    """File systems allow any bytes."""
    folder = os.fsencode(tmp_path / "m")
    write(tmp_path / "m" / "fine.gguf")
    os.link(folder + b"/fine.gguf", folder + b"/\xff\xfe.gguf")
    found = look(folders=(tmp_path / "m",))
    assert [model.id for model in found.models] == ["fine"]
    assert len(found.warnings) == 1


def test_a_folder_that_is_not_there_is_mentioned(tmp_path) -> None:
    """A disk may not be mounted."""
    assert reasons(look(folders=(tmp_path / "gone",))) == ["gone: there is no such folder"]


def test_a_file_of_a_cache_is_not_found_again_in_a_folder(hub, flat, tmp_path) -> None:
    """Somebody may name the cache as a folder, or link to it."""
    link = in_hub(hub, "o/r", "aa", "x-Q4_0.gguf")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine.gguf").symlink_to(link)
    found = look(flat, hub, folders=(hub, tmp_path / "m"))
    assert [model.id for model in found.models] == ["o/r:Q4_0"]


def test_what_may_not_be_read_is_mentioned(tmp_path) -> None:
    """A folder and a file; everything else is found."""
    write(tmp_path / "fine.gguf")
    write(tmp_path / "secret.gguf").chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    with like_anybody():
        found = look(folders=(tmp_path,))
    assert [model.id for model in found.models] == ["fine"]
    assert len(found.warnings) == 2
