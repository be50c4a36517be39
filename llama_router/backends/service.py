"""A service that the router did not start: one question about its health, and requests to it."""

from __future__ import annotations

import math
import socket
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from typing import Final

import attrs
import msgspec
import trio

from ..core.access.hosts import address_of
from ..core.config.kinds import name_fault
from ..core.config.names import ModelId
from ..core.config.service import HEALTH_ENDPOINTS, KEY_FIELDS, Service, is_pattern, key_fault
from ..core.config.specs import SERVICE_SPAWN, ModelSpec
from ..core.services.health import Finding
from ..errors.backends import UpstreamError, UpstreamTimeoutError
from ..files.contents import read_up_to
from ..threads import in_thread
from .client import fetch
from .upstream import Upstream

#: Longest answer to a question about health, in bytes; it may be a list of models.
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024

#: Most names of one list of models that are used.
MAX_NAMES: Final = 1000

#: Longest of them, in characters.
_MAX_NAME: Final = 256

#: The list of models, in OpenAI's API.
_LIST: Final = "/v1/models"

#: Longest file with a key, in bytes.
_MAX_KEY_BYTES: Final = 64 * 1024

#: By these a server says that it does not know the path, or not for GET.
_UNKNOWN_PATH: Final = frozenset((HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED))

#: By these it says that the key is missing or wrong.
_DENIED: Final = frozenset((HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN))


#: Settings of a question, which is about no model.
_NO_SPEC: Final = ModelSpec(id=ModelId(""), spawn=SERVICE_SPAWN)


@attrs.frozen(kw_only=True)
class Route:
    """How a service is reached now: its address, resolved, and the key.

    Attributes:
        host: Address, or the path of a Unix socket.
        key: The key that it gets; None for no key.
    """

    host: str
    key: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class Answer:
    """What a question about health found.

    Attributes:
        finding: Whether it serves.
        reason: What was seen, as the end of a sentence about the service; empty if it serves.
        route: How it was reached; None if it was not.
    """

    finding: Finding
    reason: str = ""
    route: Route | None = None


def service_upstream(spec: ModelSpec, route: Route) -> Upstream:
    """Return the service of *spec* for requests, reached by *route*."""
    service = spec.service
    assert service is not None, "a service serves the model"
    title = f"the service of model {str(spec.id)!r} at {service.url}"
    return _reached(service, route, spec, title=title, at_s=trio.current_time())


async def ask(service: Service, *, environ: Mapping[str, str], timeout_s: float) -> Answer:
    """Ask *service* for its health; return what was found.

    Args:
        service: The service.
        environ: The environment, which may hold its key.
        timeout_s: Seconds allowed for the resolution of its name, and again for its answer.
    """
    key: str | None = None
    hosts: list[str] = []
    with trio.move_on_after(timeout_s) as looking:
        try:
            key = await _read_key(service, environ)
            hosts = await _addresses(service)
        except _UnusableError as exc:
            return Answer(exc.finding, str(exc))
    if looking.cancelled_caught:
        return Answer(Finding.FAILS, f"cannot be asked: its name took over {timeout_s:g} s")
    answer = Answer(Finding.FAILS, "cannot be found: its name has no address")
    for host in hosts:
        route = Route(host=host, key=key)
        answer = await _ask_at(service, route, timeout_s / len(hosts))
        if answer.route is not None:
            break
    return answer


async def list_models(
    service: Service, *, environ: Mapping[str, str], timeout_s: float
) -> tuple[str, ...]:
    """Return the names in the list of models of *service*, sorted.

    Names that no client could use are left out, and so are those beyond `MAX_NAMES`.

    Args:
        service: The service.
        environ: The environment, which may hold its key.
        timeout_s: As for `ask`.

    Raises:
        UpstreamError: if it gives none now; the message is the end of a sentence about it.
    """
    answer = await ask(service, environ=environ, timeout_s=timeout_s)
    if answer.finding is not Finding.SERVES or answer.route is None:
        raise UpstreamError(answer.reason)
    probe = _probe(service, answer.route)
    try:
        response = await fetch(probe, _LIST, max_bytes=MAX_ANSWER_BYTES, timeout_s=timeout_s)
    except UpstreamError as exc:
        raise UpstreamError(_symptom(exc, probe)) from exc
    if response.status != HTTPStatus.OK:
        raise UpstreamError(f"answered {_LIST} with status {response.status}")
    try:
        listed = msgspec.json.decode(response.body, type=_ModelList).data
    except (msgspec.DecodeError, ValueError) as exc:
        raise UpstreamError(f"answered {_LIST} with no list of models: {exc}") from None
    names = {each.id for each in listed if len(each.id) <= _MAX_NAME and is_usable_name(each.id)}
    return tuple(sorted(names)[:MAX_NAMES])


class _ListedModel(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_ListedModel]


def is_usable_name(name: str) -> bool:
    """Return whether *name* can be one of a model here; ``*`` would make it a pattern."""
    return name_fault(name) is None and not is_pattern(name)


class _UnusableError(Exception):
    """The service cannot be asked; the message is the end of a sentence about it.

    Attributes:
        finding: What that says about its health. A name that cannot be resolved now says little.
    """

    def __init__(self, message: str, finding: Finding = Finding.REFUSES) -> None:
        super().__init__(message)
        self.finding = finding


async def _ask_at(service: Service, route: Route, timeout_s: float) -> Answer:
    """Ask *service* at one address; the answer has a route if something answered there."""
    endpoint = service.health_endpoint
    probe = _probe(service, route)
    for path in HEALTH_ENDPOINTS if endpoint is None else (endpoint,):
        try:
            response = await fetch(probe, path, max_bytes=MAX_ANSWER_BYTES, timeout_s=timeout_s)
        except UpstreamTimeoutError:
            return Answer(Finding.FAILS, f"did not answer {path} within {timeout_s:g} s")
        except UpstreamError as exc:
            hint = "start it, or correct its url"
            return Answer(Finding.REFUSES, f"{_symptom(exc, probe)}; {hint}")
        if endpoint is None and response.status in _UNKNOWN_PATH and path != HEALTH_ENDPOINTS[-1]:
            continue
        return _judged(response.status, path, route)
    raise AssertionError("the last path was judged")


def _judged(status: int, path: str, route: Route) -> Answer:
    """Return what the *status* of the answer to *path* means."""
    if 200 <= status < 300:
        return Answer(Finding.SERVES, route=route)
    answered = f"answered {path} with status {status}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer(Finding.FAILS, answered, route)
    if status in _DENIED:
        wrong = "it wants a key: set 'key' or 'key_file'" if route.key is None else "wrong key"
        return Answer(Finding.REFUSES, f"{answered}: {wrong}", route)
    if status in _UNKNOWN_PATH:
        answered += ": set 'health_endpoint' to a path that it has, or correct the url"
    return Answer(Finding.REFUSES, answered, route)


def _probe(service: Service, route: Route) -> Upstream:
    return _reached(service, route, _NO_SPEC, title="it")


def _reached(
    service: Service, route: Route, spec: ModelSpec, *, title: str, at_s: float = math.nan
) -> Upstream:
    """Return *service*, reached by *route*, as what serves *spec* since *at_s*."""
    address = service.address
    return Upstream(
        model=spec.id,
        spec=spec,
        host=route.host,
        port=address.port,
        spawned_s=at_s,
        ready_s=at_s,
        prefix=address.prefix.encode(),
        own_fields=_fields(route.key),
        strips=KEY_FIELDS if route.key is not None else frozenset(),
        authority=address.authority.encode(),
        title=title,
    )


def _symptom(exc: UpstreamError, probe: Upstream) -> str:
    """Return what went wrong, as the end of a sentence about the service."""
    return str(exc).removeprefix(f"{probe.title} ").removeprefix("failed: it ")


def _fields(key: str | None) -> tuple[tuple[bytes, bytes], ...]:
    return () if key is None else ((b"Authorization", b"Bearer " + key.encode()),)


async def _read_key(service: Service, environ: Mapping[str, str]) -> str | None:
    """Return the key that *service* gets; None for no key.

    Raises:
        _UnusableError: if there is to be one, and it cannot be had.
    """
    if (name := service.key_variable) is not None:
        if (key := environ.get(name)) is None:
            raise _UnusableError(f"cannot be asked: the variable {name} of its key is not set")
        return _checked(key, f"the variable {name}")
    if service.key_file is None:
        return service.key
    try:
        data = await in_thread(
            partial(read_up_to, service.key_file, _MAX_KEY_BYTES), abandon_on_cancel=True
        )
    except OSError as exc:
        reason = exc.strerror or exc
        raise _UnusableError(f"cannot be asked: its key_file cannot be read: {reason}") from None
    return _checked(data.decode("latin-1").strip(), "its key_file")


def _checked(key: str, source: str) -> str:
    if "${" in key or key_fault(key) is not None:
        raise _UnusableError(f"cannot be asked: {source} holds no key of visible ASCII characters")
    return key


async def _addresses(service: Service) -> list[str]:
    """Return the addresses of *service*, in the order in which they are tried.

    Raises:
        _UnusableError: if its name has none.
    """
    address = service.address
    if address.is_path or address_of(address.host) is not None:
        return [address.host]
    try:
        found = await in_thread(
            partial(socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
        )
    except socket.gaierror as exc:
        reason = f"cannot be found: {address.host}: {exc.strerror}"
        raise _UnusableError(reason, Finding.FAILS) from None
    except (OSError, UnicodeError) as exc:
        reason = f"cannot be found: {address.host}: {exc}"
        raise _UnusableError(reason, Finding.FAILS) from None
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
