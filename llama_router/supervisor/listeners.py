"""Listening sockets: opened by the router, or taken over from systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping

import attrs

from ..core.config.config import Config
from ..core.config.exposure import host_fault
from ..errors.base import RouterError
from ..gateway.server import listen
from ..logs.events import log
from ..systemd.activation import take_listeners


class PublicBindError(RouterError):
    """The address is public, no API key is set, and `public_without_keys` is false."""

    code = "public_bind_refused"


@attrs.frozen
class Listening:
    """The listening sockets of a router.

    Attributes:
        sockets: Each listens already.
        fixed: Whether systemd opened them; the configured addresses are then ignored.
        port: The port of the addresses that have none of their own.
    """

    sockets: list[socket.socket]
    fixed: bool
    port: int = 0


def open_listeners(config: Config, environ: Mapping[str, str]) -> Listening:
    """Return the sockets that systemd opened, or open those of the configuration.

    Raises:
        RouterError: if they cannot be opened, or if they would be public without API keys.
    """
    activated = take_listeners(environ, os.getpid())
    if activated is None:
        router = config.router
        for host in router.hosts:
            if fault := exposure_fault(host, config):
                raise PublicBindError(fault)
        opened = listen(router.addresses, router.port)
        return Listening(opened.sockets, fixed=False, port=opened.port)
    sockets = list(activated.listeners)
    urls = [url_of(listener) for listener in sockets]
    log.info("router.activated", urls=urls, names=activated.names)
    faults = [fault for host in hosts_of(sockets) if (fault := exposure_fault(host, config))]
    if faults:
        for listener in sockets:
            listener.close()
        raise PublicBindError(faults[0])
    return Listening(sockets, fixed=True)


def exposure_fault(host: str, config: Config) -> str | None:
    """Return why a router must not listen on *host*, or None if it may."""
    return host_fault(
        host,
        has_keys=bool(config.api_keys),
        public_without_keys=config.router.public_without_keys,
    )


def hosts_of(sockets: Iterable[socket.socket]) -> list[str]:
    """Return the IP addresses of *sockets*; UNIX sockets have none."""
    return [each.getsockname()[0] for each in sockets if each.family != socket.AF_UNIX]


def url_of(listener: socket.socket) -> str:
    """Return the base URL of *listener*."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
