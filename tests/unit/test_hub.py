"""Names on the hub, and which files they mean."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.errors.downloads import HubFileMissingError, HubReferenceError
from llama_router.hub.references import (
    Reference,
    RepoFile,
    best_projector,
    choose,
    is_repo,
    is_safe_path,
    models_in,
    parse_reference,
)


def files(*paths: str) -> list[RepoFile]:
    return [RepoFile(path, 1, "0" * 64) for path in paths]


def chosen(paths: list[str], tag: str | None = None, file: str | None = None) -> list[str]:
    selection = choose(files(*paths), Reference("a/b", tag, file))
    return [file.path for file in selection.files]


# -- references -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ggml-org/gemma-3-GGUF", Reference("ggml-org/gemma-3-GGUF")),
        ("a/b:Q4_K_M", Reference("a/b", "Q4_K_M")),
        ("a/b.c_d:UD-Q4_K_XL", Reference("a/b.c_d", "UD-Q4_K_XL")),
        ("https://huggingface.co/a/b", Reference("a/b")),
        ("hf.co/a/b:q8_0", Reference("a/b", "q8_0")),
        (" a/b/ ", Reference("a/b")),
    ],
)
def test_references_are_read(text, expected) -> None:
    """A name, a name with a quantization, and the address of a page."""
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "a/", "/b", "a/b/c", "a//b", "../b", "a/..", "a/../../etc", "a/b--c", "-a/b"),
        *("a/b.", "a/.b", "a/b c", "a/\nb", "a\\b/c", "a/b:", "a/b:..", "a/b:../x", "a/b:x y"),
        *("a/%2e%2e", "a/b?x", "a/b#x", "a/b\0", "ä/b", "a/b.git", "a/" + "b" * 200),
        *("file:///etc/passwd", "https://example.com/a/b"),
    ],
)
def test_other_texts_are_refused(text) -> None:
    """Nothing that could leave its folder, or mean another page, passes."""
    with pytest.raises(HubReferenceError):
        parse_reference(text)


@pytest.mark.parametrize("file", ["../x.gguf", "/x.gguf", "a/../x.gguf", "", "a//b.gguf", "a\\b"])
def test_files_outside_the_repository_are_refused(file) -> None:
    """``--hf-file`` cannot lead anywhere else."""
    with pytest.raises(HubReferenceError):
        parse_reference("a/b", file)


@given(st.text(max_size=40))
def test_what_is_called_safe_stays_inside(path) -> None:
    """However a path is written, joining it to a folder does not lead out of it."""
    if is_safe_path(path):
        joined = PurePosixPath("/cache", path)
        assert joined.is_relative_to("/cache")
        assert ".." not in joined.parts
        assert joined != PurePosixPath("/cache")


@given(st.text(alphabet="abA9-_./:\\ \n", max_size=20))
def test_repositories_have_exactly_two_harmless_parts(name) -> None:
    """Such a name becomes one folder of the cache."""
    if is_repo(name):
        user, repo = name.split("/")
        assert user not in {"", ".", ".."}
        assert repo not in {"", ".", ".."}
        assert "--" not in name


# -- choices --------------------------------------------------------------------------

MANY = ["m-BF16.gguf", "m-IQ4_XS.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "m-UD-Q4_K_XL.gguf"]


@pytest.mark.parametrize(
    ("paths", "tag", "expected"),
    [
        (MANY, None, "m-Q4_K_M.gguf"),
        (["m-BF16.gguf", "m-Q8_0.gguf"], None, "m-Q8_0.gguf"),
        (["m-IQ4_XS.gguf", "m-Q6_K.gguf"], None, "m-IQ4_XS.gguf"),
        (MANY, "q8_0", "m-Q8_0.gguf"),
        (MANY, "UD-Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (MANY, "Q4_K_XL", "m-UD-Q4_K_XL.gguf"),
        (["m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"], "Q4_K_M", "m-Q4_K_M.gguf"),
        (["m-UD-Q4_K_M.gguf", "m-Q8_0.gguf"], None, "m-UD-Q4_K_M.gguf"),
        (["Q4_0/m.gguf", "Q8_0/m.gguf"], "Q8_0", "Q8_0/m.gguf"),
        (["m-fancy.gguf", "m-Q8_0.gguf"], "m-fancy", "m-fancy.gguf"),
        (["M-Q4_K_M.GGUF"], "Q4_K_M", "M-Q4_K_M.GGUF"),
    ],
)
def test_the_tag_decides(paths, tag, expected) -> None:
    """Q4_K_M, then Q8_0, else the first; a tag in any case, as a whole before in part."""
    assert chosen(paths, tag) == [expected]


def test_the_file_decides() -> None:
    """``--hf-file`` names one, in any case, and a part stands for all of them."""
    assert chosen(MANY, file="M-bf16.gguf") == ["m-BF16.gguf"]
    split = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    assert chosen(split, file=split[1]) == split


def test_all_parts_of_a_split_come_in_order() -> None:
    """Whatever order the hub lists them in."""
    paths = [f"d/m-Q4_K_M-{n:05}-of-00012.gguf" for n in range(12, 0, -1)]
    assert chosen(paths) == paths[::-1]


def test_an_incomplete_split_is_no_model() -> None:
    """Another one is taken, and if there is none the message says why."""
    part = "m-Q4_K_M-00001-of-00002.gguf"
    assert chosen([part, "m-Q8_0.gguf"]) == ["m-Q8_0.gguf"]
    with pytest.raises(HubFileMissingError, match="only a part of a split model: m-Q4_K_M-00001"):
        chosen([part])


@pytest.mark.parametrize("ending", ["-00002-OF-00002.gguf", "-00002-of-00002.GGUF"])
def test_parts_that_llama_cpp_does_not_open_are_no_model(ending) -> None:
    """The message says why."""
    paths = ["m-Q8_0-00001-of-00002.gguf", f"m-Q8_0{ending}"]
    with pytest.raises(
        HubFileMissingError, match=f"does not open of a split model: m-Q8_0{ending}"
    ):
        chosen(paths)


def test_parts_of_different_splits_do_not_complete_each_other() -> None:
    """Two models of one name, one of two parts and one of three."""
    paths = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00003.gguf"]
    assert models_in(files(*paths)) == []


def test_a_repository_with_only_a_preset_is_said_to_be_one() -> None:
    """With the command that makes a configuration of it; its options are not run unread."""
    with pytest.raises(HubFileMissingError, match=r"only a preset.*import-presets preset\.ini"):
        chosen(["preset.ini", "README.md"])
    assert chosen(["preset.ini", "m-Q8_0.gguf"])


@pytest.mark.parametrize(
    "side", ["mmproj-F16.gguf", "imatrix.gguf", "mtp-x-Q8_0.gguf", "eagle3-x.gguf", "README.md"]
)
def test_side_files_are_no_models(side) -> None:
    """Projectors, drafts and matrices are never the answer."""
    with pytest.raises(HubFileMissingError, match="no GGUF files"):
        chosen([side])


@pytest.mark.parametrize(
    "side",
    [
        "MTP/m-Q8_0-MTP.gguf",
        "drafts/m-Q8_0.gguf",
        "m-DFlash-Q8_0.gguf",
        "m-Eagle3-Q8_0.gguf",
        "m-assistant.Q8_0.gguf",
        "m-lora-Q8_0.gguf",
        "control-vectors/m-Q8_0.gguf",
        "WavTokenizer-Large-75-Q8_0.gguf",
        "ggml-vocab-m-Q8_0.gguf",
    ],
)
def test_side_files_are_known_by_folder_ending_and_words(side) -> None:
    """There is no header on the hub; the model is listed and fetched alone, whatever the order."""
    for paths in ([side, "m-Q8_0.gguf"], ["m-Q8_0.gguf", side]):
        assert chosen(paths, "Q8_0") == ["m-Q8_0.gguf"]
        assert [model.label for model in models_in(files(*paths))] == ["Q8_0"]


@pytest.mark.parametrize("name", ["m-DFlash-BF16.gguf", "MTP/m-Q8_0.gguf", "home-assistant.gguf"])
def test_names_of_side_files_are_those_of_models_where_there_are_no_others(name) -> None:
    """A repository may have drafts only, and then they are wanted."""
    assert chosen([name, "README.md"]) == [name]


def test_side_files_do_not_stand_for_an_incomplete_model() -> None:
    """The message names the part, not the draft."""
    part = "m-Q8_0-00001-of-00002.gguf"
    with pytest.raises(HubFileMissingError, match="only a part of a split model: m-Q8_0-00001"):
        chosen([part, "MTP/m-Q8_0.gguf"])


@pytest.mark.parametrize("tag", ["Q8_0", None])
def test_a_model_without_a_word_of_drafts_is_preferred(tag) -> None:
    """The other one may be a draft, or a model with draft layers; it is called by its file."""
    paths = ["m-Q8_0-MTP.gguf", "m-Q8_0.gguf"]
    assert chosen(paths, tag) == ["m-Q8_0.gguf"]
    assert [model.label for model in models_in(files(*paths))] == ["m-Q8_0-MTP", "Q8_0"]
    assert chosen(paths, "m-Q8_0-MTP") == ["m-Q8_0-MTP.gguf"]
    assert chosen(["m-MTP-Q8_0.gguf"], tag) == ["m-MTP-Q8_0.gguf"]


def test_a_model_that_was_quantized_with_a_matrix_is_a_model() -> None:
    """The quantization in its name shows it."""
    assert chosen(["m-imatrix-Q4_K_M.gguf", "m.imatrix.gguf"]) == ["m-imatrix-Q4_K_M.gguf"]


def test_a_missing_quantization_lists_those_there_are() -> None:
    """The user picks one from the message."""
    with pytest.raises(HubFileMissingError, match=r"no quantization 'Q2_K'; there are: BF16, IQ4"):
        chosen(MANY, "Q2_K")


def test_a_tag_is_no_pattern() -> None:
    """A dot means a dot."""
    with pytest.raises(HubFileMissingError):
        chosen(["m-Q4_K_M.gguf"], "Q4.K.M")


def test_models_with_one_quantization_are_told_apart_by_path() -> None:
    """Labels are unique within a repository."""
    models = models_in(files("a-Q8_0.gguf", "b-Q8_0.gguf", "a-F16.gguf"))
    assert [model.label for model in models] == ["a-Q8_0", "b-Q8_0", "F16"]


# -- projectors -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "projectors", "expected"),
    [
        ("m-Q4_K_M.gguf", ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], 0),
        ("m-Q4_K_M.gguf", ["mmproj-F32.gguf", "mmproj-F16.gguf"], 1),
        ("m-Q8_0.gguf", ["mmproj-m-F16.gguf", "mmproj-m-Q8_0.gguf"], 1),
        ("d/m-Q4_K_M.gguf", ["mmproj-F16.gguf", "d/mmproj-F32.gguf"], 1),
        ("d/m-Q4_K_M.gguf", ["e/mmproj-F16.gguf", "mmproj-F32.gguf"], 1),
        ("m-Q4_K_M.gguf", ["d/mmproj-F16.gguf"], None),
        ("m-Q4_K_M.gguf", [], None),
    ],
)
def test_the_projector_is_the_nearest(model, projectors, expected) -> None:
    """The deepest folder above the model, then the closest precision, then BF16."""
    found = best_projector(files(*projectors), model)
    assert (found and found.path) == (None if expected is None else projectors[expected])


def test_a_model_comes_with_its_projector() -> None:
    """One download fetches both."""
    assert chosen(["m-Q4_K_M.gguf", "mmproj-F16.gguf"]) == ["m-Q4_K_M.gguf", "mmproj-F16.gguf"]
