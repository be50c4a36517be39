"""The redirect from a model's name to the same path with a slash behind it."""

from __future__ import annotations

from urllib.parse import urljoin

import pytest

from llama_router.gateway.router_responses import slash_redirect
from llama_router.http1 import parse_request_head


@pytest.mark.parametrize("prefix", ["", "/llm", "/a/b"])
@pytest.mark.parametrize("name", ["tiny", "owner%2Frepo:Q4", "a:b", "user/repo:Q4"])
@pytest.mark.parametrize("query", ["", "?x=/1"])
def test_it_leads_below_the_prefix_of_a_proxy(prefix: str, name: str, query: str) -> None:
    """A browser that sees another path than the router ends up beside it, with a slash."""
    path = f"/upstream/{name}"
    data = f"GET {path}{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    head = parse_request_head(data)
    assert head is not None
    lines = slash_redirect(head, [], close=True).decode().split("\r\n")
    (location,) = [line.partition(": ")[2] for line in lines if line.startswith("location: ")]
    seen = f"http://proxy{prefix}{path}{query}"
    assert urljoin(seen, location) == f"http://proxy{prefix}{path}/{query}"
