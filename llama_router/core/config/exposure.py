"""The addresses to listen on, and the check that a router others can reach has API keys. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

#: An address with a port: ``127.0.0.1:8083``, ``box.lan:80``, ``[::1]:8083``.
_WITH_PORT: Final = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+):([0-9]{1,5})")

_MAX_PORT: Final = 65_535

_DEFAULT_PORTS: Final = MappingProxyType({"http": 80, "https": 443})


#: The beginning of the address of a UNIX socket; its path follows.
_UNIX: Final = "unix:"

#: Longest path of a UNIX socket, in bytes. Source: unix(7).
_MAX_PATH_BYTES: Final = 107


def socket_path(address: str) -> str | None:
    """Return the path of the UNIX socket that *address* names; None for any other address."""
    return address.removeprefix(_UNIX) if address.startswith(_UNIX) else None


def without_brackets(host: str) -> str:
    """Return *host* without the brackets around an IPv6 address, as in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def split_address(address: str) -> tuple[str, int | None]:
    """Return the host of *address*, without brackets, and its port; None if it has none."""
    if socket_path(address) is not None:
        return address, None
    found = _WITH_PORT.fullmatch(address)
    if found is None:
        return without_brackets(address), None
    return without_brackets(found[1]), int(found[2])


def address_fault(address: str) -> str | None:
    """Return the fault of an address to listen on; None if it may be one."""
    path = socket_path(address)
    if path is not None:
        if not path.startswith("/"):
            return "a UNIX socket needs a whole path: 'unix:/run/llama-router/socket'"
        is_long = len(path.encode("utf-8", "surrogateescape")) > _MAX_PATH_BYTES
        return f"the path of a UNIX socket has at most {_MAX_PATH_BYTES} bytes" if is_long else None
    host, port = split_address(address)
    if port is not None and port > _MAX_PORT:
        return f"the port must be from 0 to {_MAX_PORT}"
    if "[" in host or "]" in host or host.count(":") == 1:
        return "must be an address or a name, or one with a port: 'HOST:PORT', '[IPV6]:PORT'"
    return None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a router that listens on *host*.

    An IPv4 address in the form of IPv6 counts as one that others reach: browsers take it for one.
    A UNIX socket is of this machine.
    """
    if socket_path(host) is not None:
        return True
    host = without_brackets(host)
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # From Python 3.13 on, is_loopback alone is true of ::ffff:127.0.0.1, too.
    is_mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    return address.is_loopback and not is_mapped


def pages_fault(origin: str | None, hosts: Iterable[str], port: int) -> str | None:
    """Return why pages of backends cannot have *origin*; None if they can.

    Args:
        origin: The setting ``pages_origin``.
        hosts: The addresses to listen on, without ports.
        port: The port of addresses that name none.
    """
    if origin is None:
        return None
    scheme, _, authority = origin.lower().partition("://")
    host, own = split_address(authority)
    if host not in {"localhost", *hosts} or (own or _DEFAULT_PORTS[scheme]) != port:
        return None
    return (
        "is where the dashboard is: pages of backends need another port, which 'host' lists, too, "
        "or another name of this router"
    )


def host_fault(host: str, *, has_keys: bool, public_without_keys: bool) -> str | None:
    """Return the reason why a router must not listen on *host*; None if it may."""
    if is_loopback(host) or has_keys or public_without_keys:
        return None
    return (
        f"other machines can reach {host!r} and use every model: add API keys "
        "([api_keys.NAME]), or say public_without_keys = true"
    )
