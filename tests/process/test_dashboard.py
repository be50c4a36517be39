"""GET /ui/: the files of the dashboard, for browsers."""

from __future__ import annotations

import gzip

import pytest
import trio

from tests.process.harness import Router, request
from tests.process.real import LIMIT_S

pytestmark = pytest.mark.process


@pytest.fixture
async def router(start) -> Router:
    """A router without models."""
    with trio.fail_after(LIMIT_S):
        return await start({})


async def test_the_page_may_load_only_what_the_router_serves(router) -> None:
    """Nothing inline, no other host, no frame around it."""
    answer = await router.ask(request("GET", "/ui/"))
    assert answer.status == 200
    assert answer.fields["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1) for part in answer.fields["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert answer.fields["x-content-type-options"] == "nosniff"
    assert b"<script>" not in answer.body
    assert b"<style" not in answer.body


async def test_a_file_is_sent_compressed_and_only_once(router) -> None:
    """A browser that has a file gets 304 for it."""
    plain = await router.ask(request("GET", "/ui/"))
    packed = await router.ask(request("GET", "/ui/", accept_encoding="gzip, br"))
    assert packed.fields["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert packed.fields["etag"] != plain.fields["etag"]
    again = await router.ask(
        request("GET", "/ui/", accept_encoding="gzip", if_none_match=packed.fields["etag"])
    )
    assert (again.status, again.body) == (304, b"")
    assert again.fields["etag"] == packed.fields["etag"]


async def test_head_has_the_fields_only(router) -> None:
    """The length is that of the body, which is not sent."""
    page = await router.ask(request("GET", "/ui/"))
    client = await router.connect()
    await client.send(request("HEAD", "/ui/"))
    head = await client.answer(bodiless=True)
    assert head.status == 200
    assert head.fields["content-length"] == str(len(page.body))


async def test_the_address_without_a_slash_leads_to_the_page(router) -> None:
    """Relative, so that it holds behind a proxy that adds a prefix."""
    answer = await router.ask(request("GET", "/ui"))
    assert (answer.status, answer.fields["location"]) == (308, "ui/")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../routes.py",
        "/ui/%2e%2e/routes.py",
        "/ui/..%2froutes.py",
        "/ui/%2fetc/passwd",
        "/ui//etc/passwd",
        "/ui/.hidden.js",
        "/ui/none.js",
        "/ui/index.html/",
        "/ui/index.html%00.js",
        "/ui/" + "a" * 300 + ".js",
    ],
)
async def test_nothing_else_is_served(router, path) -> None:
    """No path leaves the folder."""
    answer = await router.ask(request("GET", path))
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_a_page_of_another_site_gets_no_file(router) -> None:
    """It may lead there by a link."""
    asked = {"sec_fetch_site": "cross-site"}
    answer = await router.ask(request("GET", "/ui/", sec_fetch_mode="no-cors", **asked))
    assert answer.status == 403
    answer = await router.ask(request("GET", "/ui/", sec_fetch_mode="navigate", **asked))
    assert answer.status == 200
