"""What becomes of a request's parameters, and which requests get it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.config import Config
from llama_router.core.config.overrides import RequestOverrides
from llama_router.core.config.parse import parse_config
from llama_router.core.config.reload import plan_reload
from llama_router.core.requests.body_overrides import can_be_changed, with_overrides
from llama_router.core.requests.json_scan import WINDOW_BYTES, FieldScanner
from llama_router.errors.config import ConfigError
from llama_router.errors.requests import RequestError

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def config(router: dict | None = None, **models: dict) -> Config:
    tables = {name: {"path": "/m", **table} for name, table in models.items()}
    return parse_config({"router": router or {}, "models": tables})


def changed(overrides: RequestOverrides, body: bytes) -> bytes:
    """Return *body*, which a strict decoder reads, with *overrides*."""
    out = with_overrides(overrides, body)
    assert out is not None
    return out


def sent(shape: RequestOverrides | None, **fields: object) -> dict:
    assert shape is not None
    return json.loads(changed(shape, json.dumps(fields).encode()))


def shape_of(conf: Config, name: str) -> RequestOverrides | None:
    meaning = conf.lookup(name)
    assert meaning is not None
    return meaning.overrides


def test_drop_default_set_and_rename() -> None:
    """Each setting does its own thing, and the rest stays."""
    shape = RequestOverrides(
        drop=frozenset({"user"}),
        defaults={"max_tokens": 9, "top_k": 1},
        sets={"temperature": 0.5},
        model="org/m",
    )
    asked = {"model": "m", "user": "x", "temperature": 2, "top_k": 40, "messages": [1]}
    assert sent(shape, **asked) == {
        "model": "org/m",
        "max_tokens": 9,
        "temperature": 0.5,
        "top_k": 40,
        "messages": [1],
    }


def test_a_dropped_parameter_gets_its_default() -> None:
    """So that a fixed value can also be had by dropping what the client sent."""
    shape = RequestOverrides(drop=frozenset({"n"}), defaults={"n": 1})
    assert sent(shape, n=5) == {"n": 1}


def test_what_is_not_changed_keeps_its_spelling() -> None:
    """Numbers are not read and written again, so none loses a digit."""
    body = b'{"seed": 12345678901234567890123, "x": 1.10, "y": [1e400], "z": "\\u00e9"}'
    out = changed(RequestOverrides(sets={"a": 1}), body)
    assert b"12345678901234567890123" in out
    assert b"1.10" in out
    assert b"1e400" in out
    assert b'"\\u00e9"' in out


@given(st.dictionaries(st.text(), _JSON, max_size=5), st.text())
def test_any_object_survives(fields: dict, key: str) -> None:
    """Whatever else is in it; only the one key changes."""
    out = json.loads(changed(RequestOverrides(sets={key: True}), json.dumps(fields).encode()))
    assert out == {**fields, key: True}


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"a": \xff}', b"", b'{"x": ' + b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body) -> None:
    """With the client's error, not a crash."""
    with pytest.raises(RequestError):
        with_overrides(RequestOverrides(model="x"), body)


def test_a_model_without_shaping_has_none() -> None:
    """So its requests go up as they came."""
    conf = config(a={"aliases": ["x"]}, b={"set_params": {"n": 1}})
    assert shape_of(conf, "a") is shape_of(conf, "x") is None
    assert shape_of(conf, "b") is not None


def test_presets_are_names_of_the_model() -> None:
    """Under its id and each alias; what they set counts before set_params."""
    table = {"set_params": {"n": 1, "m": 1}, "presets": {"high": {"n": 2}}, "aliases": ["x"]}
    conf = config(a=table)
    assert conf.resolve("a:high") == conf.resolve("x:high") == "a"
    assert conf.resolve("a:low") is None
    assert sent(shape_of(conf, "x:high")) == {"n": 2, "m": 1}
    assert sent(shape_of(conf, "a")) == {"n": 1, "m": 1}


def test_a_preset_must_not_take_a_name() -> None:
    """A model that is called like it would never be reached, or the preset."""
    with pytest.raises(ConfigError, match="'a:high' is already a name of the model 'a:high'"):
        config(**{"a": {"presets": {"high": {}}}, "a:high": {}})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"set_params": {"model": "x"}}, "set_params.model: cannot be set"),
        ({"default_params": {"stream": True}}, "default_params.stream: cannot be set"),
        ({"presets": {"p": {"model": "x"}}}, "presets.p.model: cannot be set"),
        ({"drop_params": ["stream"]}, "drop_params\\[0\\]: cannot be left out"),
        ({"set_params": {"x": float("inf")}}, "set_params.x: must be what JSON knows"),
        ({"set_params": {"x": {"y": [float("nan")]}}}, "set_params.x: must be what JSON knows"),
        ({"set_params": [1]}, "set_params: expected a table"),
        ({"presets": {"p": 1}}, "presets.p: expected a table"),
        ({"presets": {"": {}}}, "a name must not be empty"),
    ],
)
def test_mistakes_are_reported(table, message) -> None:
    """With the path to each."""
    with pytest.raises(ConfigError, match=message):
        config(a=table)


def test_the_default_model_stands_in_for_unknown_names_only_if_it_may() -> None:
    """A known name is never replaced."""
    default = {"default_model": "a:fast"}
    models: dict[str, Any] = {"a": {"presets": {"fast": {}}}, "b": {}}
    assert config(default, **models).resolve_request("gpt") is None
    conf = config({**default, "default_for_unknown": True}, **models)
    assert conf.resolve_request("gpt") is conf.lookup("a:fast") is not None
    assert conf.resolve_request("b") is conf.lookup("b") is not None
    assert conf.lookup("gpt") is None


def test_the_default_model_must_be_there() -> None:
    """As a name that is known, and at all if it shall answer."""
    with pytest.raises(ConfigError, match="no model has the name 'x'"):
        config({"default_model": "x"}, a={})
    with pytest.raises(ConfigError, match="needs a 'default_model'"):
        config({"default_for_unknown": True}, a={})


def test_changed_shaping_restarts_nothing() -> None:
    """The next request sees it."""
    plan = plan_reload(config(a={}), config(a={"set_params": {"n": 1}, "presets": {"p": {}}}))
    assert (plan.restart, plan.retune) == (frozenset(), {"a"})


# -- bodies that need not be JSON -----------------------------------------------------------

JSON, TEXT = b"application/json", b"text/plain"
FORM = b"multipart/form-data; boundary=x"


def typed(kind: bytes) -> list[tuple[bytes, bytes]]:
    """Return the header fields of a body of that media type."""
    return [(b"content-type", kind)]


@pytest.mark.parametrize("kind", [JSON, TEXT, b"", b"audio/wav", b"text/plain; charset=UTF-8"])
@pytest.mark.parametrize("blanks", [b"", b" \r\n\t", b" " * 100, b"\xef\xbb\xbf"])
def test_a_json_object_is_changed_whatever_its_media_type(kind: bytes, blanks: bytes) -> None:
    """Backends do not look at the type."""
    assert can_be_changed(blanks + b'{"n": 1}', typed(kind), None)


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"--x\r\n{", FORM), (b"[{}]", JSON), (b"RIFF{", b"audio/wav"), (b"n=1", b""), (b" ", TEXT)],
)
def test_other_bodies_are_left_as_they_are(body: bytes, kind: bytes) -> None:
    """Forms, arrays and files have no parameters that are overridden."""
    assert not can_be_changed(body, [*typed(kind), (b"content-encoding", b"identity")], None)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"\x1f\x8b", [(b"content-encoding", b"gzip")]),
        (b"{}", [(b"content-encoding", b"identity"), (b"content-encoding", b"Br")]),
        (b"+AHs-", typed(b"application/json; charset=utf-7")),
        (b"{}", typed(b'text/plain; charset="UTF-7"')),
        (b"{}", [*typed(JSON), *typed(b"application/json;charset=utf-8;charset=utf-7")]),
        (b"{}", typed(FORM)),
        (b"{}", [*typed(JSON), *typed(FORM)]),
        (b" " * (WINDOW_BYTES + 9) + b"{}", typed(TEXT)),
    ],
)
def test_an_object_that_only_the_backend_can_read_is_refused(
    body: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    """Its parameters would pass unseen."""
    with pytest.raises(RequestError):
        can_be_changed(body, fields, None)


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-16-le", "utf-32", "utf-32-be"])
def test_other_forms_of_unicode_are_refused(codec: str) -> None:
    """Python's decoder of JSON reads them; the router's does not."""
    body = json.dumps({"n": 5}).encode(codec)
    assert json.loads(body) == {"n": 5}
    assert can_be_changed(body, typed(TEXT), None)
    with pytest.raises(RequestError, match="not valid JSON"):
        with_overrides(RequestOverrides(sets={"n": 1}), body)


@pytest.mark.parametrize("body", [b'{"n": 1', b"{" + b'"n":1,' * 2000 + b'"n":1}'])
def test_a_large_object_must_be_one_that_can_be_changed_in_place(body: bytes) -> None:
    """Whatever its media type says."""
    scanner = FieldScanner(bytearray(body), {"n"})
    while not scanner.step():
        pass
    with pytest.raises(RequestError):
        can_be_changed(body, typed(TEXT), scanner)
