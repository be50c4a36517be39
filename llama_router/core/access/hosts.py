"""Hosts in ``Host`` fields and settings: names and IP addresses, in all their spellings. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

#: Embedded IPv4 addresses: ``::ffff:127.0.0.1`` leads to the same sockets as ``127.0.0.1``.
_EMBEDDING: Final = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "::/96")))

_IPV6_LOOPBACK: Final = ipaddress.IPv6Address("::1")

_THIS_NETWORK: Final = ipaddress.IPv4Network("0.0.0.0/8")

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


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
        host = host[1:-1].lower()
        return host if isinstance(address_of(host), ipaddress.IPv6Address) else None
    if not host or any(c in ":/#@?\\[]%" or not "!" <= c <= "~" for c in host):
        return None
    return host.removesuffix(".").lower()


def address_of(host: str) -> _Address | None:
    """Return the IP address that *host* is; None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def canonical(host: str) -> str:
    """Return *host*; if it is an address, in its usual form and without brackets."""
    address = address_of(host.removeprefix("[").removesuffix("]"))
    return host if address is None else str(address)


def is_unspecified(host: str) -> bool:
    """Return whether *host* is the address that stands for all addresses of this machine."""
    address = address_of(host)
    return address is not None and address.is_unspecified


def is_misleading(host: str) -> bool:
    """Return whether *host* leads to this machine, or to IPv4, by an address not meant for that.

    Browsers do not treat such an address as the machine itself: they send no ``Sec-Fetch-Site``.
    """
    address = address_of(host)
    if isinstance(address, ipaddress.IPv6Address):
        embedded = any(address in network for network in _EMBEDDING)
        # Not is_loopback: from Python 3.13 on it is true of ::ffff:127.0.0.1, too.
        return embedded and address != _IPV6_LOOPBACK
    return address is not None and address in _THIS_NETWORK
