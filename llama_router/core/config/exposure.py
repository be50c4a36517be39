"""Check that a router reachable from other machines requires API keys. Pure."""

from __future__ import annotations

import ipaddress


def without_brackets(host: str) -> str:
    """Return *host* without the brackets around an IPv6 address, as in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a router that listens on *host*."""
    host = without_brackets(host)
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_fault(host: str, *, has_keys: bool, public_without_keys: bool) -> str | None:
    """Return the reason why a router must not listen on *host*; None if it may."""
    if is_loopback(host) or has_keys or public_without_keys:
        return None
    return (
        f"other machines can reach {host!r} and use every model: add API keys "
        "([api_keys.NAME]), or say public_without_keys = true"
    )
