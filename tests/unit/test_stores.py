"""Model stores of other programs: where they are, and what a scan makes of them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from llama_router.config.catalog import Catalog
from llama_router.core.config.specs import ModelSpec, RouterSpec
from llama_router.errors.config import ConfigError
from llama_router.models.caches import Caches
from llama_router.models.discovery.discover import discover
from llama_router.models.discovery.found import Discovery, FoundModel
from llama_router.models.discovery.ollama_parameters import OllamaParameters, args_of, params_of
from llama_router.models.discovery.ollama_templates import built_in_template
from llama_router.models.safetensors_folder import read_model
from llama_router.models.scan import scan
from llama_router.models.stores import Store, StoreKind, find_stores
from tests.gguf_bytes import model_keys, projector_keys, write
from tests.privileges import like_anybody


class Ollama:
    """A store of Ollama's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "blobs").mkdir(parents=True)

    def weights(self, keys: dict[str, object] | None = None, *, salt: str = "") -> str:
        """Store a file of weights; return its digest."""
        name = hashlib.sha256(repr((keys, salt)).encode()).hexdigest()
        write(self.folder / "blobs" / f"sha256-{name}", keys)
        return f"sha256:{name}"

    def blob(self, content: object) -> str:
        """Store a text, or JSON; return its digest."""
        data = content if isinstance(content, str) else json.dumps(content)
        name = hashlib.sha256(data.encode()).hexdigest()
        (self.folder / "blobs" / f"sha256-{name}").write_text(data)
        return f"sha256:{name}"

    def manifest(self, name: str, *layers: tuple[str, str]) -> Path:
        """Write the manifest of a model, with the kind and the digest of each layer."""
        path = self.folder / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = "application/vnd.ollama.image"
        listed = [{"mediaType": f"{prefix}.{kind}", "digest": digest} for kind, digest in layers]
        path.write_text(json.dumps({"schemaVersion": 2, "layers": listed}))
        return path


@pytest.fixture
def ollama(tmp_path) -> Ollama:
    return Ollama(tmp_path / "ollama")


def found_in(kind: StoreKind, folder: Path) -> Discovery:
    scanned = scan(Caches(None, (), (Store(kind, folder),)), ())
    discovery = discover(scanned.collections)
    return Discovery(discovery.models, (*scanned.warnings, *discovery.warnings))


def models(kind: StoreKind, folder: Path) -> dict[str, FoundModel]:
    return {model.id: model for model in found_in(kind, folder).models}


def reasons(kind: StoreKind, folder: Path) -> list[str]:
    return [warning.reason for warning in found_in(kind, folder).warnings]


LIBRARY = "registry.ollama.ai/library"


def test_models_of_ollama_have_its_names(ollama) -> None:
    """The registry and the owner are left out where Ollama leaves them out."""
    ollama.manifest(f"{LIBRARY}/gemma3/4b", ("model", ollama.weights(salt="a")))
    ollama.manifest("registry.ollama.ai/me/own/latest", ("model", ollama.weights(salt="b")))
    ollama.manifest("hf.co/o/r-GGUF/Q8_0", ("model", ollama.weights(salt="c")))
    found = models(StoreKind.OLLAMA, ollama.folder)
    assert {name: model.aliases for name, model in found.items()} == {
        "gemma3:4b": (),
        "me/own:latest": ("me/own",),
        "hf.co/o/r-GGUF:Q8_0": (),
    }
    assert found["hf.co/o/r-GGUF:Q8_0"].quant == "Q8_0"


def test_a_store_of_ollama_in_a_folder_without_a_readable_name_is_told(tmp_path) -> None:
    """As any model whose path is no text in UTF-8; the scan goes on."""
    store = Ollama(tmp_path / os.fsdecode(b"oll\xffama"))
    store.manifest(f"{LIBRARY}/gemma3/4b", ("model", store.weights()))
    told = reasons(StoreKind.OLLAMA, store.folder)
    assert told == ["its name has characters that cannot be shown"]


def test_two_names_of_one_model_of_ollama_are_one_model(ollama) -> None:
    """The tag that says more is its id; the model answers to the others, too."""
    weights = ollama.weights()
    for tag in ("latest", "3b"):
        ollama.manifest(f"{LIBRARY}/llama3.2/{tag}", ("model", weights))
    found = models(StoreKind.OLLAMA, ollama.folder)
    assert {name: set(model.aliases) for name, model in found.items()} == {
        "llama3.2:3b": {"llama3.2:latest", "llama3.2"}
    }


def test_a_model_of_ollama_with_parameters_of_its_own_is_another_one(ollama) -> None:
    """It shares its weights with the model that it was made from."""
    weights = ollama.weights()
    ollama.manifest(f"{LIBRARY}/base/latest", ("model", weights))
    params = ollama.blob({"temperature": 0.2, "num_ctx": 16384, "stop": ["<end>"]})
    ollama.manifest(f"{LIBRARY}/cool/latest", ("model", weights), ("params", params))
    found = models(StoreKind.OLLAMA, ollama.folder)
    assert found.keys() == {"base:latest", "cool:latest"}
    assert found["cool:latest"].args == ("--ctx-size", "16384")
    assert found["cool:latest"].default_params == {"temperature": 0.2, "stop": ["<end>"]}
    assert found["base:latest"].path == found["cool:latest"].path


def test_a_system_prompt_of_ollama_is_said_not_to_be_used(ollama) -> None:
    """Clients send it; the model is the one that it was made from, by another name."""
    weights = ollama.weights()
    ollama.manifest(f"{LIBRARY}/base/1b", ("model", weights))
    layers = (("model", weights), ("system", ollama.blob("You are Mario.")))
    ollama.manifest(f"{LIBRARY}/mario/latest", *layers)
    found = models(StoreKind.OLLAMA, ollama.folder)
    assert {name: set(m.aliases) for name, m in found.items()} == {
        "base:1b": {"mario:latest", "mario"}
    }
    (told,) = reasons(StoreKind.OLLAMA, ollama.folder)
    assert told == "its system prompt is not used: send it with each chat"


def test_projector_and_adapter_of_ollama_are_used(ollama) -> None:
    """Both are blobs; a new one means another launch."""
    projector = ollama.weights(projector_keys())
    adapter = ollama.weights({"general.architecture": "llama", "general.type": "adapter"})
    layers = (("model", ollama.weights()), ("projector", projector), ("adapter", adapter))
    ollama.manifest(f"{LIBRARY}/eyes/latest", *layers)
    model = models(StoreKind.OLLAMA, ollama.folder)["eyes:latest"]
    blobs = ollama.folder / "blobs"
    assert model.mmproj == str(blobs / projector.replace(":", "-"))
    assert model.args[-2:] == ("--lora", str(blobs / adapter.replace(":", "-")))
    assert len(model.versions) == 3


def test_the_template_of_ollama_counts_where_the_file_has_none(ollama) -> None:
    """It is in another language, so llama.cpp's own one of that family is used."""
    template = ollama.blob("{{ .System }}<|start_header_id|>{{ .Prompt }}")
    with_own = ollama.weights(model_keys(vocabulary=4))
    for name, weights in (("bare", ollama.weights(salt="bare")), ("own", with_own)):
        ollama.manifest(f"{LIBRARY}/{name}/1b", ("model", weights), ("template", template))
    found = models(StoreKind.OLLAMA, ollama.folder)
    assert found["bare:1b"].args == ("--no-jinja", "--chat-template", "llama3")
    assert found["own:1b"].args == ()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            ("model", "sha256:../../../etc/passwd"),
            "it names 'sha256:../../../etc/passwd', which is",
        ),
        (("model", "/etc/passwd"), "it names '/etc/passwd', which is no blob of this store"),
        (("model", f"sha256:{'0' * 64}"), f"its blob sha256-{'0' * 64} cannot be read: No such"),
        (("tensor", f"sha256:{'0' * 64}"), "it is in the format of MLX, which needs macOS"),
    ],
)
def test_unusable_manifests_of_ollama_are_doubted(ollama, layer, reason) -> None:
    """Nothing outside the store is opened, and the other models are found."""
    ollama.manifest(f"{LIBRARY}/good/1b", ("model", ollama.weights()))
    ollama.manifest(f"{LIBRARY}/bad/1b", layer)
    assert models(StoreKind.OLLAMA, ollama.folder).keys() == {"good:1b"}
    (told,) = reasons(StoreKind.OLLAMA, ollama.folder)
    assert told.startswith(reason)


@pytest.mark.parametrize("content", ["", "[]", "{" * 100_000, '{"layers": 1}', "\udcff"])
def test_damaged_manifests_of_ollama_are_doubted(ollama, content) -> None:
    """The other models are found."""
    ollama.manifest(f"{LIBRARY}/good/1b", ("model", ollama.weights()))
    bad = ollama.manifest(f"{LIBRARY}/bad/1b")
    bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert models(StoreKind.OLLAMA, ollama.folder).keys() == {"good:1b"}
    (told,) = reasons(StoreKind.OLLAMA, ollama.folder)
    assert told.startswith("it is not a manifest of Ollama")


def test_models_in_the_cloud_of_ollama_are_left_out(ollama) -> None:
    """They have no weights here, which is no fault."""
    ollama.manifest(f"{LIBRARY}/big/cloud")
    assert (models(StoreKind.OLLAMA, ollama.folder), reasons(StoreKind.OLLAMA, ollama.folder)) == (
        {},
        [],
    )


def test_a_store_that_may_not_be_read_is_doubted(ollama) -> None:
    """Its models may still be there, so those that were known stay."""
    folder = ollama.folder / "manifests" / "registry.ollama.ai"
    ollama.manifest(f"{LIBRARY}/good/1b", ("model", ollama.weights()))
    folder.chmod(0)
    try:
        with like_anybody():
            scanned = scan(Caches(None, (), (Store(StoreKind.OLLAMA, ollama.folder),)), ())
    finally:
        folder.chmod(0o700)
    assert [warning.reason for warning in scanned.warnings] == [
        "it cannot be read: Permission denied"
    ]
    assert scanned.unreadable == (str(folder),)


def test_parameters_without_a_counterpart_are_left_out() -> None:
    """And those that mean the default of a backend."""
    parameters = OllamaParameters(num_predict=-1, num_gpu=-1, num_ctx=0, temperature=float("nan"))
    assert (args_of(parameters), params_of(parameters)) == ((), {})


@pytest.mark.parametrize(
    ("template", "name"),
    [("<start_of_turn>user", "gemma"), ("[INST] {{ .Prompt }} [/INST]", "mistral-v1"), ("x", None)],
)
def test_templates_of_ollama_are_known_by_their_marks(template, name) -> None:
    """One without a known mark has no counterpart."""
    assert built_in_template(template) == name


def test_models_of_lm_studio_are_named_as_on_the_hub(tmp_path) -> None:
    """Its folders are those of the publisher and the repository."""
    write(tmp_path / "pub" / "M-GGUF" / "m-Q4_K_M.gguf")
    write(tmp_path / "pub" / "M-GGUF" / "mmproj-F16.gguf", projector_keys())
    write(tmp_path / "loose.gguf")
    found = models(StoreKind.LM_STUDIO, tmp_path)
    assert found.keys() == {"pub/M-GGUF:Q4_K_M", "loose"}
    assert found["pub/M-GGUF:Q4_K_M"].mmproj is not None
    assert "pub/M-GGUF" in found["pub/M-GGUF:Q4_K_M"].aliases


def test_models_of_jan_are_named_by_their_folders(tmp_path) -> None:
    """Their files are all called the same."""
    for name in ("Qwen3-4B", "janhq/Jan-v1-4B"):
        write(tmp_path / name / "model.gguf")
    write(tmp_path / "Qwen3-4B" / "mmproj.gguf", projector_keys())
    found = models(StoreKind.JAN, tmp_path)
    assert {name: model.mmproj is not None for name, model in found.items()} == {
        "Qwen3-4B": True,
        "janhq/Jan-v1-4B": False,
    }
    assert not any(model.aliases for model in found.values())


def test_stores_are_found_by_home_and_settings(tmp_path) -> None:
    """What a program was told counts before its default."""
    (tmp_path / ".lmstudio-home-pointer").write_text("/data/lms\n")
    settings = tmp_path / ".local/share/Jan/settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"data_folder": "/data/jan"}))
    stores = find_stores({"HOME": str(tmp_path), "OLLAMA_MODELS": "/data/ollama"})
    folders = {(store.kind, str(store.folder)) for store in stores}
    assert {
        (StoreKind.OLLAMA, "/data/ollama"),
        (StoreKind.OLLAMA, f"{tmp_path}/.ollama/models"),
        (StoreKind.OLLAMA, "/usr/share/ollama/.ollama/models"),
        (StoreKind.LM_STUDIO, "/data/lms/models"),
        (StoreKind.LM_STUDIO, f"{tmp_path}/.lmstudio/models"),
        (StoreKind.JAN, "/data/jan/llamacpp/models"),
        (StoreKind.JAN, f"{tmp_path}/.local/share/Jan/data/llamacpp/models"),
        (StoreKind.GPT4ALL, f"{tmp_path}/.local/share/nomic.ai/GPT4All"),
    } <= folders


def test_models_of_ollama_are_served_with_their_parameters(tmp_path) -> None:
    """The catalog keeps them, and a table of router.toml changes them field by field."""
    store = Ollama(tmp_path / ".ollama" / "models")
    params = store.blob({"num_ctx": 8192, "temperature": 0.5})
    store.manifest(f"{LIBRARY}/m/1b", ("model", store.weights()), ("params", params))
    catalog = Catalog(tmp_path / "state", {"HOME": str(tmp_path)})
    assert catalog.scan(RouterSpec()).models == ("m:1b",)
    file = tmp_path / "router.toml"
    file.write_text('[models."m:1b"]\nttl_s = 60\n')
    (model,) = catalog.load(file).config.models.values()
    assert model.default_params == {"temperature": 0.5}
    assert model.spawn.args == ("--ctx-size", "8192")
    assert model.ttl_s == 60


# --- Other formats -------------------------------------------------------------------


def llamafile(path: Path, *, beginning: bytes = b"MZqFpD='\n", mode: int = 0o755) -> Path:
    path.write_bytes(beginning + bytes(100))
    path.chmod(mode)
    return path


def safetensors(folder: Path, *, names: tuple[str, ...] = (), **config: object) -> Path:
    """Write a folder of weights; *names* are those that its index has."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], **config}
    (folder / "config.json").write_text(json.dumps(document))
    (folder / "model-1.safetensors").write_bytes(bytes(1000))
    if names:
        index = {"weight_map": {f"w{number}": name for number, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Home:
    """A home with a folder of models, its catalog, and a configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self.models.mkdir()
        self.catalog = Catalog(folder / "state", {"HOME": str(folder)})

    def specs(self, text: str, **router: Any) -> dict[str, ModelSpec]:
        """Scan, and return the models of a configuration with *text* in it."""
        self.scanned = self.catalog.scan(RouterSpec(models_dirs=(str(self.models),), **router))
        file = self.folder / "router.toml"
        file.write_text(text)
        loaded = self.catalog.load(file)
        return {str(model): spec for model, spec in loaded.config.models.items()}


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def test_a_llamafile_runs_itself(home) -> None:
    """Through a shell, because the kernel may not know its format; other settings are as usual."""
    path = llamafile(home.models / "small.llamafile")
    table = """[models.small]
    ttl_s = 5
    spawn.ready_timeout_s = 9
    """
    spec = home.specs(table)["small"]
    command = ("/bin/sh", "$path", "--server", "--host", "$host", "--port", "$port")
    assert (spec.path, spec.spawn.command, spec.spawn.args) == (str(path), command, ())
    assert (spec.ttl_s, spec.spawn.ready_timeout_s, spec.aliases) == (5, 9, ("small.llamafile",))


def test_a_command_of_ones_own_takes_the_place_of_a_llamafiles(home) -> None:
    """What is written is what runs."""
    llamafile(home.models / "small.llamafile")
    spec = home.specs('[models.small.spawn]\ncommand = ["sh", "$path", "$port"]')["small"]
    assert spec.spawn.command == ("sh", "$path", "$port")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": 0o644}, "it is a llamafile that may not be run: make it executable (chmod +x)"),
        ({"beginning": b"#!/bin/sh"}, "it does not begin like a llamafile"),
    ],
)
def test_a_llamafile_that_cannot_run_is_doubted(home, options, reason) -> None:
    """It is no model."""
    llamafile(home.models / "small.llamafile", **options)
    with like_anybody():
        assert home.specs("") == {}
    assert [warning.reason for warning in home.scanned.warnings] == [reason]


VLLM = """[router]
safetensors_template = "vllm"
[templates.vllm]
command = ["vllm", "serve", "$path", "--port", "$port"]
"""


def test_folders_of_safetensors_are_models_of_their_template(home) -> None:
    """Its command gets the folder."""
    folder = safetensors(home.models / "Qwen3-8B", names=("model-1.safetensors",))
    spec = home.specs(VLLM, safetensors_template="vllm")["Qwen3-8B"]
    assert (spec.path, spec.template, spec.spawn.command[0]) == (str(folder), "vllm", "vllm")


def test_folders_of_safetensors_without_a_template_are_no_models(home) -> None:
    """llama.cpp does not serve them, and nothing is said."""
    safetensors(home.models / "Qwen3-8B")
    assert (home.specs(""), home.scanned.models, home.scanned.warnings) == ({}, (), ())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, "it is a model for MLX, which needs"),
        ({"names": ("model-2.safetensors",)}, "its file 'model-2.safetensors' is missing"),
        ({"names": ("../../x.safetensors",)}, "its file '../../x.safetensors' is missing"),
        ({"architectures": 7}, "its config.json or index is damaged"),
    ],
)
def test_folders_of_safetensors_that_cannot_be_served_are_doubted(home, options, reason) -> None:
    """Each with its reason; other folders are models."""
    safetensors(home.models / "bad", **options)
    safetensors(home.models / "good")
    assert home.specs(VLLM, safetensors_template="vllm").keys() == {"good"}
    (told,) = home.scanned.warnings
    assert told.reason.startswith(reason)


def test_a_model_for_mlx_is_doubted_also_without_a_template(home) -> None:
    """It looks like a model, and never is one on this platform."""
    folder = safetensors(home.models / "bad")
    header = b'{"__metadata__":{"format":"mlx"}}'
    data = len(header).to_bytes(8, "little") + header
    (folder / "model-1.safetensors").write_bytes(data)
    assert home.specs("") == {}
    (told,) = home.scanned.warnings
    assert told.reason == "it is a model for MLX, which needs macOS"


def test_models_that_generate_no_text_are_left_alone(home) -> None:
    """A cache has many of them."""
    safetensors(home.models / "bert", architectures=["BertModel"])
    assert (home.specs(VLLM, safetensors_template="vllm"), home.scanned.warnings) == ({}, ())


def test_config_json_says_what_a_folder_holds(tmp_path) -> None:
    """Also where it has a part for the language model of several."""
    folder = safetensors(
        tmp_path / "m",
        text_config={"max_position_embeddings": 4096, "hidden_size": 64, "dtype": "bfloat16"},
    )
    model = read_model(folder)
    assert model is not None
    assert (model.header.architecture, model.header.context_length) == ("qwen3", 4096)
    assert (model.quant, model.size_bytes) == ("BF16", 1000)


def test_folders_of_a_repository_have_its_name(tmp_path) -> None:
    """In the cache of the hub and in LM Studio's store."""
    hub = tmp_path / "hub"
    for revision in ("abc", "def"):
        safetensors(hub / "models--o--r" / "snapshots" / revision)
    safetensors(tmp_path / "lms" / "p" / "r")
    caches = Caches(None, (hub,), (Store(StoreKind.LM_STUDIO, tmp_path / "lms"),))
    found = discover(scan(caches, (), safetensors=True).collections)
    assert [model.id for model in found.models] == ["o/r", "p/r"]
    assert found.warnings == ()


def test_an_unknown_template_for_safetensors_is_a_mistake(home) -> None:
    """With the names of those that there are."""
    text = VLLM.replace('= "vllm"', '= "vlm"')
    with pytest.raises(ConfigError) as caught:
        home.specs(text)
    (problem,) = caught.value.problems
    assert problem.message == "there is no template 'vlm'; did you mean 'vllm'?"
