"""Downloads read large pieces, and proxies of the environment still count."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import httpcore
import httpx
import pytest

from llama_router.hub.large_reads import (
    READ_BYTES,
    LargeReadStream,
    LargeReadTransport,
    large_read_transport,
)
from tests.hub_server import HubServer

pytestmark = pytest.mark.process


class FakeStream:
    """Remembers how many bytes are read at most."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def read(self, max_bytes: int, _timeout: float | None = None) -> bytes:
        self.sizes.append(max_bytes)
        return b""

    def start_tls(self, *_: object) -> FakeStream:
        return self


def test_reads_are_large_with_and_without_tls() -> None:
    """httpcore asks for less."""
    fake = FakeStream()
    stream = LargeReadStream(cast("httpcore.NetworkStream", fake))
    stream.read(65536)
    stream.start_tls(httpx.create_ssl_context()).read(65536)
    assert fake.sizes == [READ_BYTES, READ_BYTES]


def test_httpx_uses_these_streams(tmp_path: Path) -> None:
    """It keeps its connections in the attribute that the transport sets."""
    with (
        HubServer(tmp_path) as server,
        httpx.Client(transport=LargeReadTransport()) as client,
        client.stream("GET", f"{server.url}/x") as response,
    ):
        assert isinstance(response.extensions["network_stream"], LargeReadStream)


def test_a_proxy_of_the_environment_is_left_to_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a transport of its own, a client of httpx does not look for one."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "localhost")
    assert large_read_transport() is not None
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert large_read_transport() is None
