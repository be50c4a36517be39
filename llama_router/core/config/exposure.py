"""Whether a router may listen where it is told to. Pure."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach a router that listens on *host*."""
    if host.lower() == "localhost" or host.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exposure(host: str, *, has_keys: bool, public_without_keys: bool) -> str | None:
    """Say why a router must not listen on *host*, or return None if it may."""
    if is_loopback(host) or has_keys or public_without_keys:
        return None
    return (
        f"others can reach {host!r}, and everybody could use every model: add API keys "
        "([api_keys.NAME]), or say public_without_keys = true"
    )
