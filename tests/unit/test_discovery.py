"""From files to models: kinds, projectors, split models, names."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.models.discovery.discover import discover
from llama_router.models.discovery.found import (
    Collection,
    Discovery,
    FoundFile,
    FoundModel,
    Header,
    ModelKind,
    ScanWarning,
    args_for,
    kind_of,
)

CHAT = Header(architecture="llama", embedding_length=64, context_length=4096)


def projector(dim: int | None = 64, *, type_: str = "mmproj") -> Header:
    return Header(architecture="clip", type=type_, projection_dim=dim)


def file(
    relative_path: str, header: Header | None = CHAT, *, root: str = "/m", **more
) -> FoundFile:
    path = f"{root}/{relative_path}"
    return FoundFile(path=path, relative_path=relative_path, header=header, size_bytes=10, **more)


def local(*files: FoundFile | str, **options) -> Discovery:
    """Discover the models in one folder of the user's."""
    collection = Collection(files=tuple(file(f) if isinstance(f, str) else f for f in files))
    return discover([collection], **options)


def hub(*files: FoundFile | str, repo: str = "o/r") -> Discovery:
    """Discover the models in one repository."""
    found = tuple(file(f) if isinstance(f, str) else f for f in files)
    return discover([Collection(files=found, repo=repo)])


def ids(discovery: Discovery) -> list[str]:
    return [model.id for model in discovery.models]


def reasons(discovery: Discovery) -> list[str]:
    return [warning.reason for warning in discovery.warnings]


def by_path(discovery: Discovery) -> dict[str, FoundModel]:
    return {model.path: model for model in discovery.models}


# --- Kinds and arguments -------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        (Header(architecture="llama"), ModelKind.CHAT),
        (Header(architecture="llama", pooling_type=0), ModelKind.CHAT),
        (Header(architecture="qwen3", pooling_type=3), ModelKind.EMBEDDING),
        (Header(architecture="qwen3", pooling_type=4), ModelKind.RERANK),
        (Header(architecture="bert"), ModelKind.EMBEDDING),
        (Header(architecture="bert", pooling_type=0), ModelKind.EMBEDDING),
        (Header(architecture="bert", pooling_type=4), ModelKind.RERANK),
        (Header(architecture="nomic-bert-moe", pooling_type=1), ModelKind.EMBEDDING),
        (Header(architecture="gemma-embedding"), ModelKind.EMBEDDING),
    ],
)
def test_pooling_and_architecture_say_what_a_model_is_for(header, kind) -> None:
    """A reranker pools by rank; whoever pools otherwise, or can nothing else, embeds."""
    assert kind_of(header) is kind


@pytest.mark.parametrize(
    ("header", "args"),
    [
        (Header(architecture="llama"), ()),
        (Header(architecture="bert", context_length=512, pooling_type=1), ("--embeddings",)),
        (Header(architecture="bert", context_length=512, pooling_type=4), ("--reranking",)),
        (
            Header(architecture="bert", context_length=2048, pooling_type=2),
            ("--embeddings", "--ubatch-size", "2048"),
        ),
        (
            Header(architecture="bert", context_length=8192, pooling_type=4),
            ("--reranking", "--batch-size", "4096", "--ubatch-size", "4096"),
        ),
        (
            Header(architecture="qwen3", context_length=32768, pooling_type=3),
            ("--embeddings",),
        ),
        (Header(architecture="bert"), ("--embeddings",)),
    ],
)
def test_embedders_and_rerankers_get_their_flags_and_room_for_a_text(header, args) -> None:
    """A text that cannot be split fits into one batch, within the default context."""
    assert args_for(header, has_mmproj=False) == args


def test_a_model_that_sees_names_its_projector() -> None:
    """By the placeholder, so that the path stands in one place."""
    assert args_for(CHAT, has_mmproj=True) == ("--mmproj", "$mmproj")


# --- What is a model -----------------------------------------------------------------


def test_side_files_are_not_models() -> None:
    """Projectors, matrices, adapters, drafts, vocabularies, by header or by name."""
    found = local(
        "chat.gguf",
        file("mmproj-chat.gguf", projector()),
        file("eyes.gguf", projector()),
        file("i.gguf", Header(architecture="", type="imatrix")),
        file("lora.gguf", Header(architecture="llama", type="adapter")),
        file("vocab.gguf", Header(architecture="llama", tensor_count=0)),
        file("mmproj-strange.gguf", CHAT),
        *("mtp-chat.gguf", "eagle3-chat.gguf", "dflash-chat.gguf", "dspark-chat.gguf"),
        "chat.imatrix.gguf",
    )
    assert ids(found) == ["chat"]
    assert found.warnings == ()


@pytest.mark.parametrize(
    "header",
    [
        *(
            Header(architecture=architecture)
            for architecture in (
                *("eagle3", "dflash", "dflash-draft", "gemma4-dflash-draft", "dspark"),
                *("gemma4-assistant", "gemma4_assistant", "gemma4_mtp"),
                *("controlvector", "wavtokenizer-dec"),
            )
        ),
        Header(architecture="llama", type="vocab"),
        Header(architecture="llama", type="adapter"),
    ],
)
def test_side_files_are_known_by_their_headers(header) -> None:
    """A name says nothing then, and the model beside keeps its quantization."""
    side = file("MTP/r-Q8_0-MTP.gguf", header)
    assert ids(hub("r-Q8_0.gguf", side)) == ["o/r:Q8_0"]
    assert ids(local("r-Q8_0.gguf", side)) == ["r-Q8_0"]


@pytest.mark.parametrize(
    "name", ["GLM-4.5-MTP-Q8_0.gguf", "Home-assistant-Q8_0.gguf", "x-imatrix-Q8_0.gguf"]
)
def test_a_model_is_one_by_its_header_whatever_its_name(name) -> None:
    """Words of drafts and matrices are in names of models, too."""
    assert ids(local(name)) == [name.removesuffix(".gguf")]
    assert ids(hub(name)) == ["o/r:Q8_0"]


def test_a_contested_quantization_belongs_to_the_model_without_a_word_of_drafts() -> None:
    """A model with draft layers of its own is called by its file."""
    found = hub("r-MTP-Q8_0.gguf", "r-Q8_0.gguf")
    assert {model.id: model.path for model in found.models} == {
        "o/r:r-MTP-Q8_0": "/m/r-MTP-Q8_0.gguf",
        "o/r:Q8_0": "/m/r-Q8_0.gguf",
    }
    (default,) = (model.id for model in found.models if "o/r" in model.aliases)
    assert default == "o/r:Q8_0"


def test_what_llama_cpp_cannot_serve_is_left_out_with_a_word() -> None:
    """Image models come in GGUF files, too; and files may be damaged."""
    found = local(
        file("flux-dev-Q4_0.gguf", Header(architecture="flux")),
        file("broken.gguf", None, fault="it ends in the middle of its header"),
    )
    assert ids(found) == []
    assert reasons(found) == [
        "llama.cpp does not serve models of the kind flux",
        "it ends in the middle of its header",
    ]


@pytest.mark.parametrize("name", ["a\nb.gguf", "a\x1b[2J.gguf", "a\udcff.gguf", "a\u202eb.gguf"])
def test_names_that_cannot_be_shown_are_left_out(name) -> None:
    """They could forge lines of a log, or are no text at all."""
    found = local(file(name))
    assert ids(found) == []
    assert "cannot be shown" in reasons(found)[0]
    found.warnings[0].path.encode()


# --- Split models --------------------------------------------------------------------


def part(number: int, *, count: int = 3, folder: str = "", root: str = "/m") -> FoundFile:
    header = Header(architecture="llama", tensor_count=0) if number == 1 else None
    return file(f"{folder}big-Q4_0-{number:05}-of-{count:05}.gguf", header, root=root)


def test_a_split_model_is_one_model() -> None:
    """Its file is the first part; its size is that of all."""
    found = local(part(2), part(3), part(1))
    (model,) = found.models
    assert (model.id, model.path) == ("big-Q4_0", "/m/big-Q4_0-00001-of-00003.gguf")
    assert model.size_bytes == 30
    assert model.aliases == ("big-Q4_0-00001-of-00003.gguf",)
    assert found.warnings == ()


@pytest.mark.parametrize("there", [(1,), (1, 2), (2, 3), (3,), (1, 3)])
def test_an_incomplete_split_model_is_left_out(there) -> None:
    """Whatever part is missing; said once."""
    found = local(*map(part, there), "other.gguf")
    assert ids(found) == ["other"]
    assert reasons(found) == [f"parts of this split model are missing: {3 - len(there)} of 3"]


def test_impossible_counts_of_parts_are_left_out() -> None:
    """A part 9 of 3, or 1 of 0."""
    found = local(part(9), part(1, count=0))
    assert ids(found) == []
    assert len(found.warnings) == 2


@pytest.mark.parametrize("ending", ["-00002-OF-00002.gguf", "-00002-of-00002.GGUF"])
def test_parts_that_llama_cpp_does_not_open_are_left_out_with_a_word(ending) -> None:
    """It makes their names from that of the first one."""
    found = local("big-00001-of-00002.gguf", f"big{ending}")
    assert ids(found) == []
    assert reasons(found) == ["llama.cpp opens it only under the name 'big-00002-of-00002.gguf'"]


def test_a_whole_model_may_have_an_ending_in_capitals() -> None:
    """Only the names of parts are made by llama.cpp."""
    assert ids(local("a.GGUF", "b-00001-OF-00001.GGUF")) == ["a", "b"]


def test_a_damaged_part_costs_its_model() -> None:
    """The warning names the part."""
    damaged = file("big-00002-of-00002.gguf", None, fault="it was truncated", identity=(1, 2))
    found = local("big-00001-of-00002.gguf", damaged)
    assert ids(found) == []
    assert found.warnings == (ScanWarning(damaged.path, "it was truncated"),)


def test_a_damaged_projector_is_left_out_with_a_word() -> None:
    """The model is served without it."""
    found = local("a.gguf", file("mmproj-F16.gguf", None, fault="it was truncated"))
    assert mmproj_of(found, "a") is None
    assert reasons(found) == ["it was truncated"]


def test_parts_in_different_folders_are_of_different_models() -> None:
    """They only have the same name."""
    found = local(part(1), part(2, folder="x/"), part(3))
    assert ids(found) == []


def test_a_split_model_is_whole_in_an_older_snapshot() -> None:
    """The snapshot of the branch has only begun to get it."""
    new = [part(1, root="/new")]
    old = [part(number, root="/old") for number in (1, 2, 3)]
    found = discover([Collection(files=(*new, *old), repo="o/r")])
    assert [(model.id, model.path) for model in found.models] == [
        ("o/r:Q4_0", "/old/big-Q4_0-00001-of-00003.gguf")
    ]
    assert found.warnings == ()


# --- Projectors ----------------------------------------------------------------------


def mmproj_of(discovery: Discovery, model: str) -> str | None:
    (found,) = (m for m in discovery.models if m.id == model)
    assert (found.args == ("--mmproj", "$mmproj")) is (found.mmproj is not None)
    return None if found.mmproj is None else found.mmproj.removeprefix("/m/")


def test_bf16_comes_before_f16_before_f32_before_the_rest() -> None:
    """And all quants of a model share it."""
    names = ["mmproj-Q8_0.gguf", "mmproj-F32.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf"]
    while names:
        found = local("a-Q4_0.gguf", "a-Q8_0.gguf", *(file(n, projector()) for n in names))
        assert mmproj_of(found, "a-Q4_0") == mmproj_of(found, "a-Q8_0") == names.pop()


def test_the_precision_may_stand_in_the_header_only() -> None:
    """Where the name does not say it."""
    f16 = Header(architecture="clip", type="mmproj", file_type=1)
    found = local("a.gguf", file("mmproj-a.gguf", f16), file("mmproj-a-f32.gguf", projector()))
    assert mmproj_of(found, "a") == "mmproj-a.gguf"


def test_a_projector_of_another_width_is_not_for_this_model() -> None:
    """It would make the load fail."""
    found = local("a.gguf", file("mmproj-BF16.gguf", projector(128)))
    assert mmproj_of(found, "a") is None
    found = local(
        "a.gguf", file("mmproj-BF16.gguf", projector(128)), file("mmproj-F32.gguf", projector(64))
    )
    assert mmproj_of(found, "a") == "mmproj-F32.gguf"


def test_old_projectors_say_another_width() -> None:
    """Those without a type are believed; and so is one that says nothing."""
    old = projector(768, type_="model")
    assert mmproj_of(local("a.gguf", file("mmproj-f16.gguf", old)), "a") == "mmproj-f16.gguf"
    found = local("a.gguf", file("mmproj-f16.gguf", projector(None)))
    assert mmproj_of(found, "a") == "mmproj-f16.gguf"


def test_a_projector_goes_to_the_models_of_its_own_folder() -> None:
    """Neither above nor below."""
    found = local("a.gguf", "x/b.gguf", "x/y/c.gguf", file("x/mmproj-F16.gguf", projector()))
    assert mmproj_of(found, "a") is None
    assert mmproj_of(found, "b") == "x/mmproj-F16.gguf"
    assert mmproj_of(found, "c") is None


def test_in_a_repository_a_projector_serves_folders_too() -> None:
    """The nearest above counts, and then any."""
    files = ["a-Q8_0.gguf", "BF16/a-BF16.gguf", "Q4_0/a-Q4_0.gguf"]
    top, own = file("mmproj-F16.gguf", projector()), file("Q4_0/mmproj-F32.gguf", projector())
    found = hub(*files, top, own)
    assert mmproj_of(found, "o/r:Q8_0") == "mmproj-F16.gguf"
    assert mmproj_of(found, "o/r:BF16") == "mmproj-F16.gguf"
    assert mmproj_of(found, "o/r:Q4_0") == "Q4_0/mmproj-F32.gguf"


def test_in_a_folder_of_many_models_the_names_decide() -> None:
    """A projector with the name of a model is for no other one of the same width."""
    found = local(
        "gemma-3-4b-it-Q4_K_M.gguf",
        "qwen2.5-vl-7b-Q4_K_M.gguf",
        "mistral-7b-Q4_K_M.gguf",
        file("mmproj-gemma-3-4b-it-BF16.gguf", projector()),
        file("qwen2.5-vl-7b.mmproj-f16.gguf", projector()),
    )
    assert mmproj_of(found, "gemma-3-4b-it-Q4_K_M") == "mmproj-gemma-3-4b-it-BF16.gguf"
    assert mmproj_of(found, "qwen2.5-vl-7b-Q4_K_M") == "qwen2.5-vl-7b.mmproj-f16.gguf"
    assert mmproj_of(found, "mistral-7b-Q4_K_M") is None


def test_a_projector_with_the_name_of_another_model_is_for_none(home_projector) -> None:
    """Whether that model is there or not; the warning says what to do."""
    found = local("mistral-7b-Q4_K_M.gguf", "qwen-7b-Q4_K_M.gguf", home_projector)
    assert [model.mmproj for model in found.models] == [None, None]
    (reason,) = reasons(found)
    assert "may belong to mistral-7b-Q4_K_M.gguf, but has the name of another model" in reason
    assert mmproj_of(local("mistral-7b-Q4_K_M.gguf", home_projector), "mistral-7b-Q4_K_M") is None


@pytest.fixture
def home_projector() -> FoundFile:
    """A projector that was left when its model was deleted."""
    return file("mmproj-gemma-3-4b-it-BF16.gguf", projector())


def test_names_in_headers_bring_projectors_to_renamed_models() -> None:
    """Both have the name of the model there."""
    header = attrs.evolve(CHAT, name="Gemma 3 4b It")
    eyes = file("mmproj-gemma-3-4b-it-BF16.gguf", projector())
    assert mmproj_of(local(file("mine.gguf", header), eyes), "mine") is None
    assert eyes.header is not None
    eyes = attrs.evolve(eyes, header=attrs.evolve(eyes.header, name="Gemma-3 4B it"))
    found = local(file("mine.gguf", header), "other.gguf", eyes)
    assert mmproj_of(found, "mine") == "mmproj-gemma-3-4b-it-BF16.gguf"
    assert mmproj_of(found, "other") is None


def test_a_model_without_a_name_takes_the_only_projector_beside_it() -> None:
    """As long as there is no model of another name."""
    eyes = file("mmproj-gemma-3-4b-it-BF16.gguf", projector())
    found = local("ggml-model-Q4_0.gguf", eyes)
    assert mmproj_of(found, "ggml-model-Q4_0") == "mmproj-gemma-3-4b-it-BF16.gguf"
    found = local("ggml-model-Q4_0.gguf", "x.gguf", eyes)
    assert mmproj_of(found, "ggml-model-Q4_0") is None


def test_of_two_related_projectors_the_one_with_the_same_name_is_taken() -> None:
    """One name may be the beginning of another one."""
    found = local(
        "gemma-3-4b-it-Q4_0.gguf",
        "gemma-3-4b-it-qat-Q4_0.gguf",
        file("mmproj-gemma-3-4b-it-F16.gguf", projector()),
        file("mmproj-gemma-3-4b-it-qat-BF16.gguf", projector()),
    )
    assert mmproj_of(found, "gemma-3-4b-it-Q4_0") == "mmproj-gemma-3-4b-it-F16.gguf"
    assert mmproj_of(found, "gemma-3-4b-it-qat-Q4_0") == "mmproj-gemma-3-4b-it-qat-BF16.gguf"


def test_in_a_repository_a_projector_may_have_any_name() -> None:
    """It was put beside the model on purpose."""
    assert mmproj_of(hub("r-Q4_0.gguf", file("mmproj-x.gguf", projector())), "o/r:Q4_0")


def test_embedders_and_rerankers_get_no_projector() -> None:
    """They read text only."""
    found = local(
        file("e.gguf", Header(architecture="bert", embedding_length=64)),
        file("mmproj-F16.gguf", projector()),
    )
    assert mmproj_of(found, "e") is None


# --- Names ---------------------------------------------------------------------------


def test_hub_models_are_called_by_repository_and_quantization() -> None:
    """The file name is an alias; the repository alone means its usual quantization."""
    found = hub("r-Q8_0.gguf", "r-Q4_K_M.gguf", "r-UD-Q4_K_XL.gguf")
    names = {model.id: model.aliases for model in found.models}
    assert names == {
        "o/r:Q8_0": ("r-Q8_0.gguf", "r-Q8_0"),
        "o/r:Q4_K_M": ("r-Q4_K_M.gguf", "r-Q4_K_M", "o/r"),
        "o/r:UD-Q4_K_XL": ("r-UD-Q4_K_XL.gguf", "r-UD-Q4_K_XL"),
    }


def test_the_quantization_may_come_from_the_header_or_be_missing() -> None:
    """Then the file's name stands in its place."""
    found = hub(file("a.gguf", Header(architecture="llama", file_type=15)))
    assert ids(found) == ["o/r:Q4_K_M"]
    assert ids(hub("tiny.gguf")) == ["o/r:tiny"]


def test_two_models_of_one_quantization_are_told_apart_by_their_files() -> None:
    """A repository may hold many models."""
    found = hub("tiny/x-Q4_0.gguf", "bert/x-Q4_0.gguf", "y-Q8_0.gguf")
    assert set(ids(found)) == {"o/r:bert/x-Q4_0", "o/r:tiny/x-Q4_0", "o/r:Q8_0"}
    assert not any("x-Q4_0.gguf" in model.aliases for model in found.models)


def test_a_model_in_two_caches_is_one_model() -> None:
    """The cache that comes first is used, and the other one is mentioned."""
    first = Collection(files=(file("r-Q4_0.gguf", root="/hub"),), repo="o/r")
    second = Collection(files=(file("r-Q4_0.gguf", root="/flat", tag="Q4_0"),), repo="o/r")
    found = discover([first, second])
    assert [(m.id, m.path) for m in found.models] == [("o/r:Q4_0", "/hub/r-Q4_0.gguf")]
    assert reasons(found) == ["there is already a model 'o/r:Q4_0'; it is left out"]


def test_local_models_are_called_by_their_files() -> None:
    """The name with its ending is an alias."""
    (model,) = local("deep/er/name-Q4_0.gguf").models
    assert (model.id, model.aliases) == ("name-Q4_0", ("name-Q4_0.gguf",))


def test_namesakes_are_told_apart_by_their_folders() -> None:
    """By as many as it takes; what was done is said; no alias is left that means both."""
    found = local("a/x/m.gguf", "b/x/m.gguf", "c/m.gguf", "n.gguf")
    names = {path.removeprefix("/m/"): model.id for path, model in by_path(found).items()}
    assert names == {
        "a/x/m.gguf": "a/x/m",
        "b/x/m.gguf": "b/x/m",
        "c/m.gguf": "c/m",
        "n.gguf": "n",
    }
    assert not any("m.gguf" in model.aliases for model in found.models)
    assert "another model is called 'm'; this one is called 'c/m'" in reasons(found)


def test_a_namesake_that_comes_later_does_not_rename_the_first() -> None:
    """Who has the name keeps it: clients and router.toml know it."""
    found = local("a/m.gguf", "z/m.gguf", known={"/m/z/m.gguf": "m"})
    assert {m.id: m.path for m in found.models} == {"m": "/m/z/m.gguf", "a/m": "/m/a/m.gguf"}


def test_a_name_that_is_taken_is_not_given_again() -> None:
    """Neither as an id nor as an alias."""
    found = local("a/m.gguf", taken=["m", "m.gguf"])
    assert ids(found) == ["a/m"]
    assert found.models[0].aliases == ()


def test_a_file_with_two_names_is_one_model() -> None:
    """Links do not make another model of it; and it may be known already."""
    files = (file("a.gguf", identity=(1, 2)), file("link.gguf", identity=(1, 2)))
    assert ids(local(*files)) == ["a"]
    assert ids(local(*files, skip=[(1, 2)])) == []


folders = st.lists(st.sampled_from(["a", "b", "x", "m"]), max_size=3).map("/".join)
stems = st.sampled_from(["m", "n", "m-Q4_0", "a/m"])
paths = st.builds(lambda folder, stem: f"{folder}/{stem}.gguf".lstrip("/"), folders, stems)


@given(
    local_paths=st.lists(paths, unique=True, max_size=12),
    hub_paths=st.lists(paths, unique=True, max_size=6),
    taken=st.frozensets(st.sampled_from(["m", "a/m", "n.gguf", "o/r:Q4_0"])),
    known=st.dictionaries(paths.map("/m/".__add__), st.sampled_from(["m", "n", "a/m"])),
)
def test_no_two_models_share_a_name(local_paths, hub_paths, taken, known) -> None:
    """Ids and aliases are unique together, whatever the files are called; none is lost."""
    collections = [
        Collection(files=tuple(file(p, root="/hub") for p in hub_paths), repo="o/r"),
        Collection(files=tuple(map(file, local_paths))),
    ]
    found = discover(collections, taken=taken, known=known)
    names = [name for model in found.models for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))
    assert not taken & set(names)
    local_models = {model.path for model in found.models if model.path.startswith("/m/")}
    assert local_models == {f"/m/{p}" for p in local_paths}
    again = discover(collections, taken=taken, known={m.path: m.id for m in found.models})
    stable = {m.path: m.id for m in found.models if "/" not in m.id}
    assert stable.items() <= {m.path: m.id for m in again.models}.items()


# --- Drafts and adapters -------------------------------------------------------------


EAGLE = Header(architecture="eagle3")
MTP = Header(architecture="llama", first_layer=48)
LORA = Header(architecture="llama", type="adapter")


def args_of(discovery: Discovery) -> dict[str, tuple[str, ...]]:
    return {model.id: model.args for model in discovery.models}


def fits(side_file: FoundFile, model: FoundFile) -> str | None:
    return None


@pytest.mark.parametrize(
    ("draft", "kind"),
    [
        (file("big-eagle3-Q8_0.gguf", EAGLE), "draft-eagle3"),
        (file("eagle3-big-Q8_0.gguf", EAGLE), "draft-eagle3"),
        (file("MTP/big-Q8_0-MTP.gguf", MTP), "draft-mtp"),
        (file("big-DFlash-BF16.gguf", Header(architecture="dflash")), "draft-dflash"),
        (file("big-assistant.gguf", Header(architecture="gemma4-assistant")), "draft-mtp"),
    ],
)
def test_a_draft_beside_its_model_is_used(draft, kind) -> None:
    """In the way that llama.cpp has for it; it is no model itself, and serves no other one."""
    found = local("big-Q4_K_M.gguf", "other-Q4_K_M.gguf", draft, check=fits)
    assert args_of(found) == {
        "big-Q4_K_M": ("--model-draft", draft.path, "--spec-type", kind),
        "other-Q4_K_M": (),
    }


def test_a_draft_with_another_vocabulary_is_doubted() -> None:
    """The model is served without it."""
    found = local("big.gguf", file("big-eagle3.gguf", EAGLE), check=lambda _s, _m: "no")
    assert args_of(found) == {"big": ()}
    assert reasons(found) == ["it is a draft beside big.gguf, and is not used: no"]


def test_adapters_that_fit_are_loaded_and_not_applied() -> None:
    """Requests choose among them; their order is that of their names."""
    files = (file(f"loras/{name}.gguf", LORA) for name in ("b", "a"))
    found = local("big.gguf", *files, check=fits)
    assert args_of(found)["big"] == (
        "--lora-init-without-apply",
        *("--lora", "/m/loras/a.gguf", "--lora", "/m/loras/b.gguf"),
    )


def test_adapters_of_other_architectures_and_folders_are_left_alone() -> None:
    """Nothing is said about them either."""
    lora = attrs.evolve(LORA, architecture="qwen3")
    found = local("big.gguf", file("a.gguf", lora), file("far/away/b.gguf", LORA), check=fits)
    assert args_of(found) == {"big": ()}
    assert reasons(found) == []


def test_a_dollar_sign_in_the_path_of_a_side_file_is_no_placeholder() -> None:
    """Arguments are expanded before they are used."""
    found = local("big.gguf", file("big-eagle3-$port.gguf", EAGLE), check=fits)
    assert args_of(found)["big"][1] == "/m/big-eagle3-$$port.gguf"
