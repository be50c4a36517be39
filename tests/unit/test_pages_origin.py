"""``pages_origin``: pages of backends have an origin without the rights of the dashboard."""

from __future__ import annotations

import pytest

from llama_router.core.access.gate import Gate, Scope
from llama_router.core.access.sessions import Sessions
from llama_router.core.config.parse import parse_config
from llama_router.errors.access import AdminTokenError, OriginNotAllowedError
from llama_router.errors.config import ConfigError

TOKEN = "admin-token-0123456789"
MAIN, PAGES = b"127.0.0.1:8082", b"127.0.0.1:8083"
SANDBOX = (b"content-security-policy", b"sandbox")

Fields = list[tuple[bytes, bytes]]


def gate_with(pages_origin: str | None = "http://127.0.0.1:8083") -> Gate:
    router = {"host": ["127.0.0.1", "127.0.0.1:8083"], "admin_token": TOKEN}
    if pages_origin is not None:
        router["pages_origin"] = pages_origin
    sessions = Sessions(lambda: 0.0)
    return Gate(parse_config({"router": router}), own_hosts=(), admin_token="", sessions=sessions)


def asked(host: bytes, *more: tuple[bytes, bytes]) -> Fields:
    return [(b"host", host), (b"sec-fetch-site", b"same-origin"), *more]


def test_a_session_does_not_count_there() -> None:
    """Neither under the name of the cookie of that port, nor under that of the dashboard's."""
    gate = gate_with()
    gate.sign_in(TOKEN, b"text", uid=None)
    cookies = b"llama-router-8082=text; llama-router-8083=text"
    here, there = asked(MAIN, (b"cookie", cookies)), asked(PAGES, (b"cookie", cookies))
    gate.check(Scope.ADMIN, b"GET", here)
    assert gate.session(here) is not None
    assert gate.session(there) is None
    with pytest.raises(AdminTokenError):
        gate.check(Scope.ADMIN, b"GET", there)


def test_it_opens_for_nobody_there() -> None:
    """A page of a backend cannot begin a session as the user of the router."""
    gate = gate_with()
    assert gate.is_local_page(asked(MAIN))
    assert not gate.is_local_page(asked(PAGES))


def test_its_pages_are_of_another_origin_for_the_dashboard() -> None:
    """So what they ask of the other port is refused like what any page asks."""
    gate = gate_with()
    fields = [(b"host", MAIN), (b"origin", b"http://127.0.0.1:8083")]
    with pytest.raises(OriginNotAllowedError):
        gate.check(Scope.MODELS, b"POST", fields)


@pytest.mark.parametrize(
    ("host", "more", "method", "place"),
    [
        (MAIN, [(b"sec-fetch-mode", b"navigate")], b"GET", b"http://127.0.0.1:8083"),
        (MAIN, [(b"upgrade-insecure-requests", b"1")], b"GET", b"http://127.0.0.1:8083"),
        (MAIN, [(b"sec-fetch-mode", b"cors")], b"GET", None),
        (MAIN, [(b"sec-fetch-mode", b"navigate")], b"POST", None),
        (MAIN, [], b"GET", None),
        (PAGES, [(b"sec-fetch-mode", b"navigate")], b"GET", None),
    ],
)
def test_a_browser_opens_pages_there(
    host: bytes, more: Fields, method: bytes, place: bytes | None
) -> None:
    """Only what becomes a page is led to it."""
    assert gate_with().place_of_page(method, asked(host, *more)) == place
    assert gate_with(None).place_of_page(method, asked(host, *more)) is None


def test_elsewhere_nothing_of_a_backend_becomes_a_page() -> None:
    """Whatever asked for it, and in whatever way."""
    gate = gate_with()
    assert gate.backend_fields(asked(MAIN)) == (SANDBOX,)
    assert gate.backend_fields([]) == (SANDBOX,)
    assert gate.backend_fields(asked(PAGES)) == ()
    assert gate_with(None).backend_fields(asked(MAIN)) == ()


def test_its_host_is_a_name_of_the_router() -> None:
    """Without being listed in ``allowed_hosts``."""
    fields = [(b"host", b"pages.llm.example.org")]
    gate_with("https://pages.llm.example.org").check(Scope.MODELS, b"POST", fields)


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8082", "http://LOCALHOST:8082"])
def test_the_dashboard_keeps_its_own(origin: str) -> None:
    """It could not be reached any more."""
    with pytest.raises(ConfigError, match="where the dashboard is"):
        gate_with(origin)
