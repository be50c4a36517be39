"""Records of requests and of loads, as types of the admin API."""

from __future__ import annotations

import msgspec

from ...dispatch.activity_log import ActivityRow


class Activity(ActivityRow, frozen=True, kw_only=True):
    """A request: ``queued``, ``loading``, ``running`` or ``done``.

    *cancel_id* is its id for ``/admin/requests/cancel``; null if it cannot be cancelled. *client*
    is the name of its API key, or its address. *outcome* is ``ok``, ``cut``, ``client_gone`` or
    ``refused``; *code* is that of the error. *queue_s* and *load_s* are the parts of its wait,
    *ttft_s* the time to its first byte. *tokens_per_s* of an answer that is no stream includes the
    prompt. *captured* says that its bodies are kept.
    """

    captured: bool


class Activities(msgspec.Struct):
    """Requests: live ones first, and of both the latest first; and their number so far."""

    at: float
    ended_count: int
    requests: list[Activity]


class CapturedMessage(msgspec.Struct):
    """A request or a response.

    *body* is its text; what is no text is in *base64*. Both are null for a body that was passed on
    while it came. *is_whole* says that nothing is missing.
    """

    status: int | None
    method: str | None
    target: str | None
    headers: list[tuple[str, str]]
    body: str | None
    base64: str | None
    is_whole: bool


class Capture(msgspec.Struct):
    """A request and its response, with secrets masked."""

    id: int
    request: CapturedMessage
    response: CapturedMessage


class Load(msgspec.Struct):
    """One process of a model, from its start to its end. Times are in seconds since 1970.

    *cause* is why it was started: ``request``, ``keep_loaded``, ``home`` or ``return`` (it was
    replaced). *reason* is why it ended: ``swap`` (for *for_model*), ``idle``, ``unload``,
    ``reload``, ``hang`` or ``failed``; null while it runs, and if the router ended it at its own
    end. *words* say the same in words; *failure* is the cause of a failure.
    """

    model: str
    cause: str
    began_at: float
    ready_at: float | None
    stopping_at: float | None
    ended_at: float | None
    reason: str | None
    words: str | None
    failure: str | None
    for_model: str | None
    devices: list[str]


class Minute(msgspec.Struct):
    """Requests that ended in the minute that began *at*, in seconds since 1970.

    *refused* are those that the router itself answered with an error, *failed* those that were
    cut.
    """

    at: int
    requests: int
    refused: int
    failed: int
    prompt_tokens: int
    completion_tokens: int


class Timeline(msgspec.Struct):
    """Loads that lasted until less than that long ago, and the traffic per minute since then."""

    at: float
    loads: list[Load]
    series: list[Minute]
