"""A transport for httpx that reads a mebibyte at a time.

httpcore reads 64 KiB, which makes a fast download a third slower, and has no option for it.
Its connection pool takes the network streams from a backend, though, so this one's streams
read more than they are asked for.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from typing import Any, Final
from urllib.request import getproxies

import httpcore

from ..http_library import httpx

#: Size of one read, in bytes.
READ_BYTES: Final = 2**20


class LargeReadStream(httpcore.NetworkStream):
    """A stream that reads up to `READ_BYTES` at a time, however few are requested."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return the next bytes, perhaps more than *max_bytes*."""
        return self._stream.read(max(max_bytes, READ_BYTES), timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of *buffer*."""
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Return the encrypted stream, which reads as much at a time."""
        return LargeReadStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:  # noqa: ANN401 -- httpcore's signature
        """Return a property of the connection."""
        return self._stream.get_extra_info(info)


class LargeReadBackend(httpcore.SyncBackend):
    """Opens connections that read `READ_BYTES` at a time."""

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to *host*."""
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return LargeReadStream(stream)


class LargeReadTransport(httpx.HTTPTransport):
    """A transport without proxy; its connections read a mebibyte at a time."""

    def __init__(self) -> None:
        ssl_context = httpx.create_ssl_context()
        super().__init__(verify=ssl_context)
        # httpx does not promise this attribute: under another name reads would be small again.
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context, keepalive_expiry=5.0, network_backend=LargeReadBackend()
        )


def large_read_transport() -> LargeReadTransport | None:
    """Return the transport, or None if the environment names a proxy.

    httpx reads the proxies of the environment only if it makes all transports itself.
    """
    return None if getproxies().keys() - {"no"} else LargeReadTransport()
