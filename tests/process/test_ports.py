"""Ports are given out lowest first, and never one that somebody else uses."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest

from llama_router.backends import ports as module
from llama_router.backends.ports import Ports
from llama_router.errors.backends import SpawnError
from tests.process.harness import own_ports

pytestmark = pytest.mark.process


@pytest.fixture
def base():
    """Return the first of eight neighbouring free ports, below the ephemeral range."""
    for first in own_ports()[::8]:
        if all(module._is_free(port) for port in range(first, first + 8)):
            return first
    return pytest.fail("no free ports")


def test_lowest_first_and_each_once(base) -> None:
    """Ports count up from the base while none comes back."""
    ports = Ports(base)
    assert [ports.acquire() for _ in range(3)] == [base, base + 1, base + 2]
    assert ports.held == {base, base + 1, base + 2}


def test_released_port_is_used_again(base) -> None:
    """A port that came back is the lowest again."""
    ports = Ports(base)
    for _ in range(3):
        ports.acquire()
    ports.release(base + 1)
    assert ports.acquire() == base + 1
    assert ports.acquire() == base + 3


def test_release_of_a_free_port_is_a_bug() -> None:
    """Giving back twice would give one port to two backends."""
    with pytest.raises(KeyError):
        Ports(50000).release(50000)


def test_excluded_port_is_never_given_out(base) -> None:
    """The router's own port is free to bind, perhaps, and still not a backend's."""
    assert Ports(base, (base, base + 1)).acquire() == base + 2


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET, "127.0.0.2"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
@pytest.mark.parametrize("listens", [True, False])
def test_strangers_port_is_passed_over(base, family, host, listens) -> None:
    """Whoever has the port, on whatever address, keeps it; then it is free again."""
    ports = Ports(base)
    with socket.socket(family) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind((host, base))
        if listens:
            stranger.listen()
        assert ports.acquire() == base + 1
    assert ports.acquire() == base


def test_port_of_closed_connections_is_passed_over(base) -> None:
    """A port in TIME_WAIT cannot be bound by every program, so no program gets it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", base))
        server.listen()
        with socket.create_connection(("127.0.0.1", base)) as client:
            served, _ = server.accept()
            served.close()  # first, so its side keeps the port
            assert client.recv(1) == b""
    assert Ports(base).acquire() == base + 1


def test_lease_ends_with_its_block(base) -> None:
    """The port comes back even if the block fails."""
    ports = Ports(base)

    def fail() -> None:
        with ports.hold() as port:
            assert ports.held == {port}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert ports.held == frozenset()


def test_no_port_left() -> None:
    """The end of the range is an error that says so."""
    with pytest.raises(SpawnError, match="no free TCP port between 65535 and 65535"):
        Ports(65535, (65535,)).acquire()


def test_probe_leaves_the_port_bindable(base) -> None:
    """A plain server can take the port at once."""
    port = Ports(base).acquire()
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))


def test_machine_without_ipv6(base, monkeypatch) -> None:
    """Addresses that do not exist cannot be taken."""
    real = socket.socket

    def refuse(family, kind):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, kind)

    monkeypatch.setattr(socket, "socket", refuse)
    assert Ports(base).acquire() == base


def test_no_descriptor_to_probe_with(base) -> None:
    """Running out of files is not mistaken for a taken port."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(SpawnError, match="cannot probe TCP port"):
            Ports(base).acquire()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
