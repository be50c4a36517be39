"""Who may ask for what."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.access.browsers import asks_for_page, check_media_type
from llama_router.core.access.caller import UNRESTRICTED
from llama_router.core.access.gate import Gate, Scope
from llama_router.core.access.hosts import host_of
from llama_router.core.config.exposure import (
    address_fault,
    host_fault,
    is_loopback,
    socket_path,
    split_address,
)
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.access import (
    AccessError,
    AdminTokenError,
    ApiKeyError,
    HostNotAllowedError,
    MediaTypeError,
    MetricsOffError,
    OriginNotAllowedError,
)
from llama_router.errors.admission import UnknownModelError
from llama_router.errors.config import ConfigError
from llama_router.errors.requests import RequestError

TOKEN = "generated-token-0123456789"
ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"
KEYS = {
    "alice": {"key": ALICE},
    "bob": {"sha256": hashlib.sha256(BOB.encode()).hexdigest(), "models": ["small-*", "chat"]},
}
MODELS = {
    "small-a": {"path": "m"},
    "large": {"path": "m", "aliases": ["chat"]},
    "other": {"path": "m"},
}


def gate(*, keys: dict[str, Any] | None = None, **router: Any) -> Gate:
    config = parse_config({"router": router, "api_keys": keys or {}, "models": MODELS})
    return Gate(config, own_hosts=["Box", "box.lan"], admin_token=TOKEN)


def fields(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]


def check(g: Gate, scope: Scope = Scope.MODELS, method: bytes = b"POST", **values: str):
    return g.check(scope, method, fields(**{"host": "127.0.0.1:8082", **values}))


# -- classes ------------------------------------------------------------------------------


def test_two_classes_in_one_request_are_refused() -> None:
    """Which one counts is not guessed; the same one twice is one."""
    host = (b"host", b"127.0.0.1:8082")
    one, other = (b"x-priority", b"background"), (b"x-priority", b"interactive")
    assert gate().check(Scope.MODELS, b"POST", [host, one, one]).asked == "background"
    with pytest.raises(RequestError, match="several fields 'X-Priority'"):
        gate().check(Scope.MODELS, b"POST", [host, one, other])


# -- secrets ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"authorization": f"Bearer {TOKEN}"},
        {"authorization": f"bearer  {TOKEN} "},
        {"x_admin_token": TOKEN},
        {"authorization": "Bearer something-else", "x_admin_token": TOKEN},
    ],
)
def test_the_admin_token_opens_the_admin_area(values) -> None:
    """As a bearer token or in a field of its own, which comes first."""
    check(gate(), Scope.ADMIN, **values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
        {"x_admin_token": TOKEN[:-1]},
        {"x_admin_token": TOKEN + "x"},
        {"x_api_key": TOKEN},
        {"authorization": f"Bearer {ALICE}"},
    ],
)
def test_nothing_else_does(values) -> None:
    """An API key is no admin token, and neither is a part of the token."""
    with pytest.raises(AdminTokenError) as caught:
        check(gate(keys=KEYS), Scope.ADMIN, **values)
    assert TOKEN not in str(caught.value)


def test_whoever_has_an_api_key_is_told_that_it_does_not_do() -> None:
    """Their key is right; it is the wrong kind. What else needs the token is said."""
    g = gate(keys=KEYS, models_api="admin")
    bearer = f"Bearer {ALICE}"
    with pytest.raises(AdminTokenError, match=r"an API key does not do$"):
        check(g, Scope.ADMIN, authorization=bearer)
    with pytest.raises(AdminTokenError, match=r"does not do here.*proxy_endpoints"):
        check(g, Scope.CHANGES, authorization=bearer)
    with pytest.raises(AdminTokenError, match="this is not the admin token"):
        check(g, Scope.CHANGES, authorization="Bearer something-else")


def test_a_configured_token_takes_the_place_of_the_generated_one() -> None:
    """The other one is not valid any more; and the other way round after a reload."""
    g = gate(admin_token="configured-0123456789")
    check(g, Scope.ADMIN, x_admin_token="configured-0123456789")
    with pytest.raises(AdminTokenError):
        check(g, Scope.ADMIN, x_admin_token=TOKEN)
    g.reconfigure(parse_config({}))
    check(g, Scope.ADMIN, x_admin_token=TOKEN)


def test_models_are_open_without_keys() -> None:
    """Whatever the client sends as a key: other servers ignore it, too."""
    assert check(gate(), authorization="Bearer sk-no-key-required").models is None


@pytest.mark.parametrize(
    "values", [{}, {"authorization": "Bearer sk-wrong-0123"}, {"x_admin_token": TOKEN}]
)
def test_models_need_a_key_once_there_is_one(values) -> None:
    """The admin token is none."""
    with pytest.raises(ApiKeyError):
        check(gate(keys=KEYS), **values)


def basic(user_and_password: str) -> str:
    return f"Basic {base64.b64encode(user_and_password.encode()).decode()}"


def test_a_key_is_known_by_its_name() -> None:
    """As a bearer token, X-Api-Key, Api-Key or a password; written out or as a digest."""
    g = gate(keys=KEYS)
    assert check(g, authorization=f"Bearer {ALICE}").name == "alice"
    assert check(g, x_api_key=BOB).name == "bob"
    assert check(g, api_key=BOB).name == "bob"
    assert check(g, authorization=basic(f"anyone:{ALICE}")).name == "alice"


@pytest.mark.parametrize(
    "given",
    [basic("alice"), basic("alice:"), "Basic", "Basic ***", basic(f"a:{'x' * 4000}"), basic("a:b")],
)
def test_other_basic_credentials_are_no_key(given) -> None:
    """Also those that are too long, or no text in base 64."""
    with pytest.raises(ApiKeyError):
        check(gate(keys=KEYS), authorization=given)


@pytest.mark.parametrize(
    ("method", "fields", "asks"),
    [
        (b"GET", [(b"sec-fetch-mode", b"navigate")], True),
        (b"GET", [(b"accept", b"text/html,*/*;q=0.8")], True),
        (b"GET", [(b"sec-fetch-mode", b"cors"), (b"accept", b"text/html")], False),
        (b"GET", [(b"accept", b"application/json")], False),
        (b"POST", [(b"sec-fetch-mode", b"navigate")], False),
    ],
)
def test_only_a_browser_that_opens_a_page_is_asked_for_a_password(method, fields, asks) -> None:
    """A script on a page gets the error, not a window over its page."""
    assert asks_for_page(method, fields) is asks


def test_a_key_is_good_for_its_models_only() -> None:
    """Patterns and aliases count."""
    g = gate(keys=KEYS)
    models = parse_config({"models": MODELS}).models
    bob, alice = check(g, x_api_key=BOB), check(g, x_api_key=ALICE)
    assert [m for m in models if bob.may_use(models[m])] == ["small-a", "large"]
    assert all(map(alice.may_use, models.values()))


def test_who_may_not_use_a_model_does_not_learn_that_there_is_one() -> None:
    """Its name is answered like one that no model has; models that the key may use are named."""
    bob = check(gate(keys=KEYS), x_api_key=BOB)
    config = parse_config({"models": MODELS})
    bob.check_model(config.models[ModelId("large")], "large", config)
    with pytest.raises(UnknownModelError) as refused:
        bob.check_model(config.models[ModelId("other")], "gpt", config)
    unknown = bob.unknown("gpt", config)
    assert (str(refused.value), refused.value.param) == (str(unknown), unknown.param)
    assert str(unknown) == (
        "there is no model 'gpt', or this API key may not use it; it may use: 'small-a', 'large'"
    )


def test_a_key_has_the_default_model_only_if_it_may_use_it() -> None:
    """It does not learn that there is another one."""
    bob = check(gate(keys=KEYS), x_api_key=BOB)
    for name, expected in (("large", "large"), ("other", None)):
        config = parse_config({"router": {"default_model": name}, "models": MODELS})
        assert bob.default_model(config) == expected
        assert UNRESTRICTED.default_model(config) == name
    assert bob.default_model(parse_config({"models": MODELS})) is None


def test_an_unknown_preset_says_nothing_about_other_models() -> None:
    """Presets of a model that the key may use are listed, whether the name is a model's or not."""
    some = {"path": "m", "presets": {"fast": {}, "slow": {}}}
    models = {"chat": {**some, "aliases": ["c"]}, "chat:x": some, "other": some}
    config = parse_config({"models": models})
    bob = check(gate(keys=KEYS), x_api_key=BOB)
    for name in ("chat:x", "chat:y", "chat:x:y", "chat:y:y"):
        assert str(bob.unknown(name, config)) == (
            f"there is no model {name!r}, or this API key may not use it; "
            "the presets of model 'chat' are: 'chat:fast', 'chat:slow'"
        )
    for name in ("other:y", "no:y"):
        assert str(bob.unknown(name, config)).endswith("may not use it; it may use: 'chat'")


def test_an_unknown_preset_is_told_those_there_are() -> None:
    """Of the model that has most of the name; a model without presets has none to tell of."""
    chat = {"path": "m", "aliases": ["c"], "presets": {"fast": {}, "a:b": {}}}
    config = parse_config({"models": {"chat": chat, "chat:x": {"path": "m"}}})
    for name in ("c:y", "chat:x:y", "chat:fast:y"):
        assert str(UNRESTRICTED.unknown(name, config)) == (
            f"no model or alias is named {name!r}, and model 'chat' has no such preset; "
            "it has: 'chat:fast', 'chat:a:b'"
        )
    assert str(UNRESTRICTED.unknown("d:y", config)).endswith("'d:y'; there are: 'chat', 'chat:x'")


def test_presets_are_not_searched_in_a_name_without_end() -> None:
    """It may have come from an address, and each of its colons would cost a copy of it."""
    config = parse_config({"models": {"chat": {"path": "m", "presets": {"fast": {}}}}})
    assert "preset" not in str(UNRESTRICTED.unknown("chat" + ":" * 2000, config))


def test_backends_do_not_see_the_routers_secrets() -> None:
    """With keys the client's key stays here; without, Authorization is the backend's affair."""
    assert gate(keys=KEYS).strip_headers == {
        *(b"authorization", b"x-api-key", b"api-key", b"x-admin-token")
    }
    assert gate().strip_headers == {b"x-admin-token"}


def test_no_secret_is_in_the_text_of_a_configuration() -> None:
    """Nobody logs one by accident."""
    config = parse_config(
        {"router": {"admin_token": TOKEN}, "api_keys": {"a": {"key": ALICE}}, "models": MODELS}
    )
    digest = hashlib.sha256(ALICE.encode()).hexdigest()
    assert not any(secret in repr(config) for secret in (TOKEN, ALICE, digest))


@pytest.mark.parametrize(
    "table",
    [{}, {"key": ALICE, "sha256": "0" * 64}, {"key": "short"}, {"key": "with space 0123"}],
)
def test_a_key_that_cannot_be_used_is_a_mistake(table) -> None:
    """And its text is not quoted."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"api_keys": {"a": table}})
    assert ALICE not in str(caught.value)


def test_two_names_cannot_share_a_key() -> None:
    """Nobody could tell whose request it is."""
    with pytest.raises(ConfigError, match="the same key as that of 'a'"):
        parse_config({"api_keys": {"a": {"key": ALICE}, "b": {"key": ALICE}}})


# -- host -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8082", "[::1]:8082", "localhost", "LOCALHOST:1", "a.localhost",
     "192.168.1.20:80", "box", "BOX.lan:8082", "box.lan.", "llama-router:8082"],
)  # fmt: skip
def test_names_of_this_machine_and_network_are_allowed(host) -> None:
    """Addresses, localhost, the machine's own names, and names without a dot."""
    check(gate(), host=host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8082", "127.0.0.1.evil.example", "localhost.evil.example",
     "localhost:4000/#@attacker.example", "localhost@evil.example", ":8082", "", "a b", "[::1",
     "127.0.0.1:x", "\\evil", "box.lan,evil.example"],
)  # fmt: skip
def test_other_names_are_not(host) -> None:
    """A name of the internet may have been rebound to this address."""
    with pytest.raises(HostNotAllowedError):
        check(gate(), Scope.OPEN, host=host)


def test_a_name_can_be_allowed() -> None:
    """One, or every one."""
    check(gate(allowed_hosts=["Models.Example.org"]), host="models.example.org:443")
    check(gate(allowed_hosts=["*"]), host="evil.example")


@pytest.mark.parametrize(
    "host",
    ["0.0.0.0:8082", "0.0.0.0", "0.1.2.3", "[::]:8082", "[::ffff:127.0.0.1]:8082",
     "[::ffff:7f00:1]", "[::FFFF:192.168.1.20]", "[0:0::ffff:7f00:1]", "[::7f00:1]",
     "[::ffff:0.0.0.0]", "0.0.0.0.", "[localhost]", "[]", "[box]"],
)  # fmt: skip
@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0", "::"])
def test_other_spellings_of_an_address_of_this_machine_are_not_allowed(
    host: str, listening: str
) -> None:
    """Browsers do not say which page sends a request to them."""
    with pytest.raises(HostNotAllowedError):
        check(gate(host=listening, public_without_keys=True), Scope.OPEN, host=host)


@pytest.mark.parametrize(
    ("allowed", "host"),
    [("0.0.0.0", "0.0.0.0:1"), ("::ffff:127.0.0.1", "[::ffff:7f00:1]"), ("[::]", "[0::0]:1")],
)
def test_such_a_spelling_can_be_allowed(allowed: str, host: str) -> None:
    """However it is spelled in the configuration."""
    check(gate(allowed_hosts=[allowed]), host=host)


def test_the_refusal_of_such_a_spelling_names_another_address() -> None:
    """It does not say that the router is not called so."""
    with pytest.raises(HostNotAllowedError, match=r"use 127\.0\.0\.1 or .*allowed_hosts"):
        check(gate(), host="0.0.0.0:8082")


def test_a_request_without_host_is_allowed() -> None:
    """HTTP/1.0 has none, and browsers do not speak it."""
    gate().check(Scope.MODELS, b"GET", [])


@given(st.text(max_size=40))
def test_any_host_is_judged(text: str) -> None:
    """Whatever is sent leads to a verdict, and remembers nothing bad as good."""
    g, sent = gate(), text.encode("utf-8", "replace")
    for _ in range(2):  # the second time, what was good is remembered
        try:
            g.check(Scope.OPEN, b"GET", [(b"host", sent)])
        except HostNotAllowedError:
            continue
        assert host_of(sent.decode("latin-1")) is not None


# -- origin ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"origin": "http://127.0.0.1:8082"},
        {"origin": "http://127.0.0.1:8082", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "same-origin"},
    ],
)
def test_programs_and_our_own_pages_are_allowed(values) -> None:
    """A program sends none of these fields; a person who types an address, 'none'."""
    check(gate(), **values)


@pytest.mark.parametrize(
    "values",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://127.0.0.1:8082.evil.example"},
        {"origin": "http://127.0.0.1:8082", "host": "127.0.0.1:8083"},
        {"origin": "file://127.0.0.1:8082"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
    ],
)
@pytest.mark.parametrize("scope", [Scope.MODELS, Scope.ADMIN])
def test_pages_of_others_are_not(values, scope) -> None:
    """Another port is another origin; and a form that a page posts is no link."""
    with pytest.raises(OriginNotAllowedError):
        check(gate(), scope, x_admin_token=TOKEN, **values)


def test_a_link_to_an_open_page_may_be_followed() -> None:
    """But not with a POST."""
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    check(gate(), Scope.OPEN, b"GET", **link)
    with pytest.raises(OriginNotAllowedError):
        check(gate(), Scope.OPEN, b"POST", **link)


def test_a_listed_origin_may_use_the_router_and_read_the_answer() -> None:
    """It is named in the answer, without credentials; others get nothing."""
    g = gate(cors_origins=["https://Chat.example"])
    check(g, origin="https://chat.example", sec_fetch_site="cross-site")
    allowed = dict(g.cors_fields(fields(origin="https://chat.example")))
    assert allowed[b"access-control-allow-origin"] == b"https://chat.example"
    assert b"access-control-allow-credentials" not in allowed
    assert dict(g.cors_fields(fields(origin="https://evil.example"))) == {b"vary": b"origin"}
    assert gate().cors_fields(fields(origin="https://chat.example")) == ()


@pytest.mark.parametrize(
    ("listed", "origin", "is_listed"),
    [
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://[::1]:*", "http://[::1]:3000", True),
        ("http://localhost:*", "https://localhost:5173", False),
        ("http://localhost:*", "http://localhost.evil.example:5173", False),
        ("http://localhost:*", "http://localhost:5173@evil.example", False),
        ("http://localhost:*", "http://localhost:5173.evil.example", False),
        ("localhost", "http://localhost", True),
        ("localhost", "https://localhost:5173", True),
        ("localhost", "http://127.0.0.1:3000", True),
        ("localhost", "http://[::1]:3000", True),
        ("localhost", "tauri://localhost", True),
        ("localhost", "http://localhost.evil.example", False),
        ("localhost", "http://evil.example/localhost", False),
        ("localhost", "http://localhost@evil.example", False),
        ("localhost", "http://127.0.0.1.nip.io", False),
        ("localhost", "http://192.168.1.20", False),
        ("localhost", "null", False),
        ("http://localhost:80", "http://localhost", True),
        ("https://chat.example:443", "https://chat.example", True),
        ("https://chat.example", "https://chat.example:8443", False),
        ("https://chat.example", "http://chat.example", False),
    ],
)
def test_an_origin_is_listed_with_its_port_or_with_any(
    listed: str, origin: str, *, is_listed: bool
) -> None:
    """A browser leaves out the port that a scheme implies."""
    g = gate(cors_origins=[listed])
    answer = dict(g.cors_fields(fields(origin=origin)))
    assert (b"access-control-allow-origin" in answer) is is_listed


@pytest.mark.parametrize(
    "origin",
    [
        "http://*",
        "https://*.example.org",
        "http://localhost:*/",
        "http://localhost:50*",
        "*://localhost",
        "localhost:*",
        "https://m\u00fcnchen.example",
        "https://user@chat.example",
    ],
)
def test_an_origin_that_never_matches_is_refused(origin: str) -> None:
    """It would pass the check of the configuration and then keep the page out."""
    with pytest.raises(ConfigError, match="no other patterns"):
        parse_config({"router": {"cors_origins": [origin]}})


BROWSER = {"user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
LAN = "192.168.1.20:8082"


def loads(g: Gate, method: bytes = b"GET", **values: str) -> bool:
    """Return whether a request to an address of the network may load a model."""
    try:
        g.check_load(method, fields(**{"host": LAN, **values}))
    except OriginNotAllowedError:
        return False
    return True


@pytest.mark.parametrize(
    "values",
    [
        BROWSER,
        {**BROWSER, "host": "127.0.0.1:8082"},  # a browser older than Sec-Fetch-Site
        {**BROWSER, "referer": "http://evil.example/"},
        {**BROWSER, "referer": "http://192.168.1.20:8083/"},
        {**BROWSER, "referer": "http://192.168.1.20:8082.evil.example/"},
        {**BROWSER, "referer": ""},
        {"referer": "http://evil.example/"},
        {"user_agent": "unusual", "upgrade_insecure_requests": "1"},
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_browser_that_does_not_name_its_page_loads_nothing(values, method) -> None:
    """Over plain HTTP an image in a page of another site looks like an address typed by hand."""
    assert not loads(gate(cors_origins=["https://chat.example"]), method, **values)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"user_agent": "curl/8.5.0", "accept": "*/*"},
        {"user_agent": "Mozilla/5.0 (Windows NT 10.0; en-US) PowerShell/7.4.1"},
        {**BROWSER, "referer": f"http://{LAN}/"},
        {**BROWSER, "referer": f"http://{LAN}"},
        {**BROWSER, "referer": "https://chat.example/a/b?c"},
        {**BROWSER, "sec_fetch_site": "none"},
        {**BROWSER, "sec_fetch_site": "same-origin"},
        {**BROWSER, "origin": "https://chat.example"},
    ],
)
def test_programs_and_pages_that_are_named_load_models(values) -> None:
    """`Gate.check` has judged the fields Origin and Sec-Fetch-Site."""
    assert loads(gate(cors_origins=["https://chat.example"]), b"GET", **values)


def test_a_body_says_enough_about_its_page() -> None:
    """Browsers send Origin with it, and programs with the User-Agent of a browser may go on."""
    assert loads(gate(), b"POST", **BROWSER)


def test_every_page_loads_models_where_every_origin_is_listed() -> None:
    """It need not be named then."""
    assert loads(gate(cors_origins=["*"]), b"GET", **BROWSER)


def test_a_browser_may_ask_before() -> None:
    """Only for a listed origin; what it wants to send is repeated if it looks like names."""
    g = gate(cors_origins=["https://chat.example"])
    question = {"origin": "https://chat.example", "access_control_request_method": "POST"}
    wanted = {"access_control_request_headers": "authorization, content-type"}
    answer = dict(g.preflight_fields(fields(**question, **wanted)) or ())
    assert answer[b"access-control-allow-headers"] == b"authorization, content-type"
    forged = {"access_control_request_headers": "x\r\nset-cookie: a"}
    answer = dict(g.preflight_fields(fields(**question, **forged)) or ())
    assert answer[b"access-control-allow-headers"] == b""
    assert g.preflight_fields(fields(origin="https://chat.example")) is None
    with pytest.raises(OriginNotAllowedError):
        g.preflight_fields(fields(**{**question, "origin": "https://evil.example"}))
    with pytest.raises(HostNotAllowedError):
        g.preflight_fields(fields(**question, host="evil.example"))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"authorization",
                 b"x-api-key", b"x-admin-token", b"accept"]
            ),
            st.binary(max_size=30) | st.just(f"Bearer {ALICE[:-1]}".encode()),
        ),
        max_size=8,
    ),
    st.sampled_from(Scope),
)  # fmt: skip
def test_no_combination_of_fields_opens_a_door_without_a_secret(sent, scope) -> None:
    """Refused, or an open page; never an exception of another kind."""
    try:
        gate(keys=KEYS, cors_origins=["*"], allowed_hosts=["*"]).check(scope, b"POST", sent)
    except AccessError:
        return
    assert scope is Scope.OPEN


# -- exposure -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("[::1]", True), ("[::]", False), ("[", False), ("", False),
     ("0.0.0.0", False), ("::", False), ("192.168.1.1", False), ("box.lan", False),
     ("::ffff:127.0.0.1", False), ("[::ffff:7f00:1]", False),
     ("localhost.evil.example", False)],
)  # fmt: skip
def test_only_loopback_is_private(host, loopback) -> None:
    """A name may be anything."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1", "127.0.0.1", None),
        ("127.0.0.1:80", "127.0.0.1", 80),
        ("box.lan:8082", "box.lan", 8082),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:8083", "::1", 8083),
        ("::1:8083", "::1:8083", None),  # an IPv6 address, too
    ],
)
def test_an_address_may_have_a_port(address, host, port) -> None:
    """Behind an IPv6 address only with brackets."""
    assert split_address(address) == (host, port)
    config = parse_config({"router": {"host": address, "public_without_keys": True}})
    assert config.router.hosts == (host,)


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("127.0.0.1:x", "router.host"),
        ("127.0.0.1:70000", "router.host"),
        ("http://127.0.0.1", "router.host"),
        ("[::1", "router.host"),
        ([], "router.host"),
        (["127.0.0.1", "127.0.0.1:"], "router.host[1]"),
        (["127.0.0.1", 1], "router.host[1]"),
        (["127.0.0.1", "0.0.0.0"], "router.host[1]"),
    ],
)
def test_addresses_that_cannot_be_listened_on(host, where) -> None:
    """Each is reported by its place."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"router": {"host": host}})
    assert [problem.location for problem in caught.value.problems] == [where]


def test_every_configured_host_is_a_name_of_the_router() -> None:
    """With its port or without."""
    g = gate(host=["127.0.0.1", "box.example:9000"], public_without_keys=True)
    check(g, Scope.OPEN, host="box.example:8082")


def test_a_public_address_needs_keys_or_a_word() -> None:
    """The mistake says which settings would allow it."""
    assert host_fault("0.0.0.0", has_keys=True, public_without_keys=False) is None
    assert host_fault("0.0.0.0", has_keys=False, public_without_keys=True) is None
    with pytest.raises(ConfigError, match="public_without_keys"):
        parse_config({"router": {"host": "0.0.0.0"}})
    parse_config({"router": {"host": "0.0.0.0"}, "api_keys": KEYS})


# -- llama.cpp's API ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models_api", "listening", "is_open"),
    [
        ("auto", ["127.0.0.1"], True),
        ("auto", ["127.0.0.1", "::1"], True),
        ("auto", [], True),  # a UNIX socket
        ("auto", ["127.0.0.1", "0.0.0.0"], False),
        ("open", ["0.0.0.0"], True),
        ("admin", ["127.0.0.1"], False),
    ],
)
def test_who_may_change_models(models_api: str, listening: list[str], *, is_open: bool) -> None:
    """The token always opens it."""
    g = gate(models_api=models_api)
    g.listens_on(listening)
    check(g, Scope.CHANGES, x_admin_token=TOKEN) if not is_open else check(g, Scope.CHANGES)
    if not is_open:
        with pytest.raises(AdminTokenError):
            check(g, Scope.CHANGES)


def test_the_configured_host_counts_until_the_router_listens() -> None:
    """Nothing is open by mistake in between."""
    with pytest.raises(AdminTokenError):
        check(gate(host="0.0.0.0", public_without_keys=True), Scope.CHANGES)


def test_a_reload_changes_who_may_change_models() -> None:
    """Where the router listens stays known."""
    g = gate()
    g.listens_on(["10.0.0.1"])
    g.reconfigure(parse_config({"router": {"models_api": "open"}}))
    check(g, Scope.CHANGES)
    g.reconfigure(parse_config({}))
    with pytest.raises(AdminTokenError):
        check(g, Scope.CHANGES)


def test_keys_are_needed_for_changes_that_are_open() -> None:
    """Open means: to those who may use the models."""
    g = gate(keys=KEYS)
    with pytest.raises(ApiKeyError):
        check(g, Scope.CHANGES)
    assert check(g, Scope.CHANGES, authorization=f"Bearer {ALICE}").name == "alice"


MONITOR = {"monitor": {"key": "sk-monitor-0123456789", "metrics": True}}


@pytest.mark.parametrize(
    ("metrics", "keys", "is_open"),
    [
        ("auto", {}, True),
        ("auto", KEYS, False),
        ("open", KEYS, True),
        ("admin", {}, False),
        ("off", {}, False),
    ],
)
def test_who_may_read_the_metrics(metrics: str, keys: dict[str, Any], *, is_open: bool) -> None:
    """Without keys everybody may use the models, and so may see how they are used."""
    g = gate(keys=keys, metrics=metrics)
    if is_open:
        check(g, Scope.METRICS)
        return
    with pytest.raises(MetricsOffError if metrics == "off" else AdminTokenError):
        check(g, Scope.METRICS)


def test_metrics_of_a_public_router_need_a_secret() -> None:
    """Also where everybody may use its models."""
    with pytest.raises(AdminTokenError):
        check(gate(host="0.0.0.0", public_without_keys=True), Scope.METRICS)


def test_a_key_with_that_right_reads_the_metrics() -> None:
    """No other key does; the admin token does, unless there are none."""
    g = gate(keys={**KEYS, **MONITOR})
    assert check(g, Scope.METRICS, authorization="Bearer sk-monitor-0123456789").name == "monitor"
    assert check(g, Scope.METRICS, authorization=f"Bearer {TOKEN}") is UNRESTRICTED
    with pytest.raises(AdminTokenError, match="metrics = true"):
        check(g, Scope.METRICS, authorization=f"Bearer {ALICE}")
    with pytest.raises(MetricsOffError):
        check(gate(metrics="off"), Scope.METRICS, x_admin_token=TOKEN)


CURL = {"user_agent": "curl/8.5.0", "accept": "*/*"}
FORM = "application/x-www-form-urlencoded"
PAGES = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"referer": "https://evil.example/"},
    {"sec_fetch_site": "cross-site"},
    {"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"},
    {"user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:60.0) Gecko/20100101 Firefox/60.0"},
]


def says_json(body: bytes, **values: str) -> bool:
    """Say whether *body* passes as JSON."""
    try:
        check_media_type(fields(**values), body)
    except MediaTypeError:
        return False
    return True


@pytest.mark.parametrize("page", [{}, *PAGES])
def test_what_is_said_to_be_json_passes(page) -> None:
    """Who may send it is another question."""
    assert says_json(b"{}", content_type="application/json", **page)
    assert says_json(b"[]", content_type="Application/JSON ; charset=utf-8", **page)


def test_a_program_need_not_say_it() -> None:
    """As curl does not; but then it must look like an object."""
    for said in ({"content_type": FORM}, {"content_type": f"{FORM}; charset=utf-8"}, {}):
        assert says_json(b' \n{"model": "a"}', **CURL, **said)
        assert not says_json(b"model=a", **CURL, **said)
        assert not says_json(b"[1]", **CURL, **said)
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/jsonp"):
        assert not says_json(b"{}", **CURL, content_type=kind)


@pytest.mark.parametrize("page", PAGES)
def test_a_browser_must_say_it(page) -> None:
    """Without asking before, a page of another site cannot."""
    for said in ({"content_type": FORM}, {"content_type": "text/plain"}, {}):
        assert not says_json(b"{}", **page, **said)


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("unix:/run/s", None),
        ("unix:s", "a UNIX socket needs a whole path: 'unix:/run/llama-router/socket'"),
        (f"unix:/{'x' * 107}", "the path of a UNIX socket has at most 107 bytes"),
    ],
)
def test_a_unix_socket_is_an_address_with_a_whole_path(address, fault) -> None:
    """It has no port, and only this machine reaches it."""
    assert address_fault(address) == fault
    assert split_address(address) == (address, None)
    assert socket_path(address) == address.removeprefix("unix:")
    assert is_loopback(address)
