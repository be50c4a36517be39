"""The OpenAPI document of the admin API, generated from the routes.

Each view carries its description (`describe`); a route without one still has an entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeVar

import attrs
import msgspec
from quart import Quart
from werkzeug.routing import Rule

from ... import __version__
from ...core.access.gate import Scope
from ..web.guard import scope_of
from .schemas import ErrorAnswer

View = TypeVar("View", bound=Callable[..., object])

_MARK: Final = "_llama_router_operation"
_REF: Final = "#/components/schemas/{name}"
_ARGUMENT: Final = re.compile(r"<(?:(\w+)(?:\([^)]*\))?:)?(\w+)>")

#: Statuses of errors that every admin route may answer.
_ALWAYS: Final = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
)


@attrs.frozen(kw_only=True)
class Query:
    """A query parameter.

    Attributes:
        name: Its name.
        schema: Its JSON Schema.
        about: Its effect, in one sentence.
        required: Whether a request without it is refused.
    """

    name: str
    schema: dict[str, object]
    about: str
    required: bool = False


@attrs.frozen(kw_only=True)
class Operation:
    """The description of one view.

    Attributes:
        summary: Its effect, in one sentence.
        body: Type of its body.
        answer: Type of its answer with status 200; None if that is not JSON.
        media: Media type of an answer that is not JSON.
        errors: Statuses of its errors besides `_ALWAYS`.
        also: Further answers, each a status and a type.
        query: Its parameters.
    """

    summary: str
    body: type[msgspec.Struct] | None = None
    answer: Any = None
    media: str = "application/json"
    errors: tuple[int, ...] = ()
    also: tuple[tuple[int, Any], ...] = ()
    query: tuple[Query, ...] = ()


def describe(
    summary: str,
    *,
    body: type[msgspec.Struct] | None = None,
    answer: Any = None,  # noqa: ANN401 -- any type that msgspec describes
    media: str = "application/json",
    errors: Iterable[int] = (),
    also: Iterable[tuple[int, Any]] = (),
    query: Iterable[Query] = (),
) -> Callable[[View], View]:
    """Attach an `Operation` to a view. Stands below the route's decorator."""
    operation = Operation(
        summary=summary,
        body=body,
        answer=answer,
        media=media,
        errors=tuple(errors),
        also=tuple(also),
        query=tuple(query),
    )

    def mark(view: View) -> View:
        setattr(view, _MARK, operation)
        return view

    return mark


def document(app: Quart) -> dict[str, Any]:
    """Return the document: every route below ``/admin/`` that needs the admin token."""
    found: list[tuple[Rule, Operation]] = []
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/admin/") and scope_of(app, rule.endpoint) is Scope.ADMIN:
            undescribed = Operation(summary=rule.endpoint)
            view = app.view_functions[rule.endpoint]
            found.append((rule, getattr(view, _MARK, undescribed)))
    types = {t: None for _, operation in found for t in _types(operation)}  # each once, in order
    schemas, components = msgspec.json.schema_components(list(types), ref_template=_REF)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for rule, operation in sorted(found, key=lambda pair: pair[0].rule):
        methods = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        for method in methods:
            entry = _entry(rule, operation, method, schema_of)
            paths.setdefault(_ARGUMENT.sub(r"{\2}", rule.rule), {})[method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llama-router admin API",
            "version": __version__,
            "description": "Operates a running router. Every route needs the admin token.",
        },
        "security": [{"bearer": []}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "header", "name": "X-Admin-Token"},
            },
        },
    }


def _types(operation: Operation) -> list[Any]:
    used = [operation.body, operation.answer, *(type_ for _, type_ in operation.also)]
    return [ErrorAnswer, *(type_ for type_ in used if type_ is not None)]


def _entry(
    rule: Rule, operation: Operation, method: str, schema_of: dict[Any, dict[str, Any]]
) -> dict[str, Any]:
    def content(type_: Any) -> dict[str, Any]:  # noqa: ANN401 -- see `describe`
        return {"application/json": {"schema": schema_of[type_] if type_ is not None else {}}}

    answers: dict[str, Any] = {}
    if operation.media == "application/json":
        answers["200"] = {"description": "Done.", "content": content(operation.answer)}
    else:
        answers["200"] = {"description": "A stream.", "content": {operation.media: {}}}
    for status, type_ in operation.also:
        phrase = HTTPStatus(status).phrase
        answers[str(status)] = {"description": phrase, "content": content(type_)}
    errors = {*_ALWAYS, *operation.errors}
    if operation.body is not None:
        errors |= {HTTPStatus.UNSUPPORTED_MEDIA_TYPE, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}
    for status in sorted(errors):
        phrase = HTTPStatus(status).phrase
        answers[str(int(status))] = {"description": phrase, "content": content(ErrorAnswer)}
    entry: dict[str, Any] = {
        "operationId": f"{rule.endpoint}.{method.lower()}",
        "summary": operation.summary,
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for _, name in _ARGUMENT.findall(rule.rule)
            ),
            *(
                {
                    "name": query.name,
                    "in": "query",
                    "required": query.required,
                    "schema": query.schema,
                    "description": query.about,
                }
                for query in operation.query
            ),
        ],
        "responses": answers,
    }
    if operation.body is not None:
        needed = any(field.required for field in msgspec.structs.fields(operation.body))
        entry["requestBody"] = {"required": needed, "content": content(operation.body)}
    return entry
