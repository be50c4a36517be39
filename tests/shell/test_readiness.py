"""What a probe sees is said in words, whatever it is."""

import errno
import os

import pytest

from llama_router.backends import launch, proctree, readiness


def no_more_files(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_a_probe_without_a_socket_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """When too many files are open, the start goes on: the next probe may have a socket."""
    monkeypatch.setattr(readiness.socket, "socket", no_more_files)
    assert await readiness.probe("127.0.0.1", 1, "/health") == "Too many open files"


def test_who_cannot_be_found_out_is_no_stranger_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """When /proc cannot be read just now, that is said, and the start goes on."""
    monkeypatch.setattr(proctree, "listener_owner", no_more_files)
    assert "Too many open files" in (launch._stranger_on(1, 1) or "")
