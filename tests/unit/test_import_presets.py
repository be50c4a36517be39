"""llama.cpp's INI presets as router.toml."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.config.merge import FoundModels, merge
from llama_router.core.config.command import command_line
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.config import ConfigError, Problem
from llama_router.migration import llama_options, presets
from llama_router.migration.draft import Draft, render


def draft_of(text: str) -> Draft:
    return presets.translate(text, source="presets.ini")


def document_of(text: str) -> dict[str, Any]:
    return tomllib.loads(render(draft_of(text)))


def argv_of(text: str, name: str = "m") -> tuple[str, ...]:
    """Return the arguments without host and port."""
    spec = parse_config(document_of(text)).models[ModelId(name)]
    argv = command_line(spec, port=50000, host="127.0.0.1")
    address = argv.index("--port")
    assert argv[0] == "llama-server"
    assert argv[address : address + 4] == ("--port", "50000", "--host", "127.0.0.1")
    return (*argv[1:address], *argv[address + 4 :])


def notes_of(text: str) -> dict[tuple[str | None, str], int | None]:
    return {(model, note.setting): note.line for model, note in draft_of(text).all_notes()}


def refused(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        draft_of(text)
    return list(caught.value.problems)


def test_a_preset_becomes_the_same_command() -> None:
    """Every spelling of an option is understood; the files become path and mmproj."""
    text = """\
version = 1
; a comment
[m]
m = /models/q.gguf   # the file
mmproj=/models/p.gguf
c = 4096
LLAMA_ARG_N_PARALLEL = 2
temp = 0.7;
chat-template-kwargs = {"reasoning_effort": "$5"}
"""
    assert argv_of(text) == (
        *("--model", "/models/q.gguf", "--mmproj", "/models/p.gguf"),
        *("-c", "4096", "--parallel", "2", "--temp", "0.7"),
        *("--chat-template-kwargs", '{"reasoning_effort": "$5"}'),
    )
    model = document_of(text)["models"]["m"]
    assert (model["path"], model["mmproj"]) == ("/models/q.gguf", "/models/p.gguf")
    assert notes_of(text) == {}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("jinja = true", ("--jinja",)),
        ("jinja = 0", ("--no-jinja",)),
        ("no-jinja = 1", ("--no-jinja",)),
        ("no-jinja = off", ("--jinja",)),
        ("LLAMA_ARG_CONT_BATCHING = disabled", ("--no-cont-batching",)),
        ("metrics = on", ("--metrics",)),
        ("flash-attn = on", ("--flash-attn", "on")),
        ("ngl = 99", ("-ngl", "99")),
    ],
)
def test_switches_and_values(setting: str, words: tuple[str, ...]) -> None:
    """A switch becomes itself or its negation, and never has a value."""
    assert argv_of(f"[m]\nmodel = /m\n{setting}\n") == ("--model", "/m", *words)


def test_a_switch_that_cannot_be_switched_off_is_noted() -> None:
    """``metrics = 0`` has no argument; it is the default, but that is said."""
    text = "[m]\nmodel = /m\nmetrics = 0\n"
    assert argv_of(text) == ("--model", "/m")
    assert notes_of(text) == {("m", "metrics"): 3}


def test_settings_for_all_models_are_shared() -> None:
    """``[*]`` becomes ``default_spawn.args``; a model without the same option adds to them."""
    text = "[*]\nn-gpu-layers = 99\n[m]\nmodel = /m\ntemp = 1\n"
    assert document_of(text)["default_spawn"]["args"] == ["--n-gpu-layers", "99"]
    assert argv_of(text) == ("--model", "/m", "--n-gpu-layers", "99", "--temp", "1")


def test_an_option_of_a_model_takes_the_place_of_the_shared_one() -> None:
    """Also under another spelling; no option is there twice."""
    text = "[*]\nc = 100\njinja = 1\n[m]\nmodel = /m\nLLAMA_ARG_CTX_SIZE = 200\n"
    assert argv_of(text) == ("--model", "/m", "--ctx-size", "200", "--jinja")


def test_what_the_router_does_itself_is_noted() -> None:
    """Ports, keys and the like are left out and named; no key is repeated."""
    text = "[*]\nport = 8080\napi-key = hunter2\n[m]\nmodel = /m\nhost = 0.0.0.0\n"
    assert argv_of(text) == ("--model", "/m")
    assert notes_of(text) == {(None, "port"): 2, (None, "api-key"): 3, ("m", "host"): 6}
    assert "hunter2" not in render(draft_of(text))


def test_settings_that_are_no_options_have_counterparts() -> None:
    """Aliases, the stop timeout, and the model that is loaded at start."""
    text = """\
[a]
model = /a
alias = gpt-4, a, x
stop-timeout = 20
load-on-startup = true
[b]
model = /b
load-on-startup = 1
[c]
model = /c
load-on-startup = 0
"""
    document = document_of(text)
    assert document["router"] == {"startup_model": "a"}
    assert document["models"]["a"]["aliases"] == ["gpt-4", "x"]
    assert document["models"]["a"]["spawn"] == {"stop_timeout_s": 20}
    assert notes_of(text) == {("b", "load-on-startup"): 8}


def test_a_section_named_like_a_repository_is_loaded_from_the_cache() -> None:
    """Its name says which model it is."""
    name = "ggml-org/gemma-3-GGUF:Q8_0"
    assert argv_of(f"[{name}]\ntemp = 1\n", name) == ("--hf-repo", name, "--temp", "1")


@pytest.mark.parametrize("section", ["*", "m"])
@pytest.mark.parametrize(
    "key",
    [
        *("dedup-cache-models", "load-on-startup", "stop-timeout"),
        *("__PRESET_DEDUP_CACHE_MODELS", "__PRESET_LOAD_ON_STARTUP", "__PRESET_STOP_TIMEOUT"),
        "__PRESET_NEWER_THAN_THIS",
    ],
)
def test_what_only_a_preset_may_have_is_no_argument(section: str, key: str) -> None:
    """``llama-server`` refuses it, so every model would fail to start."""
    text = f"[*]\nc = 9\n[m]\nmodel = /m\n[{section}]\n{key} = 5\n"
    if section == "m":
        text += "model = /m\n"  # a section replaces an earlier one
    spec = parse_config(document_of(text)).models[ModelId("m")]
    words = " ".join((*spec.spawn.command, *spec.spawn.args, *spec.spawn.env)).lower()
    assert key.lower() not in words
    assert "preset" not in words
    assert "5" not in words.split()


def test_both_spellings_of_a_preset_only_key_mean_the_same() -> None:
    """The key and its variable."""
    text = "[m]\nmodel = /m\n__PRESET_STOP_TIMEOUT = 20\n__PRESET_LOAD_ON_STARTUP = 1\n"
    document = document_of(text)
    assert document["models"]["m"]["spawn"] == {"stop_timeout_s": 20}
    assert document["router"] == {"startup_model": "m"}


@pytest.mark.parametrize(
    ("line", "value", "noted"),
    [
        ("model = /m;odel.gguf", "/m", True),
        ("model = /m#odel.gguf", "/m", True),
        ("model = /m ; a comment", "/m", False),
        ("model = /m;", "/m", False),
        ('model = "/m ; n"', '"/m', True),
    ],
)
def test_a_value_that_a_comment_sign_cuts_off_is_noted(
    line: str, value: str, *, noted: bool
) -> None:
    """llama.cpp cuts it, too; a comment as it is usually written needs no note."""
    text = f"[m]\n{line}\n"
    assert document_of(text)["models"]["m"]["path"] == value
    assert notes_of(text) == ({("m", "model"): 2} if noted else {})


def test_a_model_without_a_file_takes_its_shared_settings_along() -> None:
    """Its command is its own, so the shared arguments are repeated there."""
    text = "[*]\nngl = 9\n[o/r:Q8_0]\ntemp = 1\n"
    assert argv_of(text, "o/r:Q8_0") == ("--hf-repo", "o/r:Q8_0", "-ngl", "9", "--temp", "1")


def test_found_models_are_served_by_the_imported_default_command() -> None:
    """It names their file; without one llama-server would start as a router of its own."""
    document = document_of("[*]\nngl = 9\n[m]\nmodel = /m\n[o/r:Q8_0]\ntemp = 1\n")
    found = FoundModels(models={"found": {"path": "/f.gguf"}}, files={"found": 1})
    merged = merge(document, found, file_of={}, running=False)
    spec = parse_config(merged.document).models[ModelId("found")]
    assert command_line(spec, port=1, host="h") == (
        *("llama-server", "--model", "/f.gguf", "--port", "1", "--host", "h", "-ngl", "9"),
    )


def test_a_section_without_a_file_is_a_comment() -> None:
    """Nothing would be loaded; its settings are kept in the comment."""
    text = "jinja = 1\n[local]\ntemp = 1\nload-on-startup = 1\n"
    assert document_of(text).get("models", {}) == {}
    assert notes_of(text) == {(None, "[default]"): 1, (None, "[local]"): 2}
    assert "temp = 1, load-on-startup = 1" in render(draft_of(text))


def test_unknown_options_are_passed_on_and_pointed_out() -> None:
    """A newer llama-server may know them; unknown variables stay variables."""
    text = "[m]\nmodel = /m\nbrand-new = $5\nLLAMA_ARG_BRAND_NEW = 1\nmmap = 0\n"
    assert argv_of(text) == ("--model", "/m", "--brand-new", "$5", "--no-mmap")
    assert document_of(text)["models"]["m"]["spawn"]["env"] == {"LLAMA_ARG_BRAND_NEW": "1"}
    assert notes_of(text) == {("m", "brand-new"): 3, ("m", "mmap"): 5}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[m]\nmodel\n", 2, "expected [section]"),
        ("[m\n", 1, "expected [section]"),
        ("[m]\nmodel = /m\nstop-timeout = soon\n", 3, "seconds, got 'soon'"),
        ("[a]\nmodel = /m\n[b]\nmodel = /m\nalias = a\n", 3, "already a name of the model 'a'"),
        ("[m]\nmodel =\n", 1, "must not be empty"),
    ],
)
def test_mistakes_are_sentences_with_a_line(text: str, line: int, words: str) -> None:
    """What cannot be translated says what and where it is."""
    problems = refused(text)
    assert problems[0].line == line
    assert words in str(problems[0])


def test_each_option_is_found_by_all_its_spellings() -> None:
    """Long, short, negated and by variable, it is one option."""
    spellings = ("kvo", "kv-offload", "nkvo", "no-kv-offload", "LLAMA_ARG_KV_OFFLOAD")
    options = {llama_options.find(spelling) for spelling in spellings}
    assert len(options) == 1
    assert None not in options
    assert llama_options.find("no-such-option") is None


LINES = st.one_of(
    st.sampled_from(["[m]", "[*]", "[a/b]", "model = /m", "m=", "jinja = 0", "alias = x,m", "# c"]),
    st.builds("{}={}".format, st.sampled_from(["c", "port", "env", "x.y", "LLAMA_X"]), st.text()),
    st.text(max_size=10),
)


@given(st.lists(LINES).map("\n".join))
def test_any_text_gives_toml_or_a_sentence(text: str) -> None:
    """No text makes the translation fail in any other way."""
    try:
        draft = draft_of(text)
    except ConfigError:
        return
    written = tomllib.loads(render(draft))
    assert written == {section: table for section, table in draft.document().items() if table}
    parse_config(written)
