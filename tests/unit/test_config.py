"""From a TOML document to a configuration: strict, complete, precise."""

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.command import command_line
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.reload import plan_reload, router_fields_to_restart_for
from llama_router.core.config.specs import (
    DEFAULT_SPAWN,
    DeclaredKind,
    DeviceSpec,
    LogFormat,
    LogLevel,
    ModelSpec,
    ModelState,
    Policy,
    RouterSpec,
    SchedulerSpec,
    SpawnSpec,
)
from llama_router.errors.config import ConfigError

PATH = {"path": "/m.gguf"}


def problems(document: dict[str, Any]) -> dict[str, str]:
    """Return the messages of *document*'s problems by their location."""
    with pytest.raises(ConfigError) as caught:
        parse_config(document)
    found = {problem.location: problem.message for problem in caught.value.problems}
    assert len(found) == len(caught.value.problems), "two problems at one place"
    return found


def problem(document: dict[str, Any]) -> tuple[str, str]:
    """Return location and message of *document*'s only problem."""
    (only,) = problems(document).items()
    return only


def only_model(document: dict[str, Any]) -> ModelSpec:
    (spec,) = parse_config(document).models.values()
    return spec


# --- Defaults and inheritance --------------------------------------------------------


def test_an_empty_document_gives_the_defaults() -> None:
    """Everything may be left out."""
    assert parse_config({}) == Config(router=RouterSpec(), models={})


def test_a_model_with_only_a_path_gets_the_built_in_spawn() -> None:
    """Every value of such a model is a documented default."""
    assert only_model({"models": {"a": PATH}}) == ModelSpec(
        id=ModelId("a"), spawn=DEFAULT_SPAWN, path="/m.gguf", max_queued=1024
    )


def test_the_built_in_spawn_is_the_documented_command() -> None:
    """The default starts llama-server with every argument visible."""
    assert " ".join(DEFAULT_SPAWN.command) == (
        "llama-server --model $path --port $port --host $host --jinja"
    )
    assert {"/v1/", "/health", "/slots", "/props"} < set(DEFAULT_SPAWN.proxy_endpoints)


def test_every_field_of_the_router_can_be_set() -> None:
    """Each value arrives, with its own type."""
    written = {
        "host": "::",
        "port": 0,
        "base_port": 1024,
        "connection_timeout_s": 1,
        "read_timeout_s": 2.5,
        "stream_keepalive_s": 15.0,
        "startup_model": "b",
        "notify_model_swap": True,
        "llama_server": "/opt/llama-server",
        "models_dirs": ["/models"],
        "scan_caches": False,
        "default_model": "a",
        "default_for_unknown": True,
        "autoload": False,
        "aliases_in_list": True,
        "drain_s": 0,
        "state_dir": "/s",
        "log_level": "debug",
        "log_format": "json",
        "log_file_mib": 1,
        "log_files": 0,
        "log_keep_days": 7,
        "log_total_mib": 0,
        "max_body_mib": 1,
        "max_bodies_mib": 1,
        "capture_mib": 16,
        "cache_mib": 1,
        "dashboard_sign_in": True,
        "max_queued": 1,
        "max_queue_wait_s": 0.1,
        "max_dwell_s": 0,
        "min_residency_s": 0,
        "stable_after_s": 0,
        "max_restarts": 0,
        "cooldown_s": 0,
        "ttl_s": 1,
        "home_model": "a",
        "home_after_s": 0,
        "admin_token": "0123456789abcdef",
        "allowed_hosts": ["box.example.org"],
        "cors_origins": ["https://chat.example.org"],
        "pages_origin": "http://127.0.0.1:8083",
        "models_api": "admin",
        "metrics": "off",
        "public_without_keys": True,
        "safetensors_template": "t",
        "mcp": True,
    }
    assert written.keys() == {field.name for field in attrs.fields(RouterSpec)}
    document = {"router": written, "templates": {"t": {}}}
    document["models"] = {"a": {**PATH, "aliases": ["b"]}}
    router = parse_config(document).router
    assert attrs.asdict(router) == {
        **written,
        "allowed_hosts": ("box.example.org",),
        "cors_origins": ("https://chat.example.org",),
        "models_dirs": ("/models",),
        "log_level": LogLevel.DEBUG,
        "log_format": LogFormat.JSON,
    }
    assert isinstance(router.drain_s, float)


@pytest.mark.parametrize(
    ("router", "template", "own", "expected"),
    [
        ({}, {}, {}, True),
        ({"autoload": False}, {}, {}, False),
        ({"autoload": False}, {"autoload": True}, {}, True),
        ({}, {"autoload": False}, {}, False),
        ({}, {"autoload": False}, {"autoload": True}, True),
    ],
)
def test_autoload_is_inherited(router, template, own, expected) -> None:
    """Model over template over [router]."""
    spec = only_model(
        {
            "router": router,
            "templates": {"t": {"args": ["-x"], **template}},
            "models": {"a": {**PATH, "template": "t", **own}},
        }
    )
    assert (spec.autoload, spec.spawn.args) == (expected, ("-x",))


def test_a_wrong_value_in_a_template_is_reported_once() -> None:
    """With its place, though it is a setting of models."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"templates": {"t": {"autoload": 1}}, "models": {}})
    assert [problem.location for problem in caught.value.problems] == ["templates.t.autoload"]


def test_spawn_settings_are_inherited_field_by_field() -> None:
    """Model over template over default_spawn over built-in; the rest stays."""
    spec = only_model(
        {
            "default_spawn": {"command": ["one"], "ready_timeout_s": 1, "cwd": "/default"},
            "templates": {"t": {"ready_timeout_s": 2, "stop_timeout_s": 2, "args": ["t"]}},
            "models": {"a": {"template": "t", "spawn": {"stop_timeout_s": 3}}},
        }
    )
    assert spec.spawn == SpawnSpec(
        command=("one",),
        args=("t",),
        proxy_endpoints=DEFAULT_SPAWN.proxy_endpoints,
        cwd="/default",
        ready_timeout_s=2,
        stop_timeout_s=3,
    )


def test_env_tables_merge_key_by_key() -> None:
    """A model changes one variable and keeps the others; "" sets an empty one."""
    spec = only_model(
        {
            "default_spawn": {"env": {"A": "1", "B": "1", "C": "1"}},
            "templates": {"t": {"env": {"B": "2"}}},
            "models": {"a": {**PATH, "template": "t", "spawn": {"env": {"C": "", "D": "4"}}}},
        }
    )
    assert spec.spawn.env == {"A": "1", "B": "2", "C": "", "D": "4"}


@pytest.mark.parametrize(
    ("spawns", "args"),
    [
        ({"models": {"a": {"spawn": {"command": ["serve"]}}}}, ()),
        ({"templates": {"t": {"command": ["serve"]}}, "models": {"a": {"template": "t"}}}, ()),
        ({"models": {"a": {"spawn": {"command": ["serve"], "args": ["x"]}}}}, ("x",)),
        ({"models": {"a": {"spawn": {"command": ["serve"]}, "args": ["own"]}}}, ("own",)),
        (
            {
                "templates": {"t": {"command": ["serve"], "args": ["x"]}},
                "models": {"a": {"template": "t"}},
            },
            ("x",),
        ),
        ({"models": {"a": {**PATH, "spawn": {"cwd": "/"}}}}, ("-ngl", "9")),
    ],
)
def test_inherited_args_belong_to_the_inherited_command(
    spawns: dict[str, Any], args: tuple[str, ...]
) -> None:
    """A command that is written for a model or a template runs as it was written."""
    assert only_model({"default_spawn": {"args": ["-ngl", "9"]}, **spawns}).spawn.args == args


def test_one_program_is_named_for_every_llama_server() -> None:
    """Wherever the command says ``llama-server``, and nowhere else."""
    document = {
        "router": {"llama_server": "/opt/$new/llama-server-cuda"},
        "templates": {"t": {"command": ["llama-server", "-m", "$path"]}},
        "models": {
            "default": PATH,
            "template": {**PATH, "template": "t"},
            "own": {"spawn": {"command": ["/usr/bin/llama-server"]}},
            "other": {"spawn": {"command": ["vllm"]}},
        },
    }
    models = parse_config(document).models
    programs = {str(m): command_line(s, port=1, host="h")[0] for m, s in models.items()}
    assert programs == {
        "default": "/opt/$new/llama-server-cuda",
        "template": "/opt/$new/llama-server-cuda",
        "own": "/usr/bin/llama-server",
        "other": "vllm",
    }


def test_another_named_program_restarts_the_models_that_it_serves() -> None:
    """The router itself goes on, and so do other backends."""
    models = {"a": PATH, "b": {"spawn": {"command": ["vllm"]}}}
    old = parse_config({"models": models})
    new = parse_config({"router": {"llama_server": "/opt/llama-server"}, "models": models})
    assert plan_reload(old, new).restart == {"a"}
    assert router_fields_to_restart_for(old.router, new.router) == ()


def test_a_models_args_follow_those_of_its_spawn() -> None:
    """`args` adds to a command line, `spawn.args` replaces what was inherited."""
    document: dict[str, Any] = {
        "default_spawn": {"args": ["inherited"]},
        "models": {"a": {**PATH, "args": ["own"]}},
    }
    assert only_model(document).spawn.args == ("inherited", "own")
    document["models"]["a"]["spawn"] = {"args": []}
    assert only_model(document).spawn.args == ("own",)


def test_max_queued_of_the_router_is_every_models_default() -> None:
    """A model's own value wins."""
    models = parse_config(
        {"router": {"max_queued": 7}, "models": {"a": PATH, "b": {**PATH, "max_queued": 9}}}
    ).models
    assert [spec.max_queued for spec in models.values()] == [7, 9]


def test_a_model_keeps_what_its_table_says() -> None:
    """The fields beside spawn arrive as they were written."""
    spec = only_model(
        {
            "models": {
                "a": {
                    "path": "/m",
                    "mmproj": "/p",
                    "state": "auto",
                    "group": "g",
                    "aliases": ["x", "y"],
                    "max_in_flight": 4,
                    "ttl_s": 60,
                    "keep_loaded": True,
                    "memory_mib": {"nvidia0": 8000, "host": 900},
                    "exclusive": True,
                    "devices": ["nvidia0"],
                    "needs": {"licence": 1},
                }
            },
            "devices": {"licence": {"kind": "pool", "amount": 2}},
        }
    )
    assert spec == ModelSpec(
        id=ModelId("a"),
        spawn=DEFAULT_SPAWN,
        path="/m",
        mmproj="/p",
        state=ModelState.AUTO,
        group="g",
        aliases=("x", "y"),
        max_in_flight=4,
        ttl_s=60,
        keep_loaded=True,
        memory_mib={"nvidia0": 8000, "host": 900},
        exclusive=True,
        devices=["nvidia0"],
        needs={"licence": 1},
    )


def test_the_scheduler_and_devices_keep_what_their_tables_say() -> None:
    """The fields of both arrive as they were written."""
    config = parse_config(
        {
            "scheduler": {
                "policy": "memory",
                "max_models": 3,
                "swap_patience": 0.5,
                "prefetch": False,
            },
            "devices": {
                "nvidia0": {"memory_mib": 20000, "reserve_mib": 1000},
                "host": {"ignore": True},
                "lab": {"kind": "simulated", "memory_mib": 24000},
            },
        }
    )
    assert config.scheduler == SchedulerSpec(
        policy=Policy.MEMORY, max_models=3, swap_patience=0.5, prefetch=False
    )
    assert config.devices == {
        "nvidia0": DeviceSpec(memory_mib=20000, reserve_mib=1000),
        "host": DeviceSpec(ignore=True),
        "lab": DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=24000),
    }


@pytest.mark.parametrize(
    ("document", "path", "part"),
    [
        ({"scheduler": {"max_models": 2}}, "scheduler.max_models", "policy = 'memory'"),
        ({"scheduler": {"policy": "lru"}}, "scheduler.policy", "one of"),
        ({"devices": {"a": {"kind": "pool"}}}, "devices.a", "amount"),
        ({"devices": {"a": {"amount": 1}}}, "devices.a.amount", "pool"),
        (
            {"devices": {"a": {"kind": "pool", "amount": 1, "memory_mib": 5}}},
            "devices.a.memory_mib",
            "no memory",
        ),
        ({"devices": {"a": {"kind": "simulated"}}}, "devices.a", "memory_mib"),
        ({"devices": {"a": {"memory_mib": 0}}}, "devices.a.memory_mib", "at least 1"),
        (
            {"devices": {"a": {"memory_mib": 5, "reserve_mib": 5}}},
            "devices.a.reserve_mib",
            "leaves nothing",
        ),
        ({"models": {"m": {**PATH, "needs": {"a": 1}}}}, "models.m.needs.a", "no device"),
        (
            {
                "devices": {"nvidia0": {"memory_mib": 8000, "reserve_mib": 500}},
                "models": {"m": {**PATH, "memory_mib": {"nvidia0": 7501}}},
            },
            "models.m.memory_mib.nvidia0",
            "together: 7500 MiB",
        ),
        (
            {
                "devices": {"a": {"kind": "pool", "amount": 1}},
                "models": {"m": {**PATH, "needs": {"a": 2}}},
            },
            "models.m.needs.a",
            "more than",
        ),
        ({"models": {"m": {**PATH, "memory_mib": 0}}}, "models.m.memory_mib", "at least 1"),
        ({"models": {"m": {**PATH, "memory_mib": True}}}, "models.m.memory_mib", "boolean"),
        ({"models": {"m": {**PATH, "memory_mib": {}}}}, "models.m.memory_mib", "name a device"),
        (
            {"models": {"m": {**PATH, "memory_mib": {"host": 0}}}},
            "models.m.memory_mib",
            "at least 1",
        ),
        ({"models": {"m": {**PATH, "devices": []}}}, "models.m.devices", "at least one"),
        ({"models": {"m": {**PATH, "devices": "gpu"}}}, "models.m.devices", "'auto'"),
    ],
)
def test_contradictory_settings_of_memory_are_refused(
    document: dict[str, Any], path: str, part: str
) -> None:
    """Each with its place in the file."""
    with pytest.raises(ConfigError) as caught:
        parse_config(document)
    (problem,) = caught.value.problems
    assert ".".join(map(str, problem.path)) == path
    assert part in problem.message


# --- The values ----------------------------------------------------------------------


def test_names_resolve_through_ids_and_aliases() -> None:
    """A name that nobody has resolves to nothing."""
    config = parse_config({"models": {"a": {**PATH, "aliases": ["x"]}, "b": PATH}})
    assert [config.resolve(name) for name in ("a", "x", "b", "c")] == ["a", "a", "b", None]


def test_an_explicit_group_never_meets_a_models_own() -> None:
    """A group that is called like a model, or like its key, is another group."""
    models = parse_config(
        {"models": {"a": PATH, "b": {**PATH, "group": "a"}, "c": {**PATH, "group": "model:a"}}}
    ).models
    assert len({spec.group_key for spec in models.values()}) == 3


def test_models_of_one_group_share_a_key() -> None:
    """Equal groups run side by side."""
    models = parse_config(
        {"models": {"a": {**PATH, "group": "g"}, "b": {**PATH, "group": "g"}}}
    ).models
    assert len({spec.group_key for spec in models.values()}) == 1


def test_a_configuration_cannot_be_changed() -> None:
    """Neither the models nor an environment can be written to."""
    config = parse_config({"models": {"a": {**PATH, "spawn": {"env": {"A": "1"}}}}})
    with pytest.raises(TypeError):
        config.models[ModelId("b")] = config.models[ModelId("a")]  # type: ignore[index] # the test
    with pytest.raises(TypeError):
        config.models[ModelId("a")].spawn.env["A"] = "2"  # type: ignore[index] # the test


# --- Refusals ------------------------------------------------------------------------


def test_all_problems_are_reported_at_once() -> None:
    """One round of editing is enough."""
    found = problems(
        {
            "router": {"port": "80", "prot": 1},
            "default_spawn": {"health_endpoint": "health"},
            "templates": {"t": {"args": ["ok", 1, "$nope"]}},
            "models": {"a": {"path": 1, "spawn": {"cwd": 2}}, "b": 3},
            "extra": {},
        }
    )
    assert list(found) == [
        "extra",
        "router.port",
        "router.prot",
        "default_spawn.health_endpoint",
        "templates.t.args[1]",
        "templates.t.args[2]",
        "models.a.path",
        "models.a.spawn.cwd",
        "models.b",
    ]


@pytest.mark.parametrize(
    ("document", "where", "hint"),
    [
        ({"routr": {}}, "routr", "'router'"),
        ({"router": {"prot": 1}}, "router.prot", "'port'"),
        ({"default_spawn": {"comand": []}}, "default_spawn.comand", "'command'"),
        ({"models": {"a": {**PATH, "alias": []}}}, "models.a.alias", "'aliases'"),
        ({"models": {"a": {**PATH, "template": "tt"}}, "templates": {"t": {}}}, None, "'t'"),
        ({"router": {"startup_model": "bb"}, "models": {"b": PATH}}, None, "'b'"),
    ],
    ids=str,
)
def test_the_nearest_known_name_is_suggested(
    document: dict[str, Any], where: str | None, hint: str
) -> None:
    """A typing error costs one look at the message."""
    location, message = problem(document)
    assert where in {location, None}
    assert message.endswith(f"did you mean {hint}?")


def test_a_key_like_no_other_gets_the_list_of_known_ones() -> None:
    """Where nothing is near, everything that is possible is named."""
    _, message = problem({"zzz": 1})
    assert message == (
        "unknown key 'zzz'; known here: api_keys, default_spawn, devices, models, router, "
        "scheduler, templates"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("port", "80", "expected an integer, got a string"),
        ("port", True, "expected an integer, got a boolean"),
        ("port", 80.0, "expected an integer, got a float"),
        ("autoload", "no", "expected a boolean (true or false), got a string"),
        ("notify_model_swap", 1, "expected a boolean (true or false), got an integer"),
        ("host", 1, "expected a string, got an integer"),
        (
            "drain_s",
            "1",
            (
                "expected a number of seconds, got a string; with a unit it may be one: "
                "'90s', '5m' or '1h30m'"
            ),
        ),
        ("drain_s", False, "expected a number of seconds, got a boolean"),
        ("log_level", [], "expected a string, got an array"),
        ("state_dir", {}, "expected a string, got a table"),
    ],
)
def test_no_value_is_coerced(key: str, value: object, message: str) -> None:
    """A value of another type is refused with both types."""
    assert problem({"router": {key: value}}) == (f"router.{key}", message)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", -1),
        ("port", 65536),
        ("base_port", 1023),
        ("llama_server", ""),
        ("llama_server", "/usr/bin/python3"),
        ("base_port", 65001),
        ("connection_timeout_s", 0),
        ("read_timeout_s", -0.1),
        ("max_queue_wait_s", float("nan")),
        ("drain_s", float("inf")),
        ("drain_s", -1),
        ("cooldown_s", 10**400),
        ("log_file_mib", 0),
        ("log_files", -1),
        ("log_keep_days", -1),
        ("log_total_mib", -1),
        ("max_body_mib", 0),
        ("max_bodies_mib", 0),
        ("max_queued", 0),
        ("max_restarts", -1),
        ("host", ""),
        ("host", "a\nb"),
        ("state_dir", ""),
        ("log_level", "loud"),
        ("log_format", "Json"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_values_out_of_range_are_refused(key: str, value: object) -> None:
    """The message names the key."""
    location, message = problem({"router": {key: value}})
    assert location == f"router.{key}"
    assert message.startswith("must")


@pytest.mark.parametrize(
    ("spawn", "where"),
    [
        ({"command": []}, "command"),
        ({"command": [""]}, "command"),
        ({"command": "llama-server"}, "command"),
        ({"command": ["x", 1]}, "command[1]"),
        ({"command": ["x", "$prot"]}, "command[1]"),
        ({"args": ["a\0b"]}, "args[0]"),
        ({"args": ["5$"]}, "args[0]"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": "$x"}}, "env.A"),
        ({"env": {"A=B": "1"}}, 'env."A=B"'),
        ({"env": {"": "1"}}, 'env.""'),
        ({"env": ["A=1"]}, "env"),
        ({"health_endpoint": "health"}, "health_endpoint"),
        ({"health_endpoint": "/a b"}, "health_endpoint"),
        ({"health_endpoint": "/a\r\nHost: x"}, "health_endpoint"),
        ({"proxy_endpoints": ["/v1/", "health"]}, "proxy_endpoints[1]"),
        ({"ready_timeout_s": 0}, "ready_timeout_s"),
        ({"stop_timeout_s": 0}, "stop_timeout_s"),
        ({"check_port_owner": "yes"}, "check_port_owner"),
        ({"keep_cache": 1}, "keep_cache"),
        ({"keep_cache_min_tokens": -1}, "keep_cache_min_tokens"),
        ({"keep_cache_max_s": 0}, "keep_cache_max_s"),
        ({"cwd": ""}, "cwd"),
    ],
    ids=str,
)
@pytest.mark.parametrize("section", ["default_spawn", "templates.t", "models.a.spawn"])
def test_bad_spawn_settings_are_reported_where_they_stand(
    spawn: dict[str, Any], where: str, section: str
) -> None:
    """Once, in the table that has them, and nothing follows from them elsewhere."""
    document: dict[str, Any] = {"models": {"a": {**PATH}}, "templates": {"t": {}}}
    match section.split("."):
        case ["default_spawn"]:
            document["default_spawn"] = spawn
        case ["templates", name]:
            document["templates"][name] = spawn
            document["models"]["a"]["template"] = name
        case _:
            document["models"]["a"]["spawn"] = spawn
    assert problem(document)[0] == f"{section}.{where}"


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ({"path": ""}, "path"),
        ({"path": "/a\0b"}, "path"),
        ({**PATH, "mmproj": 1}, "mmproj"),
        ({**PATH, "state": "on"}, "state"),
        ({**PATH, "group": ""}, "group"),
        ({**PATH, "aliases": "x"}, "aliases"),
        ({**PATH, "aliases": ["x", ""]}, "aliases[1]"),
        ({**PATH, "args": ["$nope"]}, "args[0]"),
        ({**PATH, "max_queued": 0}, "max_queued"),
        ({**PATH, "max_in_flight": 0}, "max_in_flight"),
        ({**PATH, "template": "t"}, "template"),
        ({"template": "t"}, "template"),
        ({**PATH, "spawn": []}, "spawn"),
        ({**PATH, "id": "b"}, "id"),
    ],
    ids=str,
)
def test_bad_model_fields_are_refused(model: dict[str, Any], where: str) -> None:
    """Each is the only problem of its document."""
    assert problem({"models": {"a": model}})[0] == f"models.a.{where}"


@pytest.mark.parametrize("section", ["models", "templates"])
@pytest.mark.parametrize("name", ["", "a\nb", "a\x7f", "\x85"])
def test_names_without_visible_text_are_refused(section: str, name: str) -> None:
    """A name is printed in logs and sent to clients."""
    _, message = problem({section: {name: PATH if section == "models" else {}}})
    assert message == "a name must not be empty or contain control characters"


@pytest.mark.parametrize("section", ["router", "default_spawn", "templates", "models"])
def test_a_section_must_be_a_table(section: str) -> None:
    """An array of tables is not one."""
    assert problem({section: [{}]}) == (section, "expected a table, got an array")


def test_a_command_that_needs_a_path_needs_a_path() -> None:
    """The default command does; the problem is the model's."""
    assert problem({"models": {"a": {}}}) == (
        "models.a",
        "the command uses '$path', but the model has no 'path'",
    )


@pytest.mark.parametrize(
    "model",
    [
        {"args": ["--mmproj=$mmproj", "$mmproj"]},
        {"spawn": {"env": {"PROJECTOR": "$mmproj"}}},
        {"spawn": {"command": ["x", "$mmproj"]}},
    ],
    ids=str,
)
def test_mmproj_is_looked_for_in_all_that_is_expanded(model: dict[str, Any]) -> None:
    """Command, args and environment count, and one problem says it."""
    location, message = problem({"models": {"a": {**PATH, **model}}})
    assert location == "models.a"
    assert "'$mmproj'" in message


def test_a_command_without_placeholders_needs_no_path() -> None:
    """Any program can be a backend."""
    assert only_model({"models": {"a": {"spawn": {"command": ["serve"]}}}}).path is None


@pytest.mark.parametrize(
    ("a", "b", "where"),
    [
        (["b"], [], "models.a.aliases[0]"),
        (["x"], ["x"], "models.b.aliases[0]"),
        (["x", "x"], [], "models.a.aliases[1]"),
        (["a"], [], "models.a.aliases[0]"),
    ],
)
def test_a_name_belongs_to_one_model(a: list[str], b: list[str], where: str) -> None:
    """An alias is neither an id nor given twice."""
    models = {"a": {**PATH, "aliases": a}, "b": {**PATH, "aliases": b}}
    location, message = problem({"models": models})
    assert location == where
    assert "is already a name of the model" in message


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"default_spawn": 1, "models": {"a": {}}}, "default_spawn"),
        ({"templates": {"t": 1}, "models": {"a": {"template": "t"}}}, "templates.t"),
        ({"models": {"a": {"template": 1}}}, "models.a.template"),
        ({"models": {"a": {"spawn": 1}}}, "models.a.spawn"),
        ({"models": {"a": {"spawn": {"command": 1}}}}, "models.a.spawn.command"),
    ],
    ids=str,
)
def test_nothing_follows_from_a_table_that_cannot_be_read(
    document: dict[str, Any], where: str
) -> None:
    """That a model lacks a path is not said before its command is known."""
    assert problem(document)[0] == where


def test_a_startup_model_that_is_itself_wrong_is_not_called_unknown() -> None:
    """One mistake is one problem."""
    document = {"router": {"startup_model": "a"}, "models": {"a": 3}}
    assert problem(document)[0] == "models.a"


def _documents() -> st.SearchStrategy[dict[str, Any]]:
    """Documents that often have known keys with values of any kind under them."""
    words = ["router", "default_spawn", "templates", "models", "spawn", "aliases", "path"]
    words += [field.name for spec in (RouterSpec, SpawnSpec) for field in attrs.fields(spec)]
    keys = st.sampled_from(words) | st.text(max_size=3)
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.just(10**400)  # no float can hold it
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from(["$path", "$", "/x", "a"])
        | st.datetimes()
        | st.binary(max_size=3)
    )
    values = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=20,
    )
    return st.dictionaries(keys, values, max_size=5)


@given(_documents())
def test_whatever_is_written_only_config_errors_come_out(document: dict[str, Any]) -> None:
    """A document is a configuration or has problems, each with its place."""
    try:
        config = parse_config(document)
    except ConfigError as error:
        places = [problem.path[0] for problem in error.problems]
    else:
        places = []
        assert config.models.keys() == document.get("models", {}).keys()
    assert set(places) <= document.keys()
