"""Settings of models that services serve: what is valid, what contradicts, what a change means."""

from typing import Any

import pytest

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.redaction import MASK, redacted_config
from llama_router.core.config.reload import ReloadPlan, local_plan, plan_reload
from llama_router.core.config.service import address_of
from llama_router.core.config.specs import DEFAULT_ENDPOINTS
from llama_router.errors.config import ConfigError


def config(**models: dict[str, Any]) -> Config:
    return parse_config({"models": models})


def fault(**table: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        config(a=table)
    (problem,) = caught.value.problems
    return problem.location, problem.message


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://host:8000", ("host", 8000, "", "host:8000")),
        ("http://host", ("host", 80, "", "host")),
        ("HTTP://host:80/", ("host", 80, "", "host")),
        ("http://host:8000/v1", ("host", 8000, "", "host:8000")),
        ("http://host:8000/a/v1/", ("host", 8000, "/a", "host:8000")),
        ("http://[::1]:8000/a", ("::1", 8000, "/a", "[::1]:8000")),
        ("unix:/run/x.sock", ("/run/x.sock", 0, "", "localhost")),
    ],
)
def test_a_url_and_its_parts(url: str, parts: tuple[str, int, str, str]) -> None:
    """What requests are sent to, and what they say as their host."""
    assert config(a={"url": url}).models
    found = address_of(url)
    assert (found.host, found.port, found.prefix, found.authority) == parts


@pytest.mark.parametrize(
    "url",
    [
        "host:8000",
        "ftp://host",
        "http://",
        "http://user:secret@host",
        "http://host/?a=1",
        "http://host/#a",
        "http://host:0",
        "http://host:65536",
        "http://ho st",
        "http://host/a b",
        "http://host\r\nx: y",
        "unix:relative",
        "unix:",
    ],
)
def test_no_url(url: str) -> None:
    """It is refused, at its place."""
    where, _ = fault(url=url)
    assert where == "models.a.url"


def test_https_says_what_to_do() -> None:
    """The router speaks no TLS to services."""
    _, message = fault(url="https://host")
    assert "TLS proxy" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "/m.gguf"),
        ("mmproj", "/m.gguf"),
        ("spawn", {"command": ["x"]}),
        ("args", ["-c"]),
        ("group", "g"),
        ("ttl_s", 5),
        ("keep_loaded", True),
        ("memory_mib", 5),
        ("exclusive", True),
        ("devices", ["gpu0"]),
        ("needs", {"x": 1}),
    ],
)
def test_settings_of_a_process_contradict_a_url(key: str, value: object) -> None:
    """Each is reported at its own place, because it would have no effect."""
    where, message = fault(url="http://h", **{key: value})
    assert where.startswith(f"models.a.{key}")
    assert "starts no process" in message


@pytest.mark.parametrize("key", ["key", "key_file", "health_endpoint", "proxy_endpoints", "models"])
def test_settings_of_a_service_need_a_url(key: str) -> None:
    """Beside a process they would have no effect."""
    value: object = ["/v1/"] if key in ("proxy_endpoints", "models") else "/x"
    where, message = fault(path="/m.gguf", **{key: value})
    assert (where, "'url'" in message) == (f"models.a.{key}", True)


def test_two_keys_contradict() -> None:
    """One of them would not be used."""
    where, _ = fault(url="http://h", key="secret", key_file="/k")
    assert where == "models.a.key_file"


@pytest.mark.parametrize("key", ["", "a b", "a\r\nb", "${env.}", "x${env.Y}", "ä"])
def test_no_key(key: str) -> None:
    """It would break the head of each request; it is not quoted."""
    where, message = fault(url="http://h", key=key)
    assert where == "models.a.key"
    assert not key or key not in message


def test_the_home_model_has_a_process() -> None:
    """There is nothing to return to."""
    with pytest.raises(ConfigError, match="home_model"):
        parse_config({"router": {"home_model": "a"}, "models": {"a": {"url": "http://h"}}})


def test_a_key_is_shown_nowhere() -> None:
    """Neither where values are shown, nor in the text of the objects."""
    found = config(a={"url": "http://h", "key": "sesame-42"})
    assert redacted_config(found)["models"]["a"]["key"] == MASK
    assert "sesame-42" not in repr(found)
    assert "sesame-42" not in repr(found.models[ModelId("a")].service)


def test_what_a_service_inherits() -> None:
    """The paths that are passed on, and what `[router]` says of queues; no time to live."""
    document = {"router": {"ttl_s": 5, "max_queued": 7}, "models": {"a": {"url": "http://h"}}}
    (spec,) = parse_config(document).models.values()
    assert spec.spawn.proxy_endpoints == DEFAULT_ENDPOINTS
    assert (spec.ttl_s, spec.max_queued) == (0, 7)
    (spec,) = config(a={"url": "http://h", "proxy_endpoints": ["/v1/"]}).models.values()
    assert spec.spawn.proxy_endpoints == ("/v1/",)


def test_the_service_gets_the_name_that_it_knows() -> None:
    """Not the alias of a client."""
    found = config(a={"url": "http://h", "aliases": ["x"]}).lookup("x")
    assert found is not None
    assert found.overrides is not None
    assert found.overrides.model == "a"


PROCESS = {"path": "/m.gguf"}
SERVICE = {"url": "http://h"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": PROCESS}, {"a": SERVICE}, ReloadPlan(remove=frozenset({ModelId("a")}))),
        ({"a": SERVICE}, {"a": PROCESS}, ReloadPlan(add=frozenset({ModelId("a")}))),
        ({"a": SERVICE}, {"a": {"url": "http://i"}}, ReloadPlan()),
        ({"a": SERVICE}, {}, ReloadPlan()),
        ({}, {"a": SERVICE, "b": PROCESS}, ReloadPlan(add=frozenset({ModelId("b")}))),
        ({"b": PROCESS}, {"a": SERVICE}, ReloadPlan(remove=frozenset({ModelId("b")}))),
        (
            {"a": SERVICE, "b": PROCESS},
            {"a": SERVICE, "b": {**PROCESS, "args": ["-c"]}},
            ReloadPlan(restart=frozenset({ModelId("b")})),
        ),
    ],
)
def test_the_part_of_a_reload_that_processes_see(
    before: dict[str, Any], after: dict[str, Any], expected: ReloadPlan
) -> None:
    """It is the plan between the two configurations without services."""
    old, new = config(**before), config(**after)
    found = local_plan(plan_reload(old, new), old, new)
    assert found == expected == plan_reload(old.local, new.local)
    assert found.base is old.local


def test_a_configuration_without_services_is_its_own_local_part() -> None:
    """Nothing is made twice for the usual case."""
    found = config(a=PROCESS)
    assert found.local is found


def test_several_models_of_one_service() -> None:
    """Each has the name of the table in front here, and its own name there."""
    found = config(box={"url": "http://h", "models": ["a", "b/c:d"], "max_in_flight": 2})
    assert {str(m): spec.upstream_model for m, spec in found.models.items()} == {
        "box/a": "a",
        "box/b/c:d": "b/c:d",
    }
    assert len({spec.service for spec in found.models.values()}) == 1
    assert found.resolve("box") is None


@pytest.mark.parametrize("key", ["upstream_model", "name", "description"])
def test_settings_of_one_model_are_not_for_several(key: str) -> None:
    """They would be the same for all of them."""
    where, message = fault(url="http://h", models=["x", "y"], **{key: "z"})
    assert (where, "one model" in message) == (f"models.a.{key}", True)


def test_a_model_of_a_service_with_the_name_of_another_one() -> None:
    """It is said where it is; so is an alias that one of them has as its name."""
    with pytest.raises(ConfigError, match=r"models.box.models\[0\]: there is a model 'box/a'"):
        config(box={"url": "http://h", "models": ["a"]}, **{"box/a": dict[str, Any](PROCESS)})
    with pytest.raises(ConfigError, match="already a name"):
        config(box={"url": "http://h", "models": ["a"]}, x={**PROCESS, "aliases": ["box/a"]})
