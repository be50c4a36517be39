"""Access control: tokens, API keys, hosts and origins. Pure.

One `Gate` decides for both planes, before a body is read, from the header fields as they were
received. What no rule allows is forbidden.

The attacker that matters for a router on a desk is a page in a browser, because the browser
runs inside the network. Three checks keep it out, with or without API keys. ``Host`` must be a
name of this router, or an address: a page with a name that was rebound to the router's address
still sends that name. A request that a browser sends for a page of another origin passes only if
``cors_origins`` lists the origin. And a read from a browser that does not name the page, as over
plain HTTP to another address than 127.0.0.1, loads nothing (`Gate.check_load`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import attrs

from ...errors.access import (
    AccessError,
    AdminTokenError,
    ApiKeyError,
    HostNotAllowedError,
    MetricsOffError,
    OriginNotAllowedError,
)
from ...errors.requests import RequestError
from ..config.config import Config
from ..config.exposure import is_loopback, socket_path
from ..config.service import KEY_FIELDS
from ..config.specs import MetricsAccess, ModelsApi, Priority
from .browsers import (
    Fields,
    is_browser,
    is_listed,
    is_navigation,
    is_same_origin,
    without_default_port,
)
from .caller import UNRESTRICTED, Caller
from .hosts import address_of, canonical, host_of, is_misleading, is_unspecified
from .sessions import Session, Sessions, cookie_texts, is_direct, is_from_own_page


class Scope(StrEnum):
    """The kind of access that a route needs."""

    OPEN = "open"  # none: a page without data
    MODELS = "models"  # to use and list models: an API key, if any is configured
    CHANGES = "changes"  # to load, unload, fetch, delete models in llama.cpp's API: see models_api
    MCP = "mcp"  # to use /mcp: the admin token, or an API key with mcp = true
    METRICS = "metrics"  # to read the metrics: see metrics
    ADMIN = "admin"  # to do anything else: always the admin token


#: A module's global is read faster than an enum's member, and each request to a model asks.
_MODELS: Final = Scope.MODELS

_ADMIN_CREDENTIALS: Final = frozenset((b"x-admin-token",))
_CREDENTIALS: Final = KEY_FIELDS | _ADMIN_CREDENTIALS
#: The field in which a request asks for a class.
PRIORITY_FIELD: Final = b"x-priority"

_CHECKED_FIELDS: Final = _CREDENTIALS | {
    *(b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", PRIORITY_FIELD),
    *(b"cookie", b"referer"),  # of browsers, for sessions
}

_READS: Final = frozenset((b"GET", b"HEAD"))

#: What makes a page harmless: it gets an origin of its own that nothing has, and no scripts.
#: Source: https://html.spec.whatwg.org/multipage/browsers.html#sandboxing.
_SANDBOX: Final = (b"content-security-policy", b"sandbox")

#: Header fields that name the page of a request, or are typical of a browser.
_LOAD_FIELDS: Final = frozenset(
    (b"host", b"origin", b"sec-fetch-site", b"referer", b"user-agent", b"upgrade-insecure-requests")
)

#: A list of names of header fields.
_FIELD_NAMES: Final = re.compile(rb"[A-Za-z0-9_-]+(?:[ \t]*,[ \t]*[A-Za-z0-9_-]+)*")

#: Longest ``Basic`` credentials that are decoded.
_MAX_BASIC_BYTES: Final = 4096

#: Most values of ``Host`` in the cache of good ones, each of which is parsed once.
_MAX_CACHED: Final = 64


@attrs.frozen
class Rights:
    """What a browser that signed in may do.

    Attributes:
        scope: `Scope.ADMIN` or `Scope.MODELS`.
        caller: What that means for models.
    """

    scope: Scope
    caller: Caller


_OWNER: Final = Rights(Scope.ADMIN, UNRESTRICTED)


class Gate:
    """Applies the access rules of the configuration in force.

    Args:
        config: The configuration.
        own_hosts: Further names of this machine.
        admin_token: The admin token, unless the configuration sets another one.
        sessions: The sessions of browsers; None if no browser can sign in.
    """

    def __init__(
        self,
        config: Config,
        *,
        own_hosts: Iterable[str],
        admin_token: str,
        sessions: Sessions | None = None,
    ) -> None:
        self._sessions = sessions
        self._own_hosts = frozenset(host.lower() for host in own_hosts)
        self._fallback_token = admin_token
        self._listening: tuple[str, ...] = ()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Apply the rules of *config* from now on."""
        router = config.router
        self._token = _digest((router.admin_token or self._fallback_token).encode())
        self._keys = {
            bytes.fromhex(key.sha256): Caller(
                name, key.models, key.mcp, key.metrics, key.priority, key.weight
            )
            for name, key in config.api_keys.items()
        }
        self._hosts = {"localhost", *self._own_hosts}
        for host in router.hosts:
            if socket_path(host) is None and not is_unspecified(
                host
            ):  # every address, so no name of the router
                self._hosts.add(canonical(host.lower()))
        self._hosts |= {canonical(host.lower()) for host in router.allowed_hosts}
        self._origins = frozenset(map(without_default_port, router.cors_origins))
        self.pages_origin = router.pages_origin
        self._pages = b"" if router.pages_origin is None else router.pages_origin.encode("ascii")
        pages_host = host_of((router.pages_origin or "").partition("://")[2])
        if pages_host is not None:
            self._hosts.add(canonical(pages_host.lower()))
        self._good_hosts: set[bytes] = set()
        self._models_api = router.models_api
        self._asks_always = router.dashboard_sign_in
        self._metrics = router.metrics
        self._local = all(map(is_loopback, self._listening or router.hosts))

    def listens_on(self, hosts: Iterable[str]) -> None:
        """Store the addresses on which this router listens."""
        self._listening = tuple(hosts)
        self._local = all(map(is_loopback, self._listening))

    @property
    def has_keys(self) -> bool:
        """Return whether models need an API key."""
        return bool(self._keys)

    def check(self, scope: Scope, method: bytes, fields: Fields) -> Caller:
        """Return the sender of a request that may pass.

        Args:
            scope: Access that its route needs.
            method: As received.
            fields: Its header fields.

        Raises:
            HostNotAllowedError: if ``Host`` is not a name of this router.
            OriginNotAllowedError: if a page of another origin sent it.
            AdminTokenError: if it lacks the admin token that it needs.
            ApiKeyError: if it lacks a valid API key that it needs.
            RequestError: if it asks for a class that there is not.
        """
        seen = {name: value for name, value in fields if name in _CHECKED_FIELDS}
        host = seen.get(b"host")
        if host is not None and host not in self._good_hosts:
            self._check_host(host)
        if b"origin" in seen or b"sec-fetch-site" in seen:
            self._check_origin(scope, method, seen)
        if scope is not _MODELS and not (scope is Scope.CHANGES and self.changes_are_open):
            return self._check_scope(scope, seen)
        caller = self._check_key(seen) if self._keys else UNRESTRICTED
        if PRIORITY_FIELD not in seen:
            return caller
        return _asking(caller, {value for name, value in fields if name == PRIORITY_FIELD})

    def _check_scope(self, scope: Scope, seen: dict[bytes, bytes]) -> Caller:
        """Return the sender of a request for anything but the use of models."""
        if scope is Scope.OPEN:
            return UNRESTRICTED
        if scope is Scope.METRICS:
            return self._check_metrics(seen)
        return self._check_token(scope, seen)

    # -- pages of backends ------------------------------------------------------------------

    def is_for_pages(self, fields: Fields) -> bool:
        """Return whether a request was sent to the origin that pages of backends have alone."""
        return bool(self._pages) and is_same_origin(self._pages, _value(fields, b"host"))

    def place_of_page(self, method: bytes, fields: Fields) -> bytes | None:
        """Return the origin at which a browser is to open a page that it asks for here.

        A page that came from here could do what the dashboard may.

        Args:
            method: As received.
            fields: The header fields of a request for something that a backend serves.

        Returns:
            None if it may have it here, or asks for no page.
        """
        if not self._pages or method not in _READS or not is_navigation(fields):
            return None
        return None if self.is_for_pages(fields) else self._pages

    def backend_fields(self, fields: Fields) -> Sequence[tuple[bytes, bytes]]:
        """Return the header fields for a response of a backend to a request with *fields*.

        They are those of CORS; and where pages of backends have an origin of their own, nothing
        that comes from another one becomes a page with rights, whatever asked for it.
        """
        if not self._pages or self.is_for_pages(fields):
            return self.cors_fields(fields)
        return (*self.cors_fields(fields), _SANDBOX)

    # -- sessions of browsers ---------------------------------------------------------------

    @property
    def opens_locally(self) -> bool:
        """Return whether the dashboard opens without a secret, for the router's own user.

        That is so if only this machine can reach it, no API key says that its users differ, and
        the configuration does not want a sign-in anyway.
        """
        return self._local and not self._keys and not self._asks_always

    def is_local_page(self, fields: Fields) -> bool:
        """Return whether a page of the router, asked as this machine, sent a request directly."""
        seen = dict(fields)
        is_own = is_from_own_page(seen) and is_direct(seen, is_loopback)
        return is_own and not self.is_for_pages(seen.items())

    def sign_in(self, secret: str, text: bytes, *, uid: int | None) -> Rights:
        """Begin a session with the rights of *secret*; return these.

        Args:
            secret: The admin token or an API key.
            text: A random text for the cookie.
            uid: The user of this machine that the browser belongs to, if that is known.

        Raises:
            AdminTokenError: if it is neither.
        """
        digest = _digest(secret.encode("utf-8", "surrogateescape"))
        rights = self._rights_of(digest)
        if rights is None or self._sessions is None:
            raise AdminTokenError("this is neither the admin token nor an API key of this router")
        self._sessions.begin(text, secret=digest, uid=uid)
        return rights

    def open_session(self, text: bytes, *, uid: int) -> Rights:
        """Begin a session without a secret, for the user of the router; return its rights.

        It ends as soon as the router does not open locally any more.
        """
        assert self._sessions is not None and self.opens_locally  # noqa: PT018 -- one condition
        self._sessions.begin(text, secret=None, uid=uid)
        return _OWNER

    def end_session(self, session: Session) -> None:
        """End *session*."""
        if self._sessions is not None:
            self._sessions.end(session)

    def rights(self, session: Session) -> Rights | None:
        """Return what *session* allows now; None if its secret does not count any more."""
        if session.secret is None:
            return _OWNER if self.opens_locally else None
        return self._rights_of(session.secret)

    def session(self, fields: Fields) -> Session | None:
        """Return the session of a request from a page of the router, if it has one."""
        return self._session({name: value for name, value in fields if name in _CHECKED_FIELDS})

    def deciding_session(self, scope: Scope, fields: Fields) -> Session | None:
        """Return the session without which a request that `check` has passed would not pass."""
        if scope in (Scope.OPEN, Scope.METRICS) or (scope is not Scope.ADMIN and not self._keys):
            return None
        seen = {name: value for name, value in fields if name in _CHECKED_FIELDS}
        given = _given_token(seen) if scope is Scope.ADMIN else _given_key(seen)
        return None if given is not None else self._session(seen)

    def _session(self, seen: dict[bytes, bytes]) -> Session | None:
        cookies = seen.get(b"cookie")
        if cookies is None or self._sessions is None or not is_from_own_page(seen):
            return None
        if self.is_for_pages(seen.items()):
            return None
        session = self._sessions.find(cookie_texts(cookies, seen.get(b"host", b"")))
        return None if session is None or self.rights(session) is None else session

    def _rights_of(self, digest: bytes) -> Rights | None:
        if hmac.compare_digest(digest, self._token):
            return _OWNER
        caller = self._caller_with_digest(digest)
        return None if caller is None else Rights(Scope.MODELS, caller)

    def _signed_in(self, seen: dict[bytes, bytes]) -> Rights | None:
        session = self._session(seen)
        return None if session is None else self.rights(session)

    def may_change(self, method: bytes, fields: Fields) -> bool:
        """Return whether the sender of a request that `check` has passed may change models."""
        if self.changes_are_open:
            return True
        try:
            self.check(Scope.CHANGES, method, fields)
        except AccessError:
            return False
        return True

    def check_load(self, method: bytes, fields: Fields) -> None:
        """Refuse a read that may load a model or gets a page of one, if a hidden page sent it.

        Browsers send neither ``Origin`` nor ``Sec-Fetch-Site`` with a read over plain HTTP, except
        to 127.0.0.1, ::1 and localhost. Then only ``Referer`` may name the page, and a page can
        suppress it, but not forge it.

        Args:
            method: As received.
            fields: The header fields of a request that `check` has passed.

        Raises:
            OriginNotAllowedError: if a browser sent it, and no field says that its page may.
        """
        if method not in _READS or "*" in self._origins:
            return
        seen = {name: value for name, value in fields if name in _LOAD_FIELDS}
        if b"origin" in seen or b"sec-fetch-site" in seen:
            return
        referer = seen.get(b"referer")
        if referer is not None:
            origin = b"/".join(referer.split(b"/", 3)[:3])
            if is_listed(origin, self._origins) or is_same_origin(origin, seen.get(b"host", b"")):
                return
            raise _origin_error(origin)
        if b"upgrade-insecure-requests" in seen or is_browser(seen.get(b"user-agent", b"")):
            raise OriginNotAllowedError(
                "the browser does not say which page asks for this, which may load a model: "
                "follow a link on a page of this router, or use http://127.0.0.1, "
                "http://localhost or https"
            )

    @property
    def strip_headers(self) -> frozenset[bytes]:
        """Return the names of the fields with secrets of the router, which no backend gets.

        Without API keys ``Authorization`` is not one of them.
        """
        return _CREDENTIALS if self._keys else _ADMIN_CREDENTIALS

    def cors_fields(self, fields: Fields) -> Sequence[tuple[bytes, bytes]]:
        """Return the header fields of CORS for an answer to a request with *fields*.

        They let the page that sent it read the answer, if its origin is listed.
        """
        if not self._origins:
            return ()
        origin = next((value for name, value in fields if name == b"origin"), None)
        if origin is None or not is_listed(origin, self._origins):
            return ((b"vary", b"origin"),)
        exposed = (
            b"access-control-expose-headers",
            b"retry-after, x-should-retry, request-id, x-request-id",
        )
        return ((b"access-control-allow-origin", origin), (b"vary", b"origin"), exposed)

    def preflight_fields(self, fields: Fields) -> Sequence[tuple[bytes, bytes]] | None:
        """Return the header fields of the answer to a CORS preflight; None if it is not one.

        Raises:
            HostNotAllowedError: if ``Host`` is not a name of this router.
            OriginNotAllowedError: if the origin of the page is not listed.
        """
        seen = dict(fields)
        if b"origin" not in seen or b"access-control-request-method" not in seen:
            return None
        if (host := seen.get(b"host")) is not None:
            self._check_host(host)
        if not is_listed(seen[b"origin"], self._origins):
            raise _origin_error(seen[b"origin"])
        wanted = seen.get(b"access-control-request-headers", b"")
        return (
            *self.cors_fields(fields),
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", wanted if _FIELD_NAMES.fullmatch(wanted) else b""),
            (b"access-control-max-age", b"600"),
        )

    def _check_host(self, value: bytes) -> None:
        if not value:
            raise HostNotAllowedError(
                "the request does not say in 'Host' to which name or address it was sent"
            )
        host = host_of(value.decode("latin-1"))
        if host is None or not self._is_own_host(host):
            if host is not None and is_misleading(host):
                raise HostNotAllowedError(
                    f"{_quoted(value)} is another way to write an address of this machine, which "
                    "pages can use unnoticed: use 127.0.0.1 or the machine's own address, or add "
                    "it to router.allowed_hosts"
                )
            raise HostNotAllowedError(
                f"this router is not called {_quoted(value)}; if it should be, add the name "
                "to router.allowed_hosts"
            )
        if len(self._good_hosts) < _MAX_CACHED:
            self._good_hosts.add(value)

    def _is_own_host(self, host: str) -> bool:
        # A name without a dot is one of this network (of a container, often). It cannot be
        # owned on the internet, so it cannot be rebound.
        if "*" in self._hosts or canonical(host) in self._hosts:
            return True
        if address_of(host) is not None:  # it cannot be a rebound name
            return not is_misleading(host)
        return "." not in host or host.endswith(".localhost")

    def _check_origin(self, scope: Scope, method: bytes, seen: dict[bytes, bytes]) -> None:
        origin = seen.get(b"origin")
        site = seen.get(b"sec-fetch-site", b"")
        if origin is not None:
            if is_listed(origin, self._origins) or is_same_origin(origin, seen.get(b"host", b"")):
                return
        elif site in (b"", b"none", b"same-origin"):
            return  # typed into the address bar, or sent by a page of the router
        elif (
            scope is Scope.OPEN and method in _READS and seen.get(b"sec-fetch-mode") == b"navigate"
        ):
            return  # a link on another page
        raise _origin_error(origin)

    @property
    def changes_are_open(self) -> bool:
        """Return whether every caller that may use models may change them, too."""
        if self._models_api is ModelsApi.AUTO:
            return self._local
        return self._models_api is ModelsApi.OPEN

    def _check_metrics(self, seen: dict[bytes, bytes]) -> Caller:
        if self._metrics is MetricsAccess.OFF:
            raise MetricsOffError("this router gives no metrics (see router.metrics)")
        is_open = self._metrics is MetricsAccess.OPEN
        if is_open or (self._metrics is MetricsAccess.AUTO and self.opens_locally):
            return UNRESTRICTED
        return self._check_token(Scope.METRICS, seen)

    def _check_token(self, scope: Scope, seen: dict[bytes, bytes]) -> Caller:
        given = _given_token(seen)
        if given is None:
            # Not for `Scope.CHANGES`: no page of the dashboard asks for that, but a page that a
            # backend serves might.
            rights = self._signed_in(seen) if scope is Scope.ADMIN and b"cookie" in seen else None
            if rights is not None and rights.scope is Scope.ADMIN:
                return rights.caller
            raise AdminTokenError(
                "this needs the admin token, as 'Authorization: Bearer TOKEN' or 'X-Admin-Token'"
            )
        if hmac.compare_digest(_digest(given), self._token):
            return UNRESTRICTED
        caller = self._caller_with_key(given)
        if caller is None:
            raise AdminTokenError("this is not the admin token")
        if scope in (Scope.MCP, Scope.METRICS):
            if caller.mcp if scope is Scope.MCP else caller.metrics:
                return caller
            raise AdminTokenError(
                f"this needs the admin token, or an API key with {scope} = true in its table"
            )
        if scope is Scope.ADMIN:
            raise AdminTokenError("this needs the admin token; an API key does not do")
        raise AdminTokenError(
            "an API key does not do here: to load, unload, fetch or delete models, and to use "
            "paths of a backend that are not among its proxy_endpoints, needs the admin token "
            "(see router.models_api)"
        )

    def _check_key(self, seen: dict[bytes, bytes]) -> Caller:
        given = _given_key(seen)
        if given is None:
            if b"cookie" in seen and (rights := self._signed_in(seen)) is not None:
                return rights.caller
            raise ApiKeyError("this router needs an API key, as 'Authorization: Bearer KEY'")
        caller = self._caller_with_key(given)
        if caller is None:
            raise ApiKeyError("the API key is not known here")
        return caller

    def _caller_with_key(self, key: bytes) -> Caller | None:
        return self._caller_with_digest(_digest(key))

    def _caller_with_digest(self, digest: bytes) -> Caller | None:
        caller = None
        # All of them are compared, so that the time does not depend on the key.
        for known, its_caller in self._keys.items():
            if hmac.compare_digest(digest, known):
                caller = its_caller
        return caller


def _asking(caller: Caller, values: set[bytes]) -> Caller:
    """Return *caller* with the class that the *values* of its request ask for.

    Raises:
        RequestError: if there is no such class, or the request asks for several.
    """
    if len(values) > 1:
        listed = " and ".join(sorted(map(_quoted, values)))
        raise RequestError(
            f"the request has several fields 'X-Priority', {listed}: send one", param="X-Priority"
        )
    [value] = values
    try:
        priority = Priority(value.decode("latin-1").strip().lower())
    except ValueError:
        names = ", ".join(map(repr, map(str, Priority)))
        raise RequestError(
            f"'X-Priority' is {_quoted(value)}, which is no class: send one of {names}, or leave "
            "the field out",
            param="X-Priority",
        ) from None
    return attrs.evolve(caller, asked=priority)


def _origin_error(origin: bytes | None) -> OriginNotAllowedError:
    owner = "another site" if origin is None else f"the origin {_quoted(origin)}"
    return OriginNotAllowedError(
        f"a page of {owner} may not use this router; if it should, add its origin to "
        "router.cors_origins"
    )


def _value(fields: Fields, wanted: bytes) -> bytes:
    return next((value for name, value in fields if name == wanted), b"")


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _given_token(seen: dict[bytes, bytes]) -> bytes | None:
    return seen.get(b"x-admin-token") or _bearer(seen.get(b"authorization"))


def _given_key(seen: dict[bytes, bytes]) -> bytes | None:
    authorization = seen.get(b"authorization")
    return (
        _bearer(authorization)
        or seen.get(b"x-api-key")
        or seen.get(b"api-key")
        or (None if authorization is None else _password(authorization))
    )


def _password(value: bytes) -> bytes | None:
    """Return the password of ``Basic`` credentials, whatever the user's name; None without one.

    Source: RFC 7617, section 2.
    """
    if value[:6].lower() != b"basic " or len(value) > _MAX_BASIC_BYTES:
        return None
    try:
        decoded = base64.b64decode(value[6:].strip(b" "), validate=True)
    except binascii.Error:
        return None
    return decoded.partition(b":")[2] or None


def _bearer(value: bytes | None) -> bytes | None:
    # The scheme's name is case-insensitive. Source: RFC 9110, section 11.1.
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip(b" ") or None


def _quoted(value: bytes) -> str:
    """Return *value*, sent by a client, for a sentence: bounded and printable."""
    return repr(value[:100].decode("ascii", "replace"))
