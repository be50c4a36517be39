"""`ApiDialect`: everything that differs between the APIs of clients, as one value per API. Pure.

`registry` has all of them. The other modules of the product take a dialect from there and
do not compare it with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import attrs

from ...errors.base import RouterError
from .errors import backend_error_in, error_fields

#: Longest quotation from an answer of a backend that is not JSON, in characters.
_QUOTED_CHARACTERS: Final = 300

ErrorFields: TypeAlias = dict[str, Any]
"""Fields of an error, as `error_fields` returns them or as a backend sent them."""

POST: Final = frozenset(("POST",))
GET: Final = frozenset(("GET", "HEAD"))


@attrs.frozen(kw_only=True)
class StreamInfo:
    """The request that a stream answers.

    Attributes:
        id: Id of the answer, which all its chunks share.
        created_s: Time of its beginning, in seconds since 1970.
        model: Name of the model in the answer: as the client wrote it, or that of the preset.
        path: Path of the request, decoded.
        hides_thinking: The client asked for an answer without thoughts.
    """

    id: str
    created_s: float
    model: str
    path: str
    hides_thinking: bool = False


@attrs.frozen(kw_only=True)
class UsageFields:
    """Place of the token figures in an answer, as JSON names.

    Attributes:
        object: Object that the figures are in.
        prompt: Tokens of the prompt.
        completion: Tokens of the completion.
        prompt_cached: Fields with tokens of the prompt that `prompt` leaves out.
    """

    object: bytes
    prompt: bytes
    completion: bytes
    prompt_cached: tuple[bytes, ...] = ()


@attrs.frozen(kw_only=True, eq=False)
class ApiDialect:
    """One API: its paths, and the form of everything that the router itself answers in it.

    A request names its model in the top-level field ``model`` of its body in every API; see
    `requests.request_target`.

    Attributes:
        name: Name of the API, for reports of tests.
        paths: Methods by path, without the name of a model before it.
        path_prefixes: Beginnings of further paths; the backend decides about their methods.
        served_by_router: The control plane answers, and translates for the backend. Such a
            path is never passed on, and counts only as a whole path.
        stream_endings: Ends of the paths on which ``"stream": true`` asks for a stream in
            this form.
        error_body: Returns an error as a whole body; takes the error and the request id.
        error_event: Returns an error as the last event of a stream; takes the fields of the
            error and its status.
        notice: Returns a sentence for the user, in a form that no strict client rejects.
        keepalive: Returns bytes that keep proxies and clients from giving up, and that no
            client shows.
        request_id_header: Header field with the request id; None if the API has none.
        model_objects: Objects inside the outermost one of an answer that name the model in
            their field ``model``, as the outermost one does.
        usage: Place of the token figures in an answer of a backend.
    """

    name: str
    paths: Mapping[str, frozenset[str]]
    path_prefixes: tuple[str, ...] = ()
    served_by_router: bool = False
    stream_endings: tuple[str, ...] = ()
    error_body: Callable[[RouterError, str], bytes]
    error_event: Callable[[ErrorFields, int], bytes]
    notice: Callable[[StreamInfo, str], bytes]
    keepalive: Callable[[StreamInfo], bytes]
    request_id_header: bytes | None = b"x-request-id"
    model_objects: frozenset[bytes] = frozenset()
    usage: tuple[UsageFields, ...] = ()

    def last_event(self, error: RouterError) -> bytes:
        """Return *error* as the last event of a stream."""
        return self.error_event(error_fields(error), error.status)

    def request_id_fields(self, request_id: str) -> list[tuple[bytes, bytes]]:
        """Return the header fields that name the request; empty if the API has none."""
        name = self.request_id_header
        return [] if name is None else [(name, request_id.encode())]


@attrs.frozen
class StreamDialect:
    """The events that the router puts into one stream.

    Attributes:
        api: API of the client.
        info: The request that the stream answers.
    """

    api: ApiDialect
    info: StreamInfo

    def notice(self, sentence: str) -> bytes:
        """Return *sentence* for the user, in a form that no strict client rejects."""
        return self.api.notice(self.info, sentence)

    def keepalive(self) -> bytes:
        """Return bytes that keep the connection open, and that no client shows."""
        return self.api.keepalive(self.info)

    def error(self, error: RouterError) -> bytes:
        """Return *error* as the last event."""
        return self.api.last_event(error)

    def answer_as_error(self, status: int, content_type: str, body: bytes) -> bytes:
        """Return, as the last event, an answer that is no event stream.

        Args:
            status: Its status.
            content_type: Its media type.
            body: Its body, or the beginning of that.
        """
        fields: ErrorFields | None = backend_error_in(body)
        if fields is None:
            quote = body.decode("utf-8", "replace").strip()[:_QUOTED_CHARACTERS]
            form = f"with status {status}" if status != HTTPStatus.OK else f"with {content_type}"
            message = (
                f"the backend of model {self.info.model!r} answered {form} instead of a stream"
            )
            fields = {
                "message": f"{message}: {quote}" if quote else message,
                "type": "server_error",
                "code": "upstream_failed",
                "param": None,
            }
        failed = status if status >= HTTPStatus.BAD_REQUEST else HTTPStatus.BAD_GATEWAY
        return self.api.error_event(fields, failed)
