"""``/ui/session``: signs browsers in and out of the dashboard."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from quart import Blueprint, Response, request

from ...core.access.gate import Gate, Rights, Scope
from ...core.access.sessions import Session, cookie_name
from ...process.peer_user import router_users
from ..web.context import ControlContext
from ..web.guard import (
    answer,
    header_fields,
    json_body,
    keep_from_pages,
    open_to,
    user_of_client,
)

#: Random bytes in the text of a cookie.
_TEXT_BYTES: Final = 32


class SignInBody(msgspec.Struct, forbid_unknown_fields=True):
    """The admin token or an API key."""

    secret: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]


class BrowserRights(msgspec.Struct):
    """What the browser may do.

    *scope* is ``admin``, ``models``, or null if it must sign in first; *name* is that of the API
    key that it signed in with; *signed_in* says that there is a session that can be ended.
    """

    scope: str | None
    name: str | None
    signed_in: bool


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes. They are open, and give rights by what they find out themselves."""
    routes = Blueprint("dashboard_session", __name__, url_prefix="/ui/session")
    gate = context.gate
    keep_from_pages(routes, gate)

    @routes.get("")
    @open_to(Scope.OPEN)
    async def current() -> Response:
        session, uid = await _session_and_user(gate)
        if session is not None and (rights := gate.rights(session)) is not None:
            return _described(rights, signed_in=session.secret is not None)
        # Nothing is awaited between the question and the session: a reload may close the door.
        if gate.opens_locally and uid in router_users() and gate.is_local_page(header_fields()):
            assert uid is not None
            text = secrets.token_urlsafe(_TEXT_BYTES)
            rights = gate.open_session(text.encode(), uid=uid)
            return _with_cookie(_described(rights, signed_in=False), text)
        scope = None if gate.has_keys else Scope.MODELS.value
        return _answer(BrowserRights(scope=scope, name=None, signed_in=False))

    @routes.post("")
    @open_to(Scope.OPEN)
    async def sign_in() -> Response:
        body = await json_body(SignInBody)
        former, uid = await _session_and_user(gate)
        text = secrets.token_urlsafe(_TEXT_BYTES)
        rights = gate.sign_in(body.secret, text.encode(), uid=uid)
        if former is not None:
            gate.end_session(former)
        return _with_cookie(_described(rights, signed_in=True), text)

    @routes.delete("")
    @open_to(Scope.OPEN)
    async def sign_out() -> Response:
        session, _ = await _session_and_user(gate)
        if session is not None:
            gate.end_session(session)
        response = Response(b"", HTTPStatus.NO_CONTENT, headers={"cache-control": "no-store"})
        response.headers["set-cookie"] = _cookie("", "; Max-Age=0")
        return response

    return routes


async def _session_and_user(gate: Gate) -> tuple[Session | None, int | None]:
    """Return the browser's session, if it may have it, and the user that it belongs to."""
    uid = await user_of_client()
    session = gate.session(header_fields())
    if session is not None and session.uid not in (None, uid):
        session = None
    return session, uid


def _described(rights: Rights, *, signed_in: bool) -> Response:
    return _answer(
        BrowserRights(scope=rights.scope.value, name=rights.caller.name, signed_in=signed_in)
    )


def _answer(rights: BrowserRights) -> Response:
    response = answer(rights)
    response.headers["cache-control"] = "no-store"
    return response


def _with_cookie(response: Response, text: str) -> Response:
    response.headers["set-cookie"] = _cookie(text, "")
    return response


def _cookie(text: str, attributes: str) -> str:
    name = cookie_name((request.headers.get("host") or "").encode("latin-1")).decode()
    secure = "; Secure" if (request.headers.get("origin") or "").startswith("https:") else ""
    return f"{name}={text}; Path=/; HttpOnly; SameSite=Strict{secure}{attributes}"
