"""What a changed configuration costs each model."""

from typing import Any

import attrs
import pytest

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.reload import (
    ReloadPlan,
    plan_reload,
    router_fields_to_restart_for,
)
from llama_router.core.config.specs import ModelSpec, OnChange, RouterSpec, SpawnSpec


def config(router: dict[str, Any] | None = None, **models: dict[str, Any]) -> Config:
    tables = {name: {"path": "/m.gguf", "mmproj": "/p.gguf", **m} for name, m in models.items()}
    return parse_config({"router": router or {}, "models": tables})


@pytest.mark.parametrize("spec", [RouterSpec, SpawnSpec, ModelSpec])
def test_every_field_says_what_its_change_costs(spec: type[attrs.AttrsInstance]) -> None:
    """No field is forgotten; only `spawn` leaves the answer to its own fields."""
    inside = {
        field.name for field in attrs.fields(spec) if field.metadata["on_change"] is OnChange.INSIDE
    }
    assert inside == ({"spawn"} if spec is ModelSpec else set())


def test_an_equal_configuration_changes_nothing() -> None:
    """A file that was only touched or reordered leaves every backend alone."""
    plan = plan_reload(config(a={}, b={}), config(b={}, a={}))
    assert plan == ReloadPlan()
    assert not plan


def test_new_and_missing_models_are_told_apart() -> None:
    """A renamed model is one that goes and one that comes."""
    plan = plan_reload(config(a={}, b={}), config(b={}, c={}))
    assert plan == ReloadPlan(add=frozenset({ModelId("c")}), remove=frozenset({ModelId("a")}))
    assert plan


@pytest.mark.parametrize(
    "change",
    [
        {"path": "/other.gguf"},
        {"mmproj": "/other.gguf"},
        {"args": ["--verbose"]},
        {"spawn": {"command": ["other"]}},
        {"spawn": {"args": ["-x"]}},
        {"spawn": {"env": {"A": ""}}},
        {"spawn": {"cwd": "/"}},
        {"spawn": {"health_endpoint": "/ready"}},
        {"spawn": {"check_port_owner": False}},
        {"spawn": {"keep_cache": True}},
        {"group": "g", "path": "/other.gguf"},
    ],
    ids=str,
)
def test_what_the_process_was_started_with_restarts_it(change: dict[str, Any]) -> None:
    """Only the changed model restarts."""
    plan = plan_reload(config(a={}, b={}), config(a=change, b={}))
    assert plan == ReloadPlan(restart=frozenset({ModelId("a")}))


@pytest.mark.parametrize(
    "change",
    [
        {"group": "g"},
        {"state": "auto"},
        {"aliases": ["x"]},
        {"autoload": False},
        {"unlisted": True},
        {"max_queued": 3},
        {"max_in_flight": 1},
        {"spawn": {"ready_timeout_s": 5}},
        {"spawn": {"keep_cache_min_tokens": 5, "keep_cache_max_s": 1}},
        {"spawn": {"stop_timeout_s": 5}},
        {"spawn": {"proxy_endpoints": []}},
    ],
    ids=str,
)
def test_what_only_the_router_looks_at_keeps_the_process(change: dict[str, Any]) -> None:
    """The same process goes on with a new spec."""
    plan = plan_reload(config(a={}, b={}), config(a=change, b={}))
    assert plan == ReloadPlan(retune=frozenset({ModelId("a")}))


def test_a_setting_that_models_inherit_changes_those_models() -> None:
    """A router-wide default retunes the models that do not override it."""
    old = config({"max_queued": 5}, a={}, b={"max_queued": 5})
    new = config({"max_queued": 6}, a={}, b={"max_queued": 5})
    assert plan_reload(old, new) == ReloadPlan(retune=frozenset({ModelId("a")}))


def test_a_changed_template_with_the_same_effect_does_not_restart() -> None:
    """What counts is the resolved command, not the name of the template."""
    templates = {"one": {"args": ["-x"]}, "two": {"args": ["-x"]}}
    old, new = (
        parse_config({"templates": templates, "models": {"a": {"path": "/m", "template": name}}})
        for name in templates
    )
    assert plan_reload(old, new) == ReloadPlan(retune=frozenset({ModelId("a")}))


def test_router_fields_that_need_a_restart_are_named() -> None:
    """A new range of ports cannot be taken up while running; a new drain time can."""
    old, new = config({"base_port": 5001, "drain_s": 1}), config({"base_port": 5002, "drain_s": 2})
    assert router_fields_to_restart_for(old.router, new.router) == ("base_port",)
    assert router_fields_to_restart_for(new.router, new.router) == ()
