"""HTTP/1.1 without I/O: `request` and `response` for heads, `framing` for bodies.

Requests are parsed strictly: a message that two parsers could understand differently is
refused. Responses are parsed as RFC 9112 requires of a gateway. Nothing here waits, and
invalid input raises only `RequestError` or `UpstreamError`.
"""

from .fields import MAX_HEAD_BYTES, Fields
from .framing import ChunkedBody, Dechunker, Framing, LengthBody, ResponseFraming
from .repeats import RequestHeads, ResponseHeads
from .request import (
    RequestHead,
    end_to_end_fields,
    parse_request_head,
    upstream_request_head,
    with_cookies,
)
from .response import (
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
    "RequestHeads",
    "ResponseFraming",
    "ResponseHead",
    "ResponseHeads",
    "client_response_head",
    "end_to_end_fields",
    "parse_request_head",
    "parse_response_head",
    "upstream_request_head",
    "with_cookies",
]
