"""HTTP/1.1 on the wire, without I/O: the names that the gateway uses, in one place.

Requests are read strictly (whatever two parsers could understand differently is
refused), responses as RFC 9112 tells a gateway to. Nothing here waits, and nothing
but `RequestError` and `UpstreamError` is ever raised for what a peer sent.
"""

from .common import MAX_HEAD_BYTES, Fields
from .request import (
    ChunkedBody,
    LengthBody,
    RequestHead,
    parse_request_head,
    upstream_request_head,
)
from .response import (
    Dechunker,
    Framing,
    ResponseFraming,
    ResponseHead,
    client_response_head,
    parse_response_head,
)

__all__ = [
    "MAX_HEAD_BYTES",
    "ChunkedBody",
    "Dechunker",
    "Fields",
    "Framing",
    "LengthBody",
    "RequestHead",
    "ResponseFraming",
    "ResponseHead",
    "client_response_head",
    "parse_request_head",
    "parse_response_head",
    "upstream_request_head",
]
