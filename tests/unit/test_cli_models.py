"""The commands about model files: ``inspect``, ``import``, ``check --commands``."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bench.memory.architectures import SHAPES
from llama_router.cli.commands.configuration import check, init
from llama_router.cli.commands.models import import_, inspect
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.projector import make_projector
from tests.gguf_bytes import header, model_keys, projector_keys, write


@pytest.fixture
def config(tmp_path, monkeypatch) -> Path:
    """A configuration with a folder of models, in a home with nothing else."""
    for variable in ("LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "router.toml"
    path.write_text('[router]\nstate_dir = "state"\nmodels_dirs = ["models"]\n')
    return path


def test_inspect_says_what_a_model_is_and_how_it_is_served(tmp_path, capsys) -> None:
    """Facts of the header, and what follows from them."""
    keys = model_keys("bert", vocabulary=10, pooling_type=1)
    path = write(tmp_path / "x-Q8_0.gguf", keys)
    assert inspect(path, chat_template=False) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["architecture"] == "bert"
    assert lines["quantization"] == "Q8_0"
    assert lines["layers"] == "4"
    assert lines["served"] == "as          embedding"
    assert lines["arguments"] == "--embeddings --batch-size 4096 --ubatch-size 4096"


def test_inspect_prints_the_chat_template(tmp_path, capsys) -> None:
    """Line by line, and nothing in it steers the terminal."""
    keys = model_keys(vocabulary=10) | {"tokenizer.chat_template": "one\n\x1b[2Jtwo"}
    assert inspect(write(tmp_path / "x.gguf", keys), chat_template=True) == 0
    assert capsys.readouterr().out == "one\n\\x1b[2Jtwo\n"
    assert inspect(write(tmp_path / "y.gguf"), chat_template=True) == 1
    assert "no chat template" in capsys.readouterr().err


def test_inspect_says_that_a_projector_is_no_model(tmp_path, capsys) -> None:
    """It belongs to one."""
    assert inspect(write(tmp_path / "side.gguf", projector_keys()), chat_template=False) == 0
    assert "nothing: it is not a model by itself" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["eagle3", "dflash"])
def test_inspect_refuses_a_draft(tmp_path, capsys, architecture) -> None:
    """It says what the file is for."""
    path = write(tmp_path / "draft.gguf", model_keys(architecture))
    assert inspect(path, chat_template=False) == 1
    said = capsys.readouterr()
    assert "nothing: it is not a model by itself" in said.out
    assert "beside that model, by --model-draft" in said.err


@pytest.mark.parametrize("keys", [model_keys(), model_keys() | {"general.type": "vocab"}])
def test_inspect_refuses_a_vocabulary(tmp_path, capsys, keys) -> None:
    """A file without tensors looks like a model otherwise."""
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(header(keys, tensors=0))
    assert inspect(path, chat_template=False) == 1
    said = capsys.readouterr()
    assert "nothing: it is not a model by itself" in said.out
    assert "it has a vocabulary and no tensors" in said.err


def test_inspect_shows_the_memory_that_a_model_needs(tmp_path, capsys) -> None:
    """The cache for a number of tokens, because the context can be chosen."""
    make_chat_model(tmp_path / "x.gguf", name="x", size_mb=30)
    assert inspect(tmp_path / "x.gguf", chat_template=False) == 0
    said = capsys.readouterr().out
    assert re.search(r"^weights +\d+\.\d MiB$", said, re.MULTILINE)
    # 256 keys and values of two bytes in one layer.
    assert re.search(r"^KV cache +1\.0 MiB per 1,000 tokens$", said, re.MULTILINE)
    assert re.search(
        r"^compute buffer +\d+\.\d MiB with a context of 2048 tokens$", said, re.MULTILINE
    )


def test_inspect_shows_what_does_not_depend_on_the_context(tmp_path, capsys) -> None:
    """A sliding window is as large as it is."""
    shape = next(shape for shape in SHAPES if shape.name == "windows")
    shape.write(tmp_path / "x.gguf")
    assert inspect(tmp_path / "x.gguf", chat_template=False) == 0
    said = capsys.readouterr().out
    assert "KV cache           3.9 MiB per 1,000 tokens and 50.0 MiB for 4 slots" in said


def test_inspect_shows_the_memory_of_a_projector(tmp_path, capsys) -> None:
    """It has no context."""
    make_projector(tmp_path / "mmproj.gguf")
    assert inspect(tmp_path / "mmproj.gguf", chat_template=False) == 0
    said = capsys.readouterr().out
    assert "weights            0.1 MiB" in said
    assert "KV cache" not in said


@pytest.mark.parametrize("name", ["x.gguf", "x-00001-of-00002.gguf"])
def test_inspect_fails_for_a_truncated_file(tmp_path, capsys, name) -> None:
    """After all that its header says."""
    path = write(tmp_path / name)
    os.truncate(path, path.stat().st_size - 3)
    assert inspect(path, chat_template=False) == 1
    said = capsys.readouterr()
    assert "architecture" in said.out
    assert "its last 3 bytes are missing" in said.err


def test_inspect_fails_for_a_part_that_llama_cpp_does_not_open(tmp_path, capsys) -> None:
    """It says the right name."""
    assert inspect(write(tmp_path / "x-00001-OF-00002.GGUF"), chat_template=False) == 1
    assert "only under the name 'x-00001-of-00002.gguf'" in capsys.readouterr().err


def test_import_leaves_out_a_truncated_model(config, tmp_path, capsys) -> None:
    """With a warning, and it fails if there is no other."""
    path = write(tmp_path / "mine" / "a.gguf")
    os.truncate(path, path.stat().st_size - 1)
    assert import_(tmp_path / "mine", config=config) == 1
    assert f"{path}: warning: it was truncated" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.gguf", "a-00001-of-00002.gguf"])
def test_check_fails_for_a_truncated_file_that_the_configuration_names(
    config, tmp_path, capsys, name
) -> None:
    """No scan has looked at it; of a split model any part may be damaged."""
    write(tmp_path / "mine" / name)
    last = write(tmp_path / "mine" / name.replace("-00001", "-00002"))
    config.write_text(f'{config.read_text()}[models.x]\npath = "mine/{name}"\n')
    assert check(config) == 0
    capsys.readouterr()
    os.truncate(last, last.stat().st_size - 1)
    assert check(config) == 1
    said = capsys.readouterr().err
    assert "models.x: " in said
    assert "its last 1 bytes are missing" in said
    assert "1 of 1 models cannot be used now" in said


def test_inspect_refuses_what_is_no_gguf_file(tmp_path, capsys) -> None:
    """With the reason."""
    assert inspect(tmp_path / "none.gguf", chat_template=False) == 1
    assert "No such file" in capsys.readouterr().err


def test_check_refuses_a_model_that_fits_on_no_device(config, capsys) -> None:
    """With the policy of memory; settings of devices that are wrong on this machine are said."""
    config.write_text(
        """
        [router]
        state_dir = "state"
        scan_caches = false
        [scheduler]
        policy = "memory"
        [devices.gpu0]
        kind = "simulated"
        memory_mib = 8000
        [devices.nvidia9]
        memory_mib = 5000
        [models.small]
        memory_mib = 8000
        spawn.command = ["true", "$port"]
        [models.large]
        memory_mib = 8001
        spawn.command = ["true", "$port"]
        """
    )
    assert check(config) == 1
    problems = capsys.readouterr().err
    assert "[devices.nvidia9] has no effect" in problems
    assert "models.large: model 'large' needs 7.8 GiB of GPU memory (configured)" in problems
    assert "1 of 2 models cannot be used now" in problems
    config.write_text(config.read_text().replace('policy = "memory"', ""))
    assert check(config) == 0


def test_check_prints_the_command_of_every_model(config, capsys) -> None:
    """Nothing that a backend gets is hidden; and nothing is remembered."""
    write(config.parent / "models" / "a.gguf")
    write(config.parent / "models" / "mmproj-F16.gguf", projector_keys())
    (config.parent / "models" / "bad.gguf").touch()
    assert check(config, commands=True) == 0
    said = capsys.readouterr()
    folder = config.parent / "models"
    assert said.out.splitlines()[0] == (
        "a: LLAMA_ARG_LOG_VERBOSITY=4 "
        f"llama-server --model {folder}/a.gguf --port $port --host $host --jinja "
        f"--mmproj {folder}/mmproj-F16.gguf  # fitted by llama.cpp when it loads"
    )
    assert "ok, 1 model" in said.out
    assert "bad.gguf: warning: it is empty" in said.err
    assert not (config.parent / "state").exists()


def test_import_needs_a_folder_with_models(config, tmp_path, capsys) -> None:
    """Else it says so, and fails."""
    assert import_(tmp_path / "none", config=config) == 1
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert import_(tmp_path / "empty", config=config) == 1
    assert "no model was found" in capsys.readouterr().err


def test_import_says_what_is_new(config, tmp_path, capsys) -> None:
    """And what was known."""
    write(tmp_path / "mine" / "deep" / "a.gguf")
    assert import_(tmp_path / "mine", config=config) == 0
    assert capsys.readouterr().out == "imported: a\n"
    assert import_(tmp_path / "mine", config=config) == 0
    assert capsys.readouterr().out == "known already: a\n"


def test_import_fails_if_it_cannot_be_remembered(config, tmp_path, capsys) -> None:
    """An import that is forgotten at once would be of no use."""
    write(tmp_path / "mine" / "a.gguf")
    (tmp_path / "state" / "models.toml.lock").mkdir(parents=True)
    assert import_(tmp_path / "mine", config=config) == 1
    assert "cannot be kept" in capsys.readouterr().err


def test_init_makes_the_folder(tmp_path, capsys) -> None:
    """At first there is no folder of configurations, neither in a home nor in /etc."""
    path = tmp_path / "etc" / "llama-router" / "router.toml"
    assert init(path) == 0
    assert "# llama-router's configuration" in path.read_text()
    assert f"wrote {path}" in capsys.readouterr().out
