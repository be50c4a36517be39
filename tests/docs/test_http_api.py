"""The HTTP API page and the OpenAPI document have every route of the admin API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from llama_router.control.admin import openapi
from llama_router.control.web import app
from llama_router.control.web.context import ControlContext
from llama_router.core.access.gate import Gate
from llama_router.core.apis.notices import KEEPALIVE_S
from llama_router.core.config.parse import parse_config
from llama_router.core.requests.request_target import SCANNED_BYTES
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.gateway.reader import IDLE_CONNECTION_S

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "http-api.md"


@pytest.fixture
async def document() -> dict[str, Any]:
    """Return the document; nothing in the context is used until a request comes."""
    config = parse_config({})
    fields = {field.name: None for field in attrs.fields(ControlContext)}
    given: dict[str, Any] = {
        **fields,
        "dispatcher": Dispatcher(config, None),  # type: ignore[arg-type]  # nothing is launched
        "gate": Gate(config, own_hosts=[], admin_token="x" * 16),
        "config_path": Path(),
        "state_dir": Path(),
        "started_s": 0.0,
    }
    await trio.lowlevel.checkpoint()
    return openapi.document(app.build_app(ControlContext(**given)))


async def test_the_page_and_the_document_have_the_same_routes(document) -> None:
    """No route is missing on either side."""
    written = set(re.findall(r"^\| ([A-Z]+) `(/admin/[^`?]*)", PAGE.read_text(), re.MULTILINE))
    actual = {
        (method.upper(), re.sub(r"\{(\w+)\}", lambda found: found[1].upper(), path))
        for path, methods in document["paths"].items()
        for method in methods
    }
    assert written == actual


async def test_every_route_is_described(document) -> None:
    """Each has a sentence for people, and says what it answers."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"].endswith("."), (method, path)
            assert {"200", "401", "403"} <= operation["responses"].keys()


def test_the_page_says_how_large_a_body_may_be_to_be_checked() -> None:
    """Above that, mistakes in JSON reach the backend."""
    assert f"JSON of more than {SCANNED_BYTES // 1024} KiB is not checked" in PAGE.read_text()


def test_the_page_says_how_long_silence_lasts() -> None:
    """Of streams that have nothing else to say, and of connections between two requests."""
    page = PAGE.read_text()
    assert page.count(f"every {KEEPALIVE_S:g} s") == 3
    assert f"| idle connection | {IDLE_CONNECTION_S:g} s |" in page
