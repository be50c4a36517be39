"""llama-swap's configuration as router.toml."""

import hashlib
import tomllib
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.command import command_line
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.config import ConfigError, Problem
from llama_router.migration import llama_swap
from llama_router.migration.draft import Draft, key, render, string

ENVIRON = {"HOME": "/home/ann", "TOKEN": "s3cret"}


def draft_of(text: str) -> Draft:
    return llama_swap.translate(text, source="config.yaml", environ=ENVIRON)


def document_of(text: str) -> dict[str, Any]:
    return tomllib.loads(render(draft_of(text)))


def config_of(text: str) -> Config:
    return parse_config(document_of(text))


def model_of(text: str, name: str = "m") -> dict[str, Any]:
    """Return the table of one model."""
    table: dict[str, Any] = document_of(text)["models"][name]
    return table


def argv_of(text: str, name: str = "m") -> tuple[str, ...]:
    """Return what would be run on port 50000."""
    spec = config_of(text).models[ModelId(name)]
    return command_line(spec, port=50000, host="127.0.0.1")


def notes_of(text: str) -> dict[tuple[str | None, str], int | None]:
    """Return the line of each note by its model and setting."""
    return {(model, note.setting): note.line for model, note in draft_of(text).all_notes()}


def refused(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        draft_of(text)
    return list(caught.value.problems)


def one(settings: str, cmd: str = "serve --port ${PORT}") -> str:
    """Return a configuration with the model m and *settings*, each on a line."""
    lines = "".join(f"    {line}\n" for line in settings.splitlines())
    return f"models:\n  m:\n    cmd: {cmd}\n{lines}"


# --- Commands ------------------------------------------------------------------------


def test_the_smallest_configuration() -> None:
    """A command with the port is all that a model needs; the model file becomes the path."""
    text = "models:\n  m:\n    cmd: llama-server --port ${PORT} --model /models/q.gguf\n"
    assert model_of(text) == {
        "path": "/models/q.gguf",
        "spawn": {"command": ["llama-server", "--port", "$port", "--model", "$path"]},
    }
    assert notes_of(text) == {}


def test_a_command_over_several_lines_has_comments_continuations_and_quotes() -> None:
    """Comment lines vanish, also with a macro in them; quoted text stays one word."""
    text = r"""
macros:
  several: |
    two
    lines
models:
  m:
    cmd: |
      # ${several} of this, and ${unknown} too
      /opt/serve \
        --port ${PORT}
      --json '{"a": "b c"}'
      # and on
      --name "$x $5"
"""
    assert argv_of(text) == (
        *("/opt/serve", "--port", "50000", "--json", '{"a": "b c"}', "--name", "$x $5"),
    )


def test_continuations_in_folded_text_are_no_words() -> None:
    """Without "|", YAML joins the lines, and the backslashes are in the middle."""
    text = r"""
macros:
  args: --jinja --batch-size 4096 \
        --threads 10
models:
  m:
    cmd: /opt/llama-server --port ${PORT} \
         ${args} \
         --sep 'a\ b' --path /x\ y
"""
    assert argv_of(text) == (
        *("/opt/llama-server", "--port", "50000", "--jinja", "--batch-size", "4096"),
        *("--threads", "10", "--sep", "a\\ b", "--path", "/x y"),
    )


def test_macros_hold_macros_and_those_of_the_model_win() -> None:
    """A global macro that uses another one sees the model's own value for it."""
    text = """
macros:
  ctx: 4096
  args: "--ctx ${ctx} --id ${MODEL_ID}"
  bin: >
    /opt/llama-server
    --port ${PORT}
models:
  m:
    macros: {ctx: 16384, temp: 0.70}
    cmd: ${bin} ${args} --temp ${temp}
  n: {cmd: "${bin} ${args}"}
"""
    assert argv_of(text)[3:] == ("--ctx", "16384", "--id", "m", "--temp", "0.70")
    assert argv_of(text, "n")[3:] == ("--ctx", "4096", "--id", "n")


def test_a_dollar_sign_in_the_model_name_stays() -> None:
    """``${MODEL_ID}`` is written out, because text may follow it directly."""
    text = "models:\n  a$b:\n    cmd: 'serve ${PORT} --name ${MODEL_ID}_x'\n"
    assert argv_of(text, "a$b") == ("serve", "50000", "--name", "a$b_x")


def test_variables_of_the_environment_are_written_out_and_named() -> None:
    """``${env.X}`` becomes its value, and the draft says that it did."""
    draft = draft_of(one('env: ["KEY=${env.TOKEN}", "A=$HOME"]', cmd="serve ${PORT} ${env.HOME}"))
    assert draft.models["m"].spawn["env"] == {"KEY": "s3cret", "A": "$$HOME"}
    assert draft.variables == {"HOME", "TOKEN"}


def test_a_fixed_port_becomes_ours() -> None:
    """Where the number in ``proxy`` is certainly the port in the command, it is ``$port``."""
    text = one("proxy: http://127.0.0.1:8999", cmd="serve --port 8999 --seed 8999 --http-port=8999")
    assert argv_of(text) == ("serve", "--port", "50000", "--seed", "8999", "--http-port=50000")
    assert notes_of(text) == {("m", "proxy"): 4}


@pytest.mark.parametrize("published", ["${PORT}:8080", "9999:8080", "127.0.0.1:9999:8080"])
def test_a_container_publishes_our_port(published: str) -> None:
    """The port of the machine is ``$port``, that inside stays, and docker-proxy may have it."""
    proxy = "9999" if "9999" in published else "${PORT}"
    text = one(
        f"proxy: http://localhost:{proxy}\ncmdStop: docker stop ${{MODEL_ID}}",
        cmd=f"docker run --name ${{MODEL_ID}} --rm -p {published} image --model /models/q.gguf",
    )
    argv = argv_of(text)
    assert argv[argv.index("-p") + 1].endswith("50000:8080")
    assert argv[-1] == "/models/q.gguf"
    assert model_of(text)["spawn"]["check_port_owner"] is False
    assert ("m", "cmdStop") in notes_of(text)


def test_a_program_that_is_not_told_the_port_is_pointed_out() -> None:
    """Without ``${PORT}`` and with a foreign ``proxy`` there is something for a person to do."""
    assert notes_of(one("", cmd="serve")) == {("m", "cmd"): 3}
    assert notes_of(one("proxy: http://10.0.0.7:9000/v2", cmd="serve")) == {("m", "proxy"): 4}


def test_anchors_and_merges_are_those_of_yaml() -> None:
    """What a model says itself comes first, then the first map that is merged in."""
    text = """
a: &a {cmd: "a ${PORT}", ttl: 1, concurrencyLimit: 1}
b: &b {cmd: "b ${PORT}", ttl: 2, unloadTimeout: 2}
models:
  m: {<<: [*a, *b], ttl: 3}
"""
    assert model_of(text) == {
        "max_in_flight": 1,
        "ttl_s": 3,
        "spawn": {"command": ["a", "$port"], "stop_timeout_s": 2},
    }


@given(st.text())
def test_any_text_is_a_string_and_a_key_of_toml(text: str) -> None:
    """Control characters, quotes and backslashes come back as they were."""
    assert tomllib.loads(f"{key(text)} = {string(text)}") == {text: text}


def test_every_control_character_is_written_as_an_escape() -> None:
    """TOML allows none of them in a string."""
    text = "".join(map(chr, [*range(32), 127]))
    assert tomllib.loads(f"a = {string(text)}") == {"a": text}


# --- Other settings of a model -------------------------------------------------------


def test_what_has_a_counterpart_is_taken_over() -> None:
    """Aliases, limit, health endpoint and stop timeout."""
    text = one("""\
aliases: [gpt-4o-mini, 4711, {id: x, name: X}]
concurrencyLimit: 3
checkEndpoint: /v1/models
unloadTimeout: 7
ttl: 60
unlisted: false
name: ''
filters: {stripParams: ''}
metadata: {}""")
    assert model_of(text) == {
        "aliases": ["gpt-4o-mini", "4711", "x"],
        "max_in_flight": 3,
        "ttl_s": 60,
        "spawn": {
            "command": ["serve", "--port", "$port"],
            "health_endpoint": "/v1/models",
            "stop_timeout_s": 7,
        },
    }
    assert notes_of(text) == {("m", "aliases.name"): 4}


def test_what_has_no_counterpart_is_a_comment_beside_its_model() -> None:
    """Each such setting is named with its value and line, in the file and in the summary."""
    text = one("""\
cmdStop: kill ${PID}
checkEndpoint: none
filters:
  setParams: {seed: .inf}
metadata: {a: null}
timeouts: {connect: 3}
capabilities: {out: [audio], new: 1}
some_new_thing: 1""")
    notes = notes_of(text)
    settings = [
        *("cmdStop", "checkEndpoint", "filters.setParams.seed", "timeouts"),
        *("capabilities.out", "capabilities.new", "some_new_thing"),
    ]
    assert notes.keys() == {("m", setting) for setting in settings}
    assert notes["m", "cmdStop"] == 4
    _, _, after = render(draft_of(text)).partition("[models.m]\n")
    comments = after.partition("\n[")[0]
    assert "# Not taken over (line 4): cmdStop = kill ${PID}: " in comments
    assert "(line 7): filters.setParams.seed" in comments


def test_what_lists_of_models_say_is_taken_over() -> None:
    """A description in one line, facts, abilities and context; and whether it is listed."""
    spec = model_of(
        one("""\
unlisted: true
name: "  Good ${MODEL_ID}"
description: |
  A good
  model
metadata: {port: 1, deep: {a: [1, x]}}
capabilities: {in: [text, image], out: [text], tools: true, context: 8192}""")
    )
    del spec["spawn"]
    assert spec == {
        "unlisted": True,
        "name": "Good m",
        "description": "A good model",
        "metadata": {"port": 1, "deep": {"a": [1, "x"]}},
        "capabilities": ["completion", "vision", "tools"],
        "context_length": 8192,
    }


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{}", None),
        ("{in: [text]}", ["completion"]),
        ("{reranker: true}", ["rerank"]),
        ("{in: [text], out: [image]}", ["completion", "image"]),
        ("{in: [audio], out: [text]}", ["completion", "audio"]),
    ],
)
def test_capabilities(written, expected) -> None:
    """Inputs and outputs become one list of abilities."""
    assert model_of(one(f"capabilities: {written}")).get("capabilities") == expected


def test_request_shaping() -> None:
    """The name for the program and dropped parameters are taken over."""
    spec = model_of(
        one("useModelName: org/model\nfilters: {stripParams: 'temperature, model,top_p, '}")
    )
    assert spec["upstream_model"] == "org/model"
    assert spec["drop_params"] == ["temperature", "top_p"]


@pytest.mark.parametrize("key", ["stripParams", "strip_params"])
def test_both_spellings_of_dropped_parameters_are_understood(key: str) -> None:
    """llama-swap itself takes the older one, too."""
    assert model_of(one(f"filters: {{{key}: 'temperature'}}"))["drop_params"] == ["temperature"]


def test_parameters_that_are_set_are_taken_over() -> None:
    """With their types, tables and lists; never the model's name."""
    spec = model_of(
        one("filters: {setParams: {temperature: 0.7, model: x, k: {a: [1, b, true]}, s: '7'}}")
    )
    assert spec["set_params"] == {"temperature": 0.7, "k": {"a": [1, "b", True]}, "s": "7"}


def test_parameters_by_id_become_presets() -> None:
    """A name with a colon stays as it is; those of the model's own id become its own."""
    text = one("filters: {setParamsByID: {'${MODEL_ID}': {a: 1}, '${MODEL_ID}:high': {a: 2}}}")
    spec = model_of(text)
    assert spec["set_params"] == {"a": 1}
    assert spec["presets"] == {"high": {"a": 2}}
    assert notes_of(text) == {}
    resolved = config_of(text).lookup("m:high")
    assert resolved is not None
    assert resolved.overrides is not None
    assert resolved.overrides.sets == {"a": 2}


def test_a_name_of_its_own_for_parameters_becomes_a_preset_to_ask_for() -> None:
    """No name answers without the parameters that it stands for."""
    text = one("filters: {setParamsByID: {fast: {a: 1}}}")
    assert "aliases" not in model_of(text)
    assert model_of(text)["presets"] == {"fast": {"a": 1}}
    (note,) = draft_of(text).models["m"].notes
    assert "m:fast" in note.reason


# --- Settings of the whole file ------------------------------------------------------


def test_loading_messages_of_one_model() -> None:
    """A model's own setting counts before that of the file, in both programs."""
    config = config_of(one("sendLoadingState: false") + "sendLoadingState: true\n")
    assert config.router.notify_model_swap
    assert not config.models[ModelId("m")].notify_model_swap


def test_settings_of_the_whole_file() -> None:
    """Timeouts, log level, port and loading messages have their places."""
    text = one("") + (
        "healthCheckTimeout: 5\nunloadTimeout: 3\nlogLevel: warn\nstartPort: 10001\n"
        "sendLoadingState: true\nglobalTTL: 90\n"
    )
    config = config_of(text)
    assert config.router.ttl_s == 90
    assert (config.router.base_port, config.router.log_level) == (10001, "warning")
    assert config.router.notify_model_swap
    spawn = config.models[ModelId("m")].spawn
    assert (spawn.ready_timeout_s, spawn.stop_timeout_s) == (15, 3)


def test_defaults_are_those_of_llama_swap() -> None:
    """A model that took 100 s to load, or 8 s to stop, still may."""
    spawn = config_of(one("")).models[ModelId("m")].spawn
    assert (spawn.ready_timeout_s, spawn.stop_timeout_s) == (120, 10)
    assert "/infill".startswith(spawn.proxy_endpoints)


def test_what_has_no_counterpart_for_the_whole_file() -> None:
    """It is noted at the top; peers without their values, for keys are among them."""
    text = one("") + (
        "peers: {p: {apiKey: sk-x, proxy: 'http://h', models: [a]}}\n"
        "logTimeFormat: rfc3339\nstartPort: 80\nanything: {else: 1}\n"
    )
    notes = notes_of(text)
    settings = ["peers", "logTimeFormat", "startPort", "anything"]
    assert notes == {(None, setting): line for line, setting in enumerate(settings, start=4)}
    written = render(draft_of(text))
    assert "sk-" not in written
    assert written.index("peers") < written.index("[default_spawn]")


def test_keys_of_clients_stay_good() -> None:
    """They are written as digests, so that no secret is in the new file."""
    draft = draft_of(one("") + "apiKeys: [sk-hunter2, '${env.TOKEN}', sk-hunter2]\n")
    digests = [hashlib.sha256(key).hexdigest() for key in (b"sk-hunter2", b"s3cret")]
    keys = parse_config(tomllib.loads(render(draft))).api_keys
    assert [key.sha256 for key in keys.values()] == digests
    assert not draft.variables
    assert "sk-" not in render(draft)


def test_the_first_preloaded_model_is_the_startup_model() -> None:
    """Others are noted beside their model, an unknown one at the top."""
    text = "models: {a: {cmd: 's ${PORT}'}, b: {cmd: 's ${PORT}'}}\n"
    hooks = "hooks: {on_startup: {preload: [z, a, b]}}\n"
    assert config_of(text + hooks).router.startup_model == "a"
    setting = "hooks.on_startup.preload"
    assert notes_of(text + hooks) == {(None, setting): 2, ("b", setting): 2}


def test_a_preloaded_model_that_is_kept_needs_no_note() -> None:
    """``keep_loaded`` loads it at the start, beside the startup model."""
    text = FOUR + (
        "groups: {g: {persistent: true, exclusive: false, members: [a]}}\n"
        "hooks: {on_startup: {preload: [a, b]}}\n"
    )
    assert config_of(text).router.startup_model == "b"
    assert notes_of(text).keys() == {("a", "groups.g")}


# --- Groups --------------------------------------------------------------------------

FOUR = "models: {a: &x {cmd: 's ${PORT}'}, b: *x, c: *x, d: *x}\n"


def groups_of(text: str) -> dict[str, str | None]:
    return {str(name): spec.group for name, spec in config_of(text).models.items()}


@pytest.mark.parametrize("place", ["groups: %s", "routing: {router: {settings: {groups: %s}}}"])
def test_members_that_do_not_swap_are_a_group(place: str) -> None:
    """``swap: false`` runs side by side; ``swap: true`` (the default) runs alone."""
    text = FOUR + place % "{g: {swap: false, members: [a, b]}, h: {members: [c, d]}}"
    assert groups_of(text) == {"a": "g", "b": "g", "c": None, "d": None}
    assert notes_of(text) == {}


def test_flags_of_groups_without_a_counterpart_are_noted_beside_each_member() -> None:
    """``exclusive: false`` and ``persistent: true`` mean something that groups here do not."""
    text = FOUR + "groups:\n  g: {exclusive: false, persistent: true, members: [a, b], x: 1}\n"
    flags = ("groups.g.exclusive", "groups.g.persistent")
    expected: set[tuple[str | None, str]] = {(m, flag) for m in "ab" for flag in flags}
    assert notes_of(text).keys() == {*expected, (None, "groups.g.x")}


@pytest.mark.parametrize("ttl", [("", 90), ("ttl: -1", 90), ("ttl: 0", 0), ("ttl: 5", 5)])
def test_the_ttl_of_a_model_comes_before_the_global_one(ttl: tuple[str, int]) -> None:
    """-1 is that of the file, 0 is never."""
    config = config_of(one(ttl[0]) + "globalTTL: 90\n")
    assert config.models[ModelId("m")].ttl_s == ttl[1]


def test_models_that_stay_beside_all_others_are_kept_loaded() -> None:
    """Unless only one of several may run at a time."""
    flags = "persistent: true, exclusive: false"
    text = FOUR + (
        f"groups:\n  g: {{{flags}, swap: false, members: [a, b]}}\n  h: {{{flags}, members: [c]}}\n"
    )
    kept = [str(name) for name, spec in config_of(text).models.items() if spec.keep_loaded]
    assert kept == ["a", "b", "c"]
    assert notes_of(text) == {("a", "groups.g"): 3, ("b", "groups.g"): 3, ("c", "groups.h"): 4}
    swapping = f"{FOUR}groups: {{g: {{{flags}, members: [a, b]}}}}\n"
    assert not any(spec.keep_loaded for spec in config_of(swapping).models.values())
    assert ("a", "groups.g.persistent") in notes_of(swapping)


def test_a_member_of_two_groups_is_refused() -> None:
    """It could not be in both."""
    (problem,) = refused(f"{FOUR}groups: {{g: {{members: [a, a]}}}}\n")
    assert problem.line == 2
    assert "'g'" in problem.message


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        ("groups: {g: {swap: false, members: [a, z, b]}}", "groups.g.members"),
        ("matrix: {vars: {A: a, B: b, Z: z}, sets: {g: 'A & B'}}", "matrix.vars.Z"),
    ],
)
def test_a_member_that_is_no_more_is_noted(section: str, setting: str) -> None:
    """The others are a group all the same."""
    assert groups_of(f"{FOUR}{section}\n") == {"a": "g", "b": "g", "c": None, "d": None}
    assert notes_of(f"{FOUR}{section}\n") == {(None, setting): 2}


def test_a_simple_matrix_is_groups_and_the_rest_is_noted() -> None:
    """Only sets that are ``a & b`` and share no model say the same as groups."""
    matrix = "{vars: {A: a, B: b, C: c, D: d}, evict_costs: {A: 5}, sets: {one: 'A & B', two: %s}}"
    text = f"{FOUR}matrix: {matrix % 'C | D'}\n"
    assert groups_of(text) == {"a": "one", "b": "one", "c": None, "d": None}
    assert notes_of(text).keys() == {
        *((model, "matrix.sets.two") for model in "cd"),
        (None, "matrix.evict_costs"),
    }
    shared = (
        FOUR + f"routing: {{router: {{use: matrix, settings: {{matrix: {matrix % 'A & C'}}}}}}}"
    )
    assert set(groups_of(shared).values()) == {None}


# --- A workstation -------------------------------------------------------------------

WORKSTATION = r"""
# yaml-language-server: $schema=https://example.org/config-schema.json
healthCheckTimeout: 360
globalTTL: 900
startPort: 18200
macros:
  server: >
    /opt/llama.cpp/llama-server --host 127.0.0.1 --port ${PORT}
    --n-gpu-layers all --flash-attn on --jinja
  no-thinking: --chat-template-kwargs '{"enable_thinking":false}'
models:
  "qwen3.5-9b":
    cmd: |
      ${server} \
      --model /srv/models/Qwen3.5-9B-UD-Q4_K_XL.gguf \
      --mmproj /srv/models/mmproj-F16.gguf \
      -ctk q4_0 -ctv q4_0 ${no-thinking}
    aliases: ["gpt-4o", qwen]
  coder:
    cmd: >-
      /opt/vllm/bin/python -m vllm.entrypoints.openai.api_server
      --model /srv/hf/Qwen2.5-Coder-32B
      --served-model-name ${MODEL_ID} --host 127.0.0.1 --port ${PORT}
    proxy: http://127.0.0.1:${PORT}
    env:
      - CUDA_VISIBLE_DEVICES=1
      - PATH=/opt/vllm/bin:/usr/bin:/bin
    ttl: 0
  embed:
    cmd: /opt/llama.cpp/llama-server --port 9901 --embeddings -m /srv/models/nomic.gguf
    proxy: http://127.0.0.1:9901/
    concurrencyLimit: 8
  whisper:
    cmd: whisper-server --port ${PORT} -m /srv/models/ggml-large-v3.bin --request-path /v1
    checkEndpoint: /v1/audio/transcriptions/
  "owner/tts:latest":
    cmd: bash -c 'exec podman run --rm -p "$0":8000 tts "$@"' ${PORT} --voice $VOICE
    cmdStop: podman stop tts
groups:
  big: {members: [qwen3.5-9b, coder]}
  always: {persistent: true, exclusive: false, swap: false, members: [embed]}
  sound: {swap: false, exclusive: false, members: [whisper, "owner/tts:latest"]}
hooks: {on_startup: {preload: [embed]}}
"""


def test_a_workstation_moves() -> None:
    """Programs of all kinds keep their commands; little is left to look at."""
    models = config_of(WORKSTATION).models
    assert argv_of(WORKSTATION, "qwen3.5-9b") == (
        *("/opt/llama.cpp/llama-server", "--host", "127.0.0.1", "--port", "50000"),
        *("--n-gpu-layers", "all", "--flash-attn", "on", "--jinja"),
        *("--model", "/srv/models/Qwen3.5-9B-UD-Q4_K_XL.gguf"),
        *("--mmproj", "/srv/models/mmproj-F16.gguf", "-ctk", "q4_0", "-ctv", "q4_0"),
        *("--chat-template-kwargs", '{"enable_thinking":false}'),
    )
    coder = argv_of(WORKSTATION, "coder")
    assert coder[-6:] == ("--served-model-name", "coder", "--host", "127.0.0.1", "--port", "50000")
    assert models[ModelId("coder")].path is None
    assert models[ModelId("coder")].ttl_s == 0
    assert argv_of(WORKSTATION, "embed")[1:3] == ("--port", "50000")
    assert models[ModelId("embed")].keep_loaded
    assert models[ModelId("whisper")].spawn.health_endpoint == "/v1/audio/transcriptions/"
    assert argv_of(WORKSTATION, "owner/tts:latest") == (
        *("bash", "-c", 'exec podman run --rm -p "$0":8000 tts "$@"', "50000"),
        *("--voice", "$VOICE"),
    )
    assert notes_of(WORKSTATION).keys() == {
        ("embed", "proxy"),
        ("embed", "groups.always"),
        ("whisper", "groups.sound.exclusive"),
        ("owner/tts:latest", "groups.sound.exclusive"),
        ("owner/tts:latest", "cmdStop"),
    }


# --- Mistakes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("models: [", 1, "not valid YAML"),
        ("a: 1\nb: &x [*x]\n", 2, "nested"),
        ("models:\n  m:\n    cmd: s\n    cmd: t\n", 4, "duplicate key"),
        ("models:\n- m\n", 1, "expected a map, got a list"),
        ("models:\n  m: {cmd: [a]}\n", 2, "expected text, got a list"),
        ("models:\n  m: {ttl: 3}\n", 2, "cmd is missing"),
        ("models:\n  m: {cmd: '# only'}\n", 2, "empty"),
        ("models:\n  m: {cmd: 'a \"b'}\n", 2, "cannot be split"),
        ("models:\n  m: {cmd: 'a ${PORT}0'}\n", 2, "${PORT}0"),
        ("models:\n  m:\n    cmd: a ${nope}\n", 3, "unknown macro ${nope}"),
        ("models:\n  m:\n    cmd: a ${env.NOPE}\n", 3, "${env.NOPE} is not set"),
        ("macros: {a: '${b}', b: '${a}'}\nmodels:\n  m: {cmd: '${a}'}\n", 3, "contains itself"),
        (one("ttl: soon"), 4, "whole number, got soon"),
        (one("ttl: -2"), 4, "at least -1"),
        (one("concurrencyLimit: -1"), 4, "at least 0"),
        (one("unlisted: 1"), 4, "true or false, got 1"),
        (one("env: {A: B}"), 4, "expected a list, got a map"),
        (one("env: [A]"), 4, "NAME=value"),
        (one("env: ['=b']"), 2, "not a variable's name"),
        (one("checkEndpoint: health"), 2, "must begin with '/'"),
        (one("aliases: [m2]\n") + "  m2: {cmd: s}\n", 2, "already a name of the model 'm2'"),
        ("logLevel: loud\n", 1, "must be one of debug"),
        ("models:\n  '': {cmd: 's ${PORT}'}\n", 2, "must not be empty"),
        ('models: {m: {cmd: "s\\uD800"}}', 1, "surrogate"),
        ("models: {m: {cmd: s\x07}}", 1, "U+0007"),
    ],
)
def test_mistakes_are_sentences_with_a_line(text: str, line: int, words: str) -> None:
    """What cannot be translated says what and where it is."""
    problems = refused(text)
    assert [problem.line for problem in problems] == [line], problems
    assert words in str(problems[0])


def test_mistakes_of_several_models_come_together() -> None:
    """One run says what is wrong with every model."""
    text = "models:\n  a: {cmd: '${x}'}\n  b: {cmd: s}\n  c: {cmd: s, ttl: x}\n"
    assert [problem.line for problem in refused(text)] == [2, 4]


def test_few_lines_cannot_make_gigabytes() -> None:
    """Neither aliases of YAML nor macros may multiply without end."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12)]
    assert "more than" in refused("\n".join(lines))[0].message
    macros = ["macros:", "  m0: xxxxxxxxxxxxxxxx"]
    macros += [f"  m{n}: '{f'${{m{n - 1}}}' * 16}'" for n in range(1, 12)]
    text = "\n".join([*macros, "models: {m: {cmd: '${m11}'}}"])
    assert "characters" in refused(text)[0].message


# --- Anything ------------------------------------------------------------------------

KEYS = [
    *("models", "macros", "groups", "matrix", "hooks", "on_startup", "preload", "cmd", "proxy"),
    *("env", "aliases", "ttl", "filters", "setParamsByID", "checkEndpoint", "members", "swap"),
    *("routing", "router", "settings", "vars", "sets", "startPort", "logLevel", "m", "<<"),
]
PIECES = [
    "serve",
    "${PORT}",
    "${m}",
    "${env.HOME}",
    "--port 8999",
    "'",
    '"',
    "\\",
    "#",
    "$",
    "é\x85",
]
TEXTS = st.one_of(
    st.sampled_from(["m", "a & b", "", "none", "/health", "FOO=bar", "http://localhost:8999"]),
    st.lists(st.sampled_from(PIECES)).map(" ".join),
    st.text(max_size=8),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=12,
)
MODELS = st.dictionaries(
    TEXTS,
    st.fixed_dictionaries(
        {"cmd": TEXTS},
        optional={
            "env": st.lists(TEXTS, max_size=2),
            "aliases": st.lists(TEXTS, max_size=2),
            "proxy": TEXTS,
            "checkEndpoint": TEXTS,
            "ttl": st.integers(-2, 9),
            "macros": st.dictionaries(TEXTS, TEXTS, max_size=2),
            "filters": VALUES,
            "metadata": VALUES,
        },
    ),
    max_size=3,
)


def yields_toml_or_a_sentence(text: str) -> None:
    try:
        draft = draft_of(text)
    except ConfigError:
        return
    written = tomllib.loads(render(draft))
    assert written == {section: table for section, table in draft.document().items() if table}
    parse_config(written)


@given(st.text())
def test_any_text_gives_toml_or_a_sentence(text: str) -> None:
    """No text makes the translation fail in any other way."""
    yields_toml_or_a_sentence(text)


@given(st.lists(st.sampled_from([*"{}[]:,-&*!|>'\"#%@?\n \t", "<<", "a", "models", "cmd", "\\U"])))
def test_any_punctuation_gives_toml_or_a_sentence(pieces: list[str]) -> None:
    """Text that is nearly YAML is no exception."""
    yields_toml_or_a_sentence("".join(pieces))


@given(VALUES)
def test_any_tree_gives_toml_or_a_sentence(value: object) -> None:
    """Valid YAML of any shape is no exception."""
    yields_toml_or_a_sentence(yaml_of(value))


@given(MODELS, VALUES)
def test_any_models_give_toml_or_a_sentence(models: dict[str, Any], groups: object) -> None:
    """Nearly sensible configurations are no exception."""
    yields_toml_or_a_sentence(yaml_of({"models": models, "groups": groups}))


def yaml_of(value: object) -> str:
    """Write *value* as YAML."""
    return str(yaml.safe_dump(value, allow_unicode=True))
