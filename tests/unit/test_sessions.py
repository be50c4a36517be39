"""Sessions of browsers: who has one, for how long, and what it admits."""

from __future__ import annotations

import pytest

from llama_router.core.access.gate import Gate, Scope
from llama_router.core.access.sessions import (
    IDLE_S,
    MAX_SESSIONS,
    Sessions,
    cookie_name,
    cookie_texts,
    is_direct,
    is_from_own_page,
    without_session,
)
from llama_router.core.config.exposure import is_loopback
from llama_router.core.config.parse import parse_config
from llama_router.errors.access import AccessError, AdminTokenError, ApiKeyError

TOKEN = "generated-token-0123456789"
ALICE = "sk-alice-0123456789"
KEYS = {"alice": {"key": ALICE, "models": ["small-*"]}}
HOST = "127.0.0.1:8082"


class Clock:
    """A clock that a test sets."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Time stands still until a test says otherwise."""
    return Clock()


@pytest.fixture
def sessions(clock) -> Sessions:
    """No session yet."""
    return Sessions(clock)


def config(*, keys: bool = True, **router):
    return parse_config(
        {"router": router, "api_keys": KEYS if keys else {}, "models": {"small-a": {"path": "m"}}}
    )


@pytest.fixture
def gate(sessions) -> Gate:
    """A router with an API key."""
    return Gate(config(), own_hosts=[], admin_token=TOKEN, sessions=sessions)


@pytest.fixture
def open_gate(sessions) -> Gate:
    """A router without API keys on 127.0.0.1."""
    return Gate(config(keys=False), own_hosts=[], admin_token=TOKEN, sessions=sessions)


def page(text: str = "text", **changed: str | None) -> list[tuple[bytes, bytes]]:
    """Return the fields of a request from a page of the router, with a cookie."""
    fields: dict[str, str | None] = {
        "host": HOST,
        "sec_fetch_site": "same-origin",
        "cookie": f"other=1; llama-router-8082={text}",
        **changed,
    }
    return [
        (name.replace("_", "-").encode(), value.encode())
        for name, value in fields.items()
        if value is not None
    ]


# -- what a session admits ------------------------------------------------------------------


def test_the_admin_token_admits_to_everything(gate) -> None:
    """To models as well, although it is no API key itself."""
    rights = gate.sign_in(TOKEN, b"text", uid=None)
    assert (rights.scope, rights.caller.models) == (Scope.ADMIN, None)
    assert gate.check(Scope.ADMIN, b"POST", page()).models is None
    assert gate.check(Scope.MODELS, b"POST", page()).models is None


def test_an_api_key_admits_to_its_models_only(gate) -> None:
    """The admin API says which secret it needs."""
    rights = gate.sign_in(ALICE, b"text", uid=None)
    assert (rights.scope, rights.caller.name) == (Scope.MODELS, "alice")
    assert gate.check(Scope.MODELS, b"POST", page()).models == ("small-*",)
    with pytest.raises(AdminTokenError):
        gate.check(Scope.ADMIN, b"GET", page())


@pytest.mark.parametrize("secret", ["", "x", ALICE + "x", TOKEN[:-1], "\udcff", "ä" * 100])
def test_anything_else_begins_no_session(gate, secret) -> None:
    """The error does not say what was nearly right."""
    with pytest.raises(AdminTokenError, match="neither"):
        gate.sign_in(secret, b"text", uid=None)
    with pytest.raises(AccessError):
        gate.check(Scope.MODELS, b"GET", page())


def test_what_a_backend_serves_does_not_change_models_by_a_cookie(sessions) -> None:
    """Such a page has the router's origin, and asks for `Scope.CHANGES`."""
    gate = Gate(config(models_api="admin"), own_hosts=[], admin_token=TOKEN, sessions=sessions)
    gate.sign_in(TOKEN, b"text", uid=None)
    with pytest.raises(AdminTokenError):
        gate.check(Scope.CHANGES, b"POST", page())
    assert not gate.may_change(b"POST", page())


def test_a_wrong_secret_is_not_helped_by_a_cookie(gate) -> None:
    """A program that gives a secret hears whether that is right."""
    gate.sign_in(TOKEN, b"text", uid=None)
    with pytest.raises(AdminTokenError):
        gate.check(Scope.ADMIN, b"GET", page(x_admin_token="wrong"))
    with pytest.raises(ApiKeyError):
        gate.check(Scope.MODELS, b"GET", page(authorization="Bearer wrong"))


# -- which pages ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": None},
        {"sec_fetch_site": None, "origin": "http://127.0.0.1:9000"},
        {"sec_fetch_site": None, "origin": "null"},
        {"sec_fetch_site": None, "referer": "http://127.0.0.1:9000/x"},
        {"sec_fetch_site": None, "referer": f"http://evil.example/http://{HOST}/"},
        {"sec_fetch_site": None, "referer": f"http://{HOST}@evil.example/"},
        {"origin": "http://localhost:3000"},
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_other_pages_are_not_helped_by_a_cookie(sessions, changed, method) -> None:
    """Not even pages that may use the router, nor an address that a person typed."""
    listed = config(cors_origins=["localhost"])
    gate = Gate(listed, own_hosts=[], admin_token=TOKEN, sessions=sessions)
    gate.sign_in(TOKEN, b"text", uid=None)
    with pytest.raises(AccessError):
        gate.check(Scope.ADMIN, method, page(**changed))


@pytest.mark.parametrize(
    "fields",
    [
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-origin", "origin": f"http://{HOST}"},
        {"origin": f"http://{HOST}"},
        {"referer": f"http://{HOST}/ui/"},
        {"referer": f"http://{HOST}"},
    ],
)
def test_a_page_of_the_router_is_recognised(fields) -> None:
    """By any of the fields that no page can forge."""
    seen = {name.encode(): value.encode() for name, value in fields.items()}
    assert is_from_own_page({b"host": HOST.encode(), **seen})


# -- how long ---------------------------------------------------------------------------------


def test_a_session_ends_when_it_was_idle(gate, clock) -> None:
    """Each request keeps it for that time again."""
    gate.sign_in(TOKEN, b"text", uid=None)
    for _ in range(3):
        clock.now_s += IDLE_S - 1
        gate.check(Scope.ADMIN, b"GET", page())
    clock.now_s += IDLE_S
    with pytest.raises(AdminTokenError):
        gate.check(Scope.ADMIN, b"GET", page())


def test_a_session_ends_with_its_secret(gate) -> None:
    """A key that a reload removes, a token that it replaces."""
    gate.sign_in(ALICE, b"alice", uid=None)
    gate.sign_in(TOKEN, b"owner", uid=None)
    gate.reconfigure(
        parse_config({"api_keys": {"bob": {"key": "sk-bob-0123456789"}}, "models": {}})
    )
    with pytest.raises(ApiKeyError):
        gate.check(Scope.MODELS, b"GET", page("alice"))
    gate.check(Scope.ADMIN, b"GET", page("owner"))
    gate.reconfigure(config(admin_token="another-token-0123456789"))
    with pytest.raises(AdminTokenError):
        gate.check(Scope.ADMIN, b"GET", page("owner"))


def test_a_session_without_a_secret_ends_when_keys_come(open_gate) -> None:
    """And when others can reach the router."""
    open_gate.open_session(b"text", uid=1000)
    open_gate.check(Scope.ADMIN, b"GET", page())
    open_gate.reconfigure(config())
    with pytest.raises(AdminTokenError):
        open_gate.check(Scope.ADMIN, b"GET", page())
    open_gate.reconfigure(config(keys=False))
    open_gate.check(Scope.ADMIN, b"GET", page())
    open_gate.listens_on(["127.0.0.1", "192.168.0.1"])
    with pytest.raises(AdminTokenError):
        open_gate.check(Scope.ADMIN, b"GET", page())


def test_a_sign_in_can_be_asked_of_everyone(open_gate) -> None:
    """Where a tunnel on this machine lets others in, they look like the router's own user."""
    assert open_gate.opens_locally
    open_gate.open_session(b"text", uid=1000)
    open_gate.reconfigure(config(keys=False, dashboard_sign_in=True))
    assert not open_gate.opens_locally
    with pytest.raises(AdminTokenError):
        open_gate.check(Scope.ADMIN, b"GET", page())
    open_gate.sign_in(TOKEN, b"other", uid=1000)
    open_gate.check(Scope.ADMIN, b"GET", page("other"))


def test_signing_out_ends_one_session(gate) -> None:
    """Other browsers stay signed in."""
    gate.sign_in(TOKEN, b"one", uid=None)
    gate.sign_in(TOKEN, b"two", uid=None)
    session = gate.session(page("one"))
    assert session is not None
    gate.end_session(session)
    assert gate.session(page("one")) is None
    assert gate.session(page("two")) is not None


def test_one_secret_has_so_many_sessions(gate, clock) -> None:
    """The one that was idle for longest ends; those of other secrets stay."""
    gate.sign_in(ALICE, b"alice", uid=None)
    for number in range(MAX_SESSIONS + 1):
        clock.now_s += 1
        gate.sign_in(TOKEN, str(number).encode(), uid=None)
    assert gate.session(page("alice")) is not None
    assert gate.session(page("0")) is None
    assert gate.session(page("1")) is not None


# -- which session a request depends on ---------------------------------------------------------


def test_a_session_decides_only_where_nothing_else_does(gate, open_gate) -> None:
    """Its user is looked up only then."""
    gate.sign_in(TOKEN, b"text", uid=1000)
    assert gate.deciding_session(Scope.ADMIN, page()) is not None
    assert gate.deciding_session(Scope.MODELS, page()) is not None
    assert gate.deciding_session(Scope.OPEN, page()) is None
    assert gate.deciding_session(Scope.ADMIN, page(authorization=f"Bearer {TOKEN}")) is None
    assert open_gate.deciding_session(Scope.MODELS, page()) is None


@pytest.mark.parametrize("scheme", ["Basic dXNlcjpwYXNz", "Bearer", ""])
def test_credentials_of_a_proxy_do_not_hide_the_session(gate, scheme) -> None:
    """What the check takes for no secret, the look at the session does not take for one."""
    gate.sign_in(TOKEN, b"text", uid=1000)
    gate.check(Scope.ADMIN, b"GET", page(authorization=scheme))
    assert gate.deciding_session(Scope.ADMIN, page(authorization=scheme)) is not None


# -- cookies ------------------------------------------------------------------------------------


def test_two_routers_on_one_machine_have_two_cookies() -> None:
    """Browsers send the cookies of all ports to each of them."""
    assert cookie_name(b"127.0.0.1:8082") != cookie_name(b"127.0.0.1:8083")
    assert cookie_name(b"[::1]:8082") == cookie_name(b"localhost:8082")
    assert cookie_name(b"router.lan") == b"llama-router-0"


def test_a_cookie_that_something_else_set_does_not_hide_the_own_one() -> None:
    """Several may have one name; only a few are tried."""
    field = b"llama-router-8082=a;x=y; llama-router-8082=b" + b"; llama-router-8082=c" * 9
    assert list(cookie_texts(field, HOST.encode())) == [b"a", b"b", b"c", b"c"]


def test_backends_get_only_their_own_cookies() -> None:
    """A backend that had the session's could do all that its owner may."""
    assert without_session(b"a=b; llama-router-8082=x;c=d; llama-router-1=y") == b"a=b; c=d"
    assert without_session(b"llama-router-8082=x") == b""


# -- the router's own user ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "direct"),
    [
        ({"host": "127.0.0.1:8082"}, True),
        ({"host": "localhost:8082"}, True),
        ({"host": "[::1]:8082"}, True),
        ({"host": "router.lan:8082"}, False),
        ({"host": "192.168.0.1:8082"}, False),
        ({"host": "127.0.0.1:8082", "x-forwarded-for": "1.2.3.4"}, False),
        ({"host": "127.0.0.1:8082", "forwarded": "for=1.2.3.4"}, False),
        ({"host": "127.0.0.1:8082", "via": "1.1 proxy"}, False),
    ],
)
def test_what_a_proxy_passes_on_is_not_from_here(fields, direct) -> None:
    """It may run as root, and pass on what comes from anywhere."""
    seen = {name.encode(): value.encode() for name, value in fields.items()}
    assert is_direct(seen, is_loopback) is direct
