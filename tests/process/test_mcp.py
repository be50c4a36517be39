"""The Model Context Protocol at /mcp, as the official client uses it, in both of its kinds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from tests.limits import LIMIT_S
from tests.process.harness import Answer, Router, request
from tests.process.test_admin import token_of

pytestmark = pytest.mark.process

KINDS = pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
KEY = "sk-of-an-agent"


@asynccontextmanager
async def connected(
    router: Router, *, mode: Any = "auto", secret: str | None = None
) -> AsyncGenerator[Client]:
    """Connect the official client, with the admin token or another secret."""
    fields = {"authorization": f"Bearer {secret or token_of(router)}"}
    async with (
        httpx2.AsyncClient(headers=fields, trust_env=False, timeout=LIMIT_S) as http,
        Client(streamable_http_client(f"{router.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


async def sent(router: Router, message: Any, **fields: str) -> Answer:
    """Send one message with the admin token."""
    fields = {"authorization": f"Bearer {token_of(router)}", **fields}
    fields.setdefault("content_type", "application/json")
    fields.setdefault("accept", "application/json, text/event-stream")
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return await router.ask(request("POST", "/mcp", body, **fields))


def text_of(result: CallToolResult) -> str:
    """Return the only text of a result."""
    (content,) = result.content
    assert content.type == "text"
    return content.text


@KINDS
async def test_a_client_sees_and_loads_models(start, stage, mode) -> None:
    """It lists the tools, loads a model by one, and sees it ready."""
    router = await start({"a": stage.model("a"), "b": stage.model("b")}, mcp=True)
    async with connected(router, mode=mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools["load_model"].input_schema["required"] == ["model"]
        assert tools["list_models"].annotations.read_only_hint
        before = await client.call_tool("list_models", {})
        loaded = await client.call_tool("load_model", {"model": "b"})
        after = await client.call_tool("explain_model", {"model": "b"})
    assert [model["phase"] for model in before.structured_content["models"]] == ["stopped"] * 2
    assert loaded.structured_content["ready"]
    assert after.structured_content["model"]["phase"] == "ready"
    assert json.loads(text_of(after)) == after.structured_content


@KINDS
async def test_the_documentation_is_at_hand(start, stage, mode) -> None:
    """A search finds the setting, and the page that has it can be read in two ways."""
    router = await start({"a": stage.model("a")}, mcp=True)
    async with connected(router, mode=mode) as client:
        found = await client.call_tool("search_docs", {"query": "ttl_s idle unload"})
        topics = {section["topic"] for section in found.structured_content["sections"]}
        page = await client.call_tool("read_doc", {"topic": "configuration"})
        resources = (await client.list_resources()).resources
        (content,) = (await client.read_resource("llama-router://docs/reference/errors")).contents
    assert "reference/configuration" in topics
    assert "`ttl_s`" in page.structured_content["text"]
    assert {"reference/errors", "explanation/design"} <= {each.name for each in resources}
    assert "no_memory" in content.text


async def test_a_tool_that_fails_says_why(start, stage) -> None:
    """As a result with the router's sentence, which the model reads, and not as a broken call."""
    router = await start({"a": stage.model("a")}, mcp=True)
    async with connected(router) as client:
        unknown = await client.call_tool("explain_model", {"model": "q"})
        wrong = await client.call_tool("read_logs", {"model": "a", "lines": 0})
        extra = await client.call_tool("list_models", {"all": True})
        page = await client.call_tool("read_doc", {"topic": "configurations"})
    assert unknown.is_error
    assert "'q'" in text_of(unknown)
    assert wrong.is_error
    assert "lines" in text_of(wrong)
    assert extra.is_error
    assert "did you mean reference/configuration" in text_of(page)


async def test_a_load_that_takes_longer_goes_on(start, stage) -> None:
    """The tool answers after its wait, and the model gets ready without the client."""
    router = await start({"a": stage.model("a", "--health", "told")}, mcp=True)
    async with connected(router) as client:
        result = await client.call_tool("load_model", {"model": "a", "wait_s": 0})
        assert not result.structured_content["ready"]
        backend = await stage.backend("a")
        await backend.do("ready")
        waited = await client.call_tool("load_model", {"model": "a"})
    assert waited.structured_content["ready"]
    assert router.spawned() == ["a"]


async def test_logs_settings_and_unload(start, stage) -> None:
    """What the backend printed, what the file says, and an end of the process."""
    router = await start({"a": stage.model("a")}, mcp=True)
    async with connected(router) as client:
        await client.call_tool("load_model", {"model": "a"})
        logs = await client.call_tool("read_logs", {"model": "a"})
        settings = await client.call_tool("read_settings", {"model": "a"})
        router_settings = await client.call_tool("read_settings", {})
        gone = await client.call_tool("unload_model", {"model": "a"})
        downloads = await client.call_tool("list_downloads", {})
    assert logs.structured_content["lines"]
    assert settings.structured_content["model"] == "a"
    assert router_settings.structured_content["effective"]["mcp"] is True
    assert gone.structured_content["model"]["phase"] == "stopped"
    assert downloads.structured_content == {"downloads": []}


async def test_it_is_off_unless_enabled(start, stage) -> None:
    """A router without the setting says how to turn it on, before it asks for a token."""
    router = await start({"a": stage.model("a")})
    answer = await router.ask(request("POST", "/mcp", b"{}", content_type="application/json"))
    assert (answer.status, answer.error["code"]) == (404, "mcp_disabled")
    answer = await sent(router, {"jsonrpc": "2.0", "id": 1, "method": "ping"})
    assert (answer.status, answer.error["code"]) == (404, "mcp_disabled")
    assert "[router] mcp = true" in answer.error["message"]


async def test_it_needs_a_secret(start, stage) -> None:
    """None, a wrong one, or a key for models only is refused before a message is read."""
    key = {"sha256": hashlib.sha256(KEY.encode()).hexdigest()}
    router = await start({"a": stage.model("a")}, mcp=True, api_keys={"agent": key})
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
    for fields in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {KEY}"}):
        answer = await router.ask(
            request("POST", "/mcp", body, content_type="application/json", **fields)
        )
        assert (answer.status, answer.error["code"]) == (401, "invalid_admin_token")
    assert "mcp = true" in answer.error["message"]


async def test_a_key_sees_its_models_only(start, stage) -> None:
    """It lists, loads and reads those; files and the router's settings belong to all."""
    key = {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "models": ["a"], "mcp": True}
    models = {"a": stage.model("a"), "b": stage.model("b")}
    router = await start(models, mcp=True, api_keys={"agent": key})
    async with connected(router, secret=KEY) as client:
        listed = await client.call_tool("list_models", {})
        assert [model["id"] for model in listed.structured_content["models"]] == ["a"]
        assert not (await client.call_tool("load_model", {"model": "a"})).is_error
        for tool, arguments in (
            ("explain_model", {"model": "b"}),
            ("load_model", {"model": "b"}),
            ("unload_model", {"model": "b"}),
            ("read_logs", {"model": "b"}),
            ("read_settings", {"model": "b"}),
            ("read_settings", {}),
            ("pull_model", {"model": "user/repo"}),
            ("list_downloads", {}),
        ):
            assert (await client.call_tool(tool, arguments)).is_error, tool
    assert router.spawned() == ["a"]


async def test_what_is_no_message_is_refused(start, stage) -> None:
    """With an error of the protocol; a notification gets no answer, other methods a 405."""
    router = await start({"a": stage.model("a")}, mcp=True)
    broken = await sent(router, b"{")
    assert (broken.status, json.loads(broken.body)["error"]["code"]) == (400, -32700)
    unknown = await sent(router, {"jsonrpc": "2.0", "id": 7, "method": "tools/paint"})
    assert json.loads(unknown.body)["error"] == {
        "code": -32601,
        "message": "there is no method 'tools/paint'",
    }
    tool = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "paint"}}
    assert json.loads((await sent(router, tool)).body)["error"]["code"] == -32602
    note = await sent(router, {"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert (note.status, note.body) == (202, b"")
    for method in ("GET", "DELETE"):
        fields = {"authorization": f"Bearer {token_of(router)}"}
        answer = await router.ask(request(method, "/mcp", **fields))
        assert answer.status == 405
        assert "POST" in answer.fields["allow"]


async def test_a_page_of_another_site_cannot_use_it(start, stage) -> None:
    """Though a browser would send a token that it knows."""
    router = await start({"a": stage.model("a")}, mcp=True)
    answer = await sent(
        router, {"jsonrpc": "2.0", "id": 1, "method": "ping"}, origin="https://evil.example"
    )
    assert answer.status == 403
