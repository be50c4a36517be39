"""The route ``/mcp``: one message of the Model Context Protocol per request; see `core.mcp`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from quart import Blueprint, Response, request

from ... import __version__
from ...core.access.caller import Caller
from ...core.access.gate import Scope
from ...core.mcp import messages
from ...core.mcp.messages import Answer, Call, FaultyMessageError, Server, read_message, refuse
from ...errors.base import RouterError
from ...errors.requests import RequestError
from ...files.json_text import encode_shown
from ...logs.events import log
from ...manual.pages import find_page, pages
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import caller, open_to, raw_body
from ..web.server import without_deadline
from .tools import Tools

_INSTRUCTIONS: Final = (
    "llama-router runs local language models on this machine, loads them on demand and swaps them "
    "in limited memory. These tools show and change what it has loaded. Call explain_model first "
    "when a model fails or is slow; search_docs knows every setting and error."
)

#: Addresses of the pages of the documentation, as resources.
_PREFIX: Final = "llama-router://docs/"


class McpDisabledError(RequestError):
    """The endpoint is off."""

    code = "mcp_disabled"
    status = HTTPStatus.NOT_FOUND


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("mcp", __name__)
    endpoint = Endpoint(Tools(context))

    def refuse_if_off() -> None:
        if not context.dispatcher.config.router.mcp:
            raise McpDisabledError("the endpoint /mcp is off; [router] mcp = true turns it on")

    @routes.post("/mcp")
    @open_to(Scope.MCP, refuse_if_off=refuse_if_off)
    async def mcp() -> Response:
        without_deadline()  # a load waits MAX_WAIT_S at most, an unload for requests in flight
        fields = {name.lower(): value for name, value in request.headers}
        answer = await endpoint.answer(caller(), await raw_body(), fields)
        if answer is None:
            return Response(b"", HTTPStatus.ACCEPTED, content_type=None)
        return Response(answer.body, answer.status, content_type="application/json")

    return routes


class Endpoint:
    """Answers messages; keeps nothing from one to the next."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._server = Server(version=__version__, instructions=_INSTRUCTIONS)
        self._methods: Final[
            Mapping[str, tuple[Callable[[Caller, Call], Awaitable[dict[str, Any]]], bool]]
        ] = {
            "initialize": (self._initialize, False),
            "server/discover": (self._discover, True),
            "ping": (self._ping, False),
            "tools/list": (self._list_tools, True),
            "tools/call": (self._call_tool, False),
            "resources/list": (self._list_resources, True),
            "resources/templates/list": (self._list_templates, True),
            "resources/read": (self._read_resource, True),
        }

    async def answer(self, sender: Caller, body: bytes, fields: messages.Fields) -> Answer | None:
        """Return the answer to one message; None for one that gets none."""
        stateless = fields.get("mcp-protocol-version") in messages.STATELESS
        try:
            call = read_message(body, fields)
            if call is None:
                return None
            stateless = call.stateless
            method, kept = self._methods.get(call.method, (_no_method, False))
            return self._server.answer(call, await method(sender, call), kept=kept)
        except FaultyMessageError as error:
            return refuse(error, stateless=stateless)

    async def _initialize(self, _sender: Caller, call: Call) -> dict[str, Any]:
        return self._server.greet(call)

    async def _discover(self, _sender: Caller, _call: Call) -> dict[str, Any]:
        return self._server.discover()

    async def _ping(self, _sender: Caller, _call: Call) -> dict[str, Any]:
        return {}

    async def _list_tools(self, _sender: Caller, _call: Call) -> dict[str, Any]:
        return {"tools": [tool.describe() for tool in self._tools.by_name.values()]}

    async def _call_tool(self, sender: Caller, call: Call) -> dict[str, Any]:
        name, arguments = call.params.get("name"), call.params.get("arguments") or {}
        tool = self._tools.by_name.get(name) if isinstance(name, str) else None
        if tool is None:
            raise FaultyMessageError(
                messages.INVALID_PARAMS, f"there is no tool {name!r}", id_=call.id
            )
        if not isinstance(arguments, dict):
            raise FaultyMessageError(
                messages.INVALID_PARAMS, "'arguments' must be an object", id_=call.id
            )
        try:
            result = await tool.call(sender, arguments)
        except RouterError as error:
            # A result and not an error of the protocol, so that the model reads the sentence.
            log.info("mcp.tool_failed", tool=tool.name, code=error.code, reason=str(error))
            return {"content": [_text(str(error))], "isError": True}
        log.info("mcp.tool_called", tool=tool.name, key=sender.name)
        encoded = encode_shown(result)
        return {
            "content": [_text(encoded.decode())],
            "structuredContent": msgspec.Raw(encoded),
            "isError": False,
        }

    async def _list_resources(self, _sender: Caller, _call: Call) -> dict[str, Any]:
        return {
            "resources": [
                {
                    "uri": _PREFIX + page.topic,
                    "name": page.topic,
                    "title": page.title,
                    "mimeType": "text/markdown",
                }
                for page in await in_thread(pages)
            ]
        }

    async def _list_templates(self, _sender: Caller, _call: Call) -> dict[str, Any]:
        return {"resourceTemplates": []}

    async def _read_resource(self, _sender: Caller, call: Call) -> dict[str, Any]:
        uri = str(call.params.get("uri"))
        known = uri.startswith(_PREFIX)
        page = await in_thread(find_page, uri.removeprefix(_PREFIX)) if known else None
        if page is None:
            raise FaultyMessageError(
                messages.INVALID_PARAMS,
                "there is no such resource",
                id_=call.id,
                data={"uri": uri},
            )
        return {"contents": [{"uri": uri, "mimeType": "text/markdown", "text": page.text}]}


async def _no_method(_sender: Caller, call: Call) -> dict[str, Any]:
    raise FaultyMessageError(
        messages.METHOD_NOT_FOUND, f"there is no method {call.method!r}", id_=call.id
    )


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
