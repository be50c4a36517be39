"""The user at the other end of a connection within this machine."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from llama_router.process.peer_user import user_of_peer

pytestmark = pytest.mark.process

STRANGER = 54321


@contextmanager
def connection(
    host: str, family: int = socket.AF_INET, *, uid: int | None = None, to: str | None = None
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two ends of a connection to a listener on *host*: its own, and the client's."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(family))
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, 0))
        listener.listen()
        libc = ctypes.CDLL(None)
        former = None if uid is None else libc.setfsuid(uid)  # of this thread only
        try:
            client = stack.enter_context(socket.socket(family if to is None else socket.AF_INET))
        finally:
            if former is not None:
                libc.setfsuid(former)
        client.connect((to or host, listener.getsockname()[1]))
        own = stack.enter_context(listener.accept()[0])
        yield own, client


def user_of(own: socket.socket) -> int | None:
    return user_of_peer(own.getsockname()[:2], own.getpeername()[:2])


@pytest.mark.parametrize(
    ("host", "family", "to"),
    [
        ("127.0.0.1", socket.AF_INET, None),
        ("127.8.9.10", socket.AF_INET, None),
        ("::1", socket.AF_INET6, None),
        ("::", socket.AF_INET6, "127.0.0.1"),
    ],
)
def test_it_is_the_user_that_opened_the_socket(host, family, to) -> None:
    """By every address of loopback, also that of IPv4 on a socket of IPv6."""
    with connection(host, family, to=to) as (own, _):
        assert user_of(own) == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_another_user() -> None:
    """Although the router's process accepted the connection."""
    with connection("127.0.0.1", uid=STRANGER) as (own, _):
        assert user_of(own) == STRANGER


@pytest.mark.parametrize("how", ["half", "closed"])
def test_what_is_left_of_a_connection_has_no_user(how) -> None:
    """The kernel says root of it, whoever had opened it."""
    with connection("127.0.0.1") as (own, client):
        here, there = own.getsockname(), own.getpeername()
        if how == "half":
            client.shutdown(socket.SHUT_WR)
        else:
            client.close()
        assert user_of_peer(here, there) is None


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (("127.0.0.1", 1), ("192.0.2.1", 2)),
        (("192.0.2.1", 1), ("192.0.2.1", 2)),
        (("127.0.0.1", 1), ("127.0.0.1", 2)),
        (("", 1), ("router", 2)),
    ],
)
def test_others_have_no_user(here, there) -> None:
    """A client on another machine, one that does not exist, and what is no address."""
    assert user_of_peer(here, there) is None
