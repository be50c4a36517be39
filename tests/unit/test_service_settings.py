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


@pytest.mark.parametrize("key", ["key", "key_file", "health_endpoint", "proxy_endpoints"])
def test_settings_of_a_service_need_a_url(key: str) -> None:
    """Beside a process they would have no effect."""
    value: object = ["/v1/"] if key == "proxy_endpoints" else "/x"
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
