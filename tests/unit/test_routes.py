"""What a method and a path ask for."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.requests.routes import (
    ByBody,
    ByPath,
    ByQuery,
    Control,
    ModelPath,
    Observe,
    Route,
    RouterHealth,
    _cached_route,
    _route,
    allowed,
    decoded,
    may_load,
    route,
    split_model,
)


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        (b"POST", b"/v1/chat/completions", b"", ByBody()),
        (b"POST", b"/completion", b"", ByBody()),
        (b"POST", b"/anything", b"model=a", ByBody(model="a")),
        (b"GET", b"/v1/models", b"", Control()),
        (b"GET", b"/models", b"model=a", Control()),
        (b"POST", b"/v1/models", b"", Control()),
        (b"GET", b"/", b"", Control()),
        (b"GET", b"/v1/stream", b"conv_id=c&model=a", Control()),
        (b"POST", b"/v1/streams/lookup", b"", Control()),
        (b"GET", b"/_app/version.json", b"", Control()),
        (b"POST", b"/admin/reload", b"", Control()),
        (b"POST", b"//admin/reload", b"", Control()),
        (b"POST", b"/%61dmin/reload", b"", Control()),
        (b"GET", b"/nowhere", b"", Control()),
        (b"OPTIONS", b"/v1/chat/completions", b"", Control()),
        (b"GET", b"/health", b"", Observe(None, "/health")),
        (b"HEAD", b"/slots", b"", Observe(None, "/slots")),
        (b"GET", b"/livez", b"", RouterHealth(readiness=False)),
        (b"HEAD", b"/readyz", b"verbose", RouterHealth(readiness=True)),
        (b"POST", b"/livez", b"", Control()),
        (b"GET", b"/livez/", b"", Control()),
        (b"GET", b"/props", b"model=a%2Fb:Q4", ByQuery("a/b:Q4")),
        (b"GET", b"/props", b"", Observe(None, "/props")),
        (b"GET", b"/props", b"autoload=false", Control()),
        (b"GET", b"/props", b"model=a&autoload=false", Observe("a", "/props")),
        (b"GET", b"/props", b"model=a&autoload=true", ByQuery("a", autoload=True)),
        (b"GET", b"/props", b"model=a&autoload=1", ByQuery("a", autoload=True)),
        (b"GET", b"/props", b"model=a&autoload=", ByQuery("a")),
        (b"GET", b"/slots", b"autoload=0&model=a", Observe("a", "/slots")),
        (
            b"GET",
            b"/v1/x%0d%0ay%20z%C3%A4",
            b"model=a&autoload=0",
            Observe("a", "/v1/x%0d%0ay%20z%C3%A4"),
        ),
        (b"POST", b"/completion", b"autoload=false", ByBody(autoload=False)),
        (b"POST", b"/completion", b"autoload=true", ByBody(autoload=True)),
        (b"POST", b"/models/load", b"", Control()),
        (b"POST", b"/tools", b"", Control()),
        (b"POST", b"/tools", b"model=a", ByBody(model="a")),
        (b"DELETE", b"/models", b"model=a", Control()),
        (b"GET", b"/models/sse", b"", Control()),
        (b"GET", b"/owner/repo:Q4_K_M/health", b"", Observe("owner/repo:Q4_K_M", "/health")),
        (b"GET", b"/a%2Fb%3Ac/props", b"", Observe("a/b:c", "/props")),
        (b"GET", b"/v1/audio/voices", b"model=tts", ByQuery("tts")),
        (b"DELETE", b"/v1/responses/1", b"model=a", ByQuery("a")),
        (b"DELETE", b"/v1/responses/1", b"", Control()),
        (b"GET", b"/v1/chat/completions", b"", Control()),
        (b"PUT", b"/v1/messages", b"", Control()),
        (b"PUT", b"/v1/messages", b"model=a", ByBody(model="a")),
        (b"POST", b"/health", b"", Control()),
        (b"POST", b"/props", b"", ByBody()),
        (b"POST", b"/slots/0", b"action=save&model=a", ByBody(model="a")),
        (b"GET", b"/lora-adapters", b"", Observe(None, "/lora-adapters")),
        (b"POST", b"/lora-adapters", b"model=a", ByBody(model="a")),
        (b"GET", b"/v1/health", b"", Observe(None, "/v1/health")),
        (b"GET", b"/upstream/a/metrics", b"", ByPath(b"a/metrics")),
        (b"GET", b"/upstream/a/x", b"y=1&autoload=false", ByPath(b"a/x", autoload=False)),
        (b"GET", b"/upstream/a/x", b"%61utoload=0", ByPath(b"a/x", autoload=False)),
        (b"GET", b"/metrics", b"", Control()),
        (b"GET", b"/metrics", b"model=a", ByQuery("a")),
        (b"GET", b"/cors-proxy", b"url=x", ByBody()),
        (b"HEAD", b"/cors-proxy", b"url=x&autoload=0", ByBody(autoload=False)),
        (b"POST", b"/slots/1", b"action=erase", ByBody()),
        (b"GET", b"/a/b/metrics", b"", Observe("a/b", "/metrics")),
        (b"POST", b"/metrics", b"", Control()),
        (b"PROPFIND", b"/upstream/a%2Fb/x%20y", b"model=c", ByPath(b"a%2Fb/x%20y")),
        (b"OPTIONS", b"/upstream/a/", b"", Control(ByPath(b"a/"))),
        (b"GET", b"/upstream/", b"", Control()),
        (b"GET", b"/upstream", b"", Control()),
    ],
)
def test_route(method: bytes, path: bytes, query: bytes, expected) -> None:
    """Each kind of request finds who answers it."""
    assert route(method, path, query) == expected


@given(st.binary(), st.binary(), st.binary())
def test_any_bytes_have_a_route(method: bytes, path: bytes, query: bytes) -> None:
    """Nothing that a client sends makes the lookup fail."""
    assert isinstance(route(method, path, query), Route)


@given(
    st.sampled_from([b"GET", b"HEAD", b"DELETE", b"POST"]),
    st.text("/%0dDaA2x", max_size=20),
    st.sampled_from([b"model=a", b"model=a&autoload=false", b""]),
)
def test_no_path_for_a_backend_can_end_the_request_line(
    method: bytes, tail: str, query: bytes
) -> None:
    """Of what the client sent, nothing is decoded."""
    found = route(method, b"/" + tail.encode() + b"/health", query)
    if isinstance(found, Observe):
        assert re.fullmatch(r"[!-~]+", found.path)


def test_no_method_fills_the_memory() -> None:
    """Long ones are not remembered."""
    before = _cached_route.cache_info().currsize
    assert route(b"X" * 300, b"/x", b"") == Control()
    assert _cached_route.cache_info().currsize == before


@given(
    st.sampled_from([b"GET", b"POST"]),
    st.sampled_from([b"/v1/messages", b"/props", b"/a/health", b"/upstream/a/x"]),
    st.lists(st.sampled_from(["model", "m%6fdel", "autoload", "beta", "=", "&", "a", "false"])),
)
def test_what_is_remembered_is_what_was_decided(method, path, words) -> None:
    """A query that is not looked at has nothing in it that matters."""
    query = "".join(words).encode()
    assert route(method, path, query) == _route(method, path, query)


@given(
    st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE"]), st.text("/%2fFaAdDmMiInN61", max_size=20)
)
def test_admin_is_never_proxied(method: bytes, tail: str) -> None:
    """However often slashes are repeated, /admin/ belongs to the control plane."""
    assert route(method, b"//admin/" + tail.encode(), b"model=a") == Control()


@pytest.mark.parametrize(
    ("requested", "configured", "may_change", "expected"),
    [
        (None, True, False, True),
        (None, False, True, False),
        (False, True, True, False),
        (True, False, True, True),
        (True, False, False, False),
        (True, True, False, True),
    ],
)
def test_what_may_load(requested, configured, may_change, expected) -> None:
    """The request decides, but only clients that may load models can say yes to it."""
    found = may_load(requested=requested, configured=configured, may_change=may_change)
    assert found is expected


def test_allowed_is_a_plain_prefix_match() -> None:
    """An empty list allows everything."""
    assert allowed(b"/v1/chat/completions", ("/v1/", "/health"))
    assert not allowed(b"/completion", ("/v1/", "/health"))
    assert allowed(b"/completion", ())


def test_dots_do_not_lead_out_of_the_list() -> None:
    """A backend that resolves ".." would serve what the list keeps out."""
    assert not allowed(b"/v1/../slots", ("/v1/",))
    assert allowed(b"/v1/a..b", ("/v1/",))


@pytest.mark.parametrize(
    ("tail", "model", "path"),
    [
        (b"a/v1/x", "a", b"/v1/x"),
        (b"a", "a", b""),
        (b"a/", "a", b"/"),
        (b"owner/repo:Q4/props", "owner/repo:Q4", b"/props"),
        (b"owner%2Frepo%3AQ4/a%2Fb", "owner/repo:Q4", b"/a%2Fb"),
        (b"owner/x/y", "owner", b"/x/y"),
        (b"nobody/x", "nobody", b"/x"),
        (b"no%20body", "no body", b""),
        (b"/x", "", b"/x"),
    ],
)
def test_the_model_in_a_path(tail: bytes, model: str, path: bytes) -> None:
    """The longest name that is known counts; the rest of the path stays as it was."""
    known = dict.fromkeys(["a", "owner", "owner/repo:Q4"], 1)
    assert split_model(tail, known.get) == ModelPath(model, path)


@given(st.binary(max_size=60) | st.text("ab/%2F", max_size=60).map(str.encode))
def test_nothing_of_a_path_is_lost(tail: bytes) -> None:
    """Name and rest are the whole, and the rest begins at a slash or is empty."""
    found = split_model(tail, {"a": 1, "a/b": 2, "b//a": 3}.get)
    assert tail.endswith(found.path)
    assert found.path[:1] in (b"", b"/")
    assert decoded(tail.removesuffix(found.path)) == found.model


def test_looking_for_a_name_is_bounded() -> None:
    """However long a path is, few beginnings of it are looked up."""
    asked: list[str] = []

    split_model(b"a/" * 30_000, asked.append)
    split_model(b"a" * 60_000, asked.append)
    assert len(asked) <= 40
    assert max(map(len, asked)) <= 5000
