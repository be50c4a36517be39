"""Who may ask for what: tokens, API keys, hosts and origins. Pure.

One `Gate` decides for both planes. It is asked before a body is read, with the head's
fields as they came. Everything is forbidden that no rule allows.

A page in a browser is the attacker that matters for a router on a desk: the browser runs
on the inside. Two checks keep it out, whether or not keys are set. ``Host`` must be a
name that this router has, or an address: a page whose own name was rebound to our address
still sends its own name. And a request that a browser sends for another origin must come
from an origin that ``cors_origins`` lists.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

import attrs

from ...errors.access import (
    AdminTokenError,
    ApiKeyError,
    HostNotAllowedError,
    MediaTypeError,
    OriginNotAllowedError,
)
from ...errors.admission import UnknownModelError
from ..config.config import Config
from ..config.exposure import is_loopback
from ..config.names import ResolvedModel
from ..config.specs import ModelsApi, ModelSpec
from ..scheduling import refusals

Fields: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Header fields: lower-cased name and value."""


class Scope(StrEnum):
    """What a route gives access to."""

    OPEN = "open"  # a page without data, for anybody
    MODELS = "models"  # models and their list: an API key, if any is configured
    CHANGES = "changes"  # load, unload, fetch, delete as llama.cpp's API has it: see models_api
    ADMIN = "admin"  # everything else: the admin token, always


@attrs.frozen
class Caller:
    """Whoever sent a request.

    Attributes:
        name: Of the API key; None if none was needed.
        models: Names and patterns of the models that it may use; None for all.
    """

    name: str | None = None
    models: tuple[str, ...] | None = None

    def may_use(self, spec: ModelSpec) -> bool:
        """Say whether it may use the model, under its id or any alias."""
        if self.models is None:
            return True
        names = (str(spec.id), *spec.aliases)
        return any(fnmatchcase(name, pattern) for pattern in self.models for name in names)

    def find(self, config: Config, name: str) -> ResolvedModel | None:
        """Return what *name* means to this asker; None if nothing."""
        meaning = config.find(name)
        if meaning is None or self.may_use(config.models[meaning.model]):
            return meaning
        return None

    def check_model(self, spec: ModelSpec, name: str, config: Config) -> None:
        """Refuse a model that it may not use, as if there were none of that name.

        Args:
            spec: The model.
            name: What the request called it.
            config: The configuration in force.

        Raises:
            UnknownModelError: if it may not.
        """
        if not self.may_use(spec):
            raise self.unknown(name, config)

    def unknown(self, name: str, config: Config) -> UnknownModelError:
        """Return the answer to *name*, which is that of no model, or of none for this asker.

        It is the same in both cases: a key does not tell what else there is.
        """
        if self.models is None:
            return refusals.unknown(name, config)
        usable = [model for model, spec in config.models.items() if self.may_use(spec)]
        return refusals.unknown_to_key(name, config, usable)


ANYBODY: Final = Caller()

_CREDENTIALS: Final = frozenset((b"authorization", b"x-api-key", b"x-admin-token"))
_ADMIN_CREDENTIALS: Final = frozenset((b"x-admin-token",))
_LOOKED_AT: Final = _CREDENTIALS | {b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode"}
_READS: Final = frozenset((b"GET", b"HEAD"))

#: What browsers say of themselves, and programs do not.
_OF_BROWSERS: Final = frozenset((b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode"))

#: What curl says of everything that it is given with ``-d``, and who says nothing.
_NOT_SAID: Final = frozenset((b"application/x-www-form-urlencoded", b""))

#: A list of field names.
_NAMES: Final = re.compile(rb"[A-Za-z0-9_-]+(?:[ \t]*,[ \t]*[A-Za-z0-9_-]+)*")

#: Values of ``Host`` that are remembered as good, so that they are parsed once.
_MAX_REMEMBERED: Final = 64


class Gate:
    """Applies the rules of the configuration in force.

    Args:
        config: Whose rules.
        own_hosts: Further names of this machine.
        admin_token: What is valid unless the configuration sets another one.
    """

    def __init__(self, config: Config, *, own_hosts: Iterable[str], admin_token: str) -> None:
        self._own_hosts = frozenset(host.lower() for host in own_hosts)
        self._fallback_token = admin_token
        self._listening: tuple[str, ...] = ()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Apply the rules of *config* from now on."""
        router = config.router
        self._token = _digest((router.admin_token or self._fallback_token).encode())
        self._keys = {
            bytes.fromhex(key.sha256): Caller(name, key.models)
            for name, key in config.api_keys.items()
        }
        self._hosts = {"localhost", router.host.lower(), *self._own_hosts}
        self._hosts |= {host.lower() for host in router.allowed_hosts}
        self._origins = frozenset(origin.lower() for origin in router.cors_origins)
        self._good_hosts: set[bytes] = set()
        self._models_api = router.models_api
        self._local = all(map(is_loopback, self._listening or (router.host,)))

    def listens_on(self, hosts: Iterable[str]) -> None:
        """Note the addresses at which others find this router."""
        self._listening = tuple(hosts)
        self._local = all(map(is_loopback, self._listening))

    @property
    def has_keys(self) -> bool:
        """Whether models need an API key."""
        return bool(self._keys)

    def check(self, area: Scope, method: bytes, fields: Fields) -> Caller:
        """Let a request pass, or refuse it.

        Args:
            area: What it asks for.
            method: As received.
            fields: Its header fields.

        Raises:
            HostNotAllowedError: if it was sent to a name that this router does not have.
            OriginNotAllowedError: if a page of another origin sent it.
            AdminTokenError: if it needs the admin token and has not got it.
            ApiKeyError: if it needs an API key and has not got a valid one.
        """
        seen = {name: value for name, value in fields if name in _LOOKED_AT}
        host = seen.get(b"host")
        if host is not None and host not in self._good_hosts:
            self._check_host(host)
        if b"origin" in seen or b"sec-fetch-site" in seen:
            self._check_origin(area, method, seen)
        if area is Scope.OPEN:
            return ANYBODY
        if area is Scope.ADMIN or (area is Scope.CHANGES and not self.changes_are_open):
            return self._check_token(area, seen)
        return self._check_key(seen) if self._keys else ANYBODY

    @property
    def withheld(self) -> frozenset[bytes]:
        """Names of the fields that no backend may see: the router's own secrets.

        Without API keys ``Authorization`` is none of the router's business, and passes.
        """
        return _CREDENTIALS if self._keys else _ADMIN_CREDENTIALS

    def cors_fields(self, fields: Fields) -> Sequence[tuple[bytes, bytes]]:
        """Return what lets the page that sent *fields* read the answer, if it is listed."""
        if not self._origins:
            return ()
        origin = next((value for name, value in fields if name == b"origin"), None)
        if origin is None or not self._is_listed(origin):
            return ((b"vary", b"origin"),)
        exposed = (b"access-control-expose-headers", b"retry-after, request-id, x-request-id")
        return ((b"access-control-allow-origin", origin), (b"vary", b"origin"), exposed)

    def preflight_fields(self, fields: Fields) -> Sequence[tuple[bytes, bytes]] | None:
        """Return the answer to a browser that asks before it lets a page send a request.

        Returns:
            None if this is no such question.

        Raises:
            HostNotAllowedError: if it was sent to a name that this router does not have.
            OriginNotAllowedError: if the page's origin is not listed.
        """
        seen = dict(fields)
        if b"origin" not in seen or b"access-control-request-method" not in seen:
            return None
        if (host := seen.get(b"host")) is not None:
            self._check_host(host)
        if not self._is_listed(seen[b"origin"]):
            raise _strange_origin(seen[b"origin"])
        wanted = seen.get(b"access-control-request-headers", b"")
        return (
            *self.cors_fields(fields),
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", wanted if _NAMES.fullmatch(wanted) else b""),
            (b"access-control-max-age", b"600"),
        )

    def _is_listed(self, origin: bytes) -> bool:
        return "*" in self._origins or origin.decode("latin-1").lower() in self._origins

    def _check_host(self, value: bytes) -> None:
        if not value:
            raise HostNotAllowedError(
                "the request does not say in 'Host' to which name or address it was sent"
            )
        host = host_of(value.decode("latin-1"))
        if host is None or not self._is_ours(host):
            raise HostNotAllowedError(
                f"this router is not called {_shown(value)}; if it should be, add the name "
                "to router.allowed_hosts"
            )
        if len(self._good_hosts) < _MAX_REMEMBERED:
            self._good_hosts.add(value)

    def _is_ours(self, host: str) -> bool:
        # A name without a dot is one of this network (of a container, often): nobody on the
        # internet can own one, and so none can be rebound.
        return (
            "." not in host
            or host in self._hosts
            or "*" in self._hosts
            or host.endswith(".localhost")
            or _is_address(host)
        )

    def _check_origin(self, area: Scope, method: bytes, seen: dict[bytes, bytes]) -> None:
        origin = seen.get(b"origin")
        site = seen.get(b"sec-fetch-site", b"")
        if origin is not None:
            if self._is_listed(origin) or _is_same_origin(origin, seen.get(b"host", b"")):
                return
        elif site in (b"", b"none", b"same-origin"):
            return  # typed by a person, or sent by our own page
        elif area is Scope.OPEN and method in _READS and seen.get(b"sec-fetch-mode") == b"navigate":
            return  # a link on somebody's page
        raise _strange_origin(origin)

    @property
    def changes_are_open(self) -> bool:
        """Whether everybody who may use models may change them, too."""
        if self._models_api is ModelsApi.AUTO:
            return self._local
        return self._models_api is ModelsApi.OPEN

    def _check_token(self, area: Scope, seen: dict[bytes, bytes]) -> Caller:
        given = seen.get(b"x-admin-token") or _bearer(seen.get(b"authorization"))
        if given is None:
            raise AdminTokenError(
                "this needs the admin token, as 'Authorization: Bearer TOKEN' or 'X-Admin-Token'"
            )
        if hmac.compare_digest(_digest(given), self._token):
            return ANYBODY
        if self._owner_of(given) is None:
            raise AdminTokenError("this is not the admin token")
        if area is Scope.ADMIN:
            raise AdminTokenError("this needs the admin token; an API key does not do")
        raise AdminTokenError(
            "an API key does not do here: to load, unload, fetch or delete models, and to use "
            "paths of a backend that are not among its proxy_endpoints, needs the admin token "
            "(see router.models_api)"
        )

    def _check_key(self, seen: dict[bytes, bytes]) -> Caller:
        given = _bearer(seen.get(b"authorization")) or seen.get(b"x-api-key")
        if given is None:
            raise ApiKeyError("this router needs an API key, as 'Authorization: Bearer KEY'")
        asker = self._owner_of(given)
        if asker is None:
            raise ApiKeyError("the API key is not known here")
        return asker

    def _owner_of(self, key: bytes) -> Caller | None:
        digest = _digest(key)
        asker = None
        for known, owner in self._keys.items():  # all of them: how long it takes says nothing
            if hmac.compare_digest(digest, known):
                asker = owner
        return asker


def check_says_json(fields: Fields, body: bytes) -> None:
    """Let a body pass that is said to be JSON; also one of which nobody thought to say it.

    Without asking before, a page of another site can send any bytes, but not say that they
    are JSON. `Gate.check` refuses such a page as it is; this is a second wall behind that. So
    only what bears no sign of a browser, not even of an old one, need not say it.

    Args:
        fields: The header fields of the request.
        body: The body, which is not empty.

    Raises:
        MediaTypeError: if it does not pass.
    """
    seen = dict(fields)
    kind = seen.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return
    browser = seen.get(b"user-agent", b"").lower().startswith(b"mozilla/")
    if browser or seen.keys() & _OF_BROWSERS or kind not in _NOT_SAID or body.lstrip()[:1] != b"{":
        raise MediaTypeError("the body must be JSON; send 'Content-Type: application/json'")


def _strange_origin(origin: bytes | None) -> OriginNotAllowedError:
    whose = "another site" if origin is None else f"the origin {_shown(origin)}"
    return OriginNotAllowedError(
        f"a page of {whose} may not use this router; if it should, add its origin to "
        "router.cors_origins"
    )


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _bearer(value: bytes | None) -> bytes | None:
    # The scheme's name is case-insensitive. Source: RFC 9110, section 11.1.
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip(b" ") or None


def _shown(value: bytes) -> str:
    """Return what a client sent, for a sentence: bounded, without anything unprintable."""
    return repr(value[:100].decode("ascii", "replace"))


def host_of(value: str) -> str | None:
    """Return the host in a ``Host`` field, lower-cased, without port, brackets and end dot.

    Returns:
        None if *value* is not a host and perhaps a port. Source: RFC 9110, section 7.2.
    """
    host, colon, port = value.rpartition(":")
    if not colon or value.endswith("]"):
        host, port = value, ""
    if (port and not (port.isascii() and port.isdigit())) or (colon and not host):
        return None
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1].lower()
    if not host or any(c in ":/#@?\\[]%" or not "!" <= c <= "~" for c in host):
        return None
    return host.removesuffix(".").lower()


def _is_address(host: str) -> bool:
    """Say whether *host* is an IP address: no page can have one as its rebound name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_same_origin(origin: bytes, host: bytes) -> bool:
    """Say whether a page of *origin* was served under this very host and port."""
    scheme, separator, authority = origin.decode("latin-1").lower().partition("://")
    if not separator or scheme not in ("http", "https"):
        return False
    default = ":80" if scheme == "http" else ":443"
    ours = host.decode("latin-1").lower()
    return authority.removesuffix(default) == ours.removesuffix(default)
