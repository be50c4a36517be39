"""A client of the router's API for models: streams of answers, and other requests."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from ..core.apis.notices import MARK, NOTIFY_FIELD
from ..files import reason_of
from ..http_library import httpx
from .failures import CliError, RefusedByRouterError, without_output
from .http_clients import open_http, open_http_for_trio, translated_errors
from .plain_http import refusal_of
from .router_search import Connection, find_router
from .suggestions import names_of, suggestion

#: The environment variable for an API key of the router.
KEY_VARIABLE: Final = "LLAMA_ROUTER_API_KEY"

_DATA: Final = "data:"

#: What happened to an answer that is not complete.
CUT_OFF: Final = "the router or the model went away in the middle of the answer"
_AFTER_CUT: Final = "'llama-router ps --all' says whether they are back"


class CutOffError(CliError):
    """The answer ended before it was complete."""

    code = "answer_cut_off"


class ModelClient:
    """Sends requests to models. It finds the router anew for each: it may have been restarted.

    Args:
        connection: How to find the router.
        key_file: File with an API key; by default the key is in `KEY_VARIABLE`, if any.
    """

    def __init__(self, connection: Connection, key_file: Path | None = None) -> None:
        self._connection = connection
        self._key = _read_key(key_file)

    def models(self) -> list[dict[str, Any]]:
        """Return the entries of ``/v1/models``; raises the errors of `post`."""
        with self._opened() as http:
            response = http.get("/v1/models", headers=self._headers())
            self._check(response)
            entries: list[dict[str, Any]] = response.json()["data"]
            return entries

    def post(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 -- JSON
        """Return the decoded answer to *body*.

        Raises:
            NoRouterError: if no router answers.
            RefusedByRouterError: if the answer is an error.
        """
        with self._opened() as http:
            response = http.post(path, json=body, headers=self._headers())
            self._check(response, body)
            return response.json()

    @contextmanager
    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """Return the events of the answer to *body*, as they arrive.

        At the end of the block the connection is closed, which ends the generation.

        Raises:
            CutOffError: if it ends without its mark.
            RouterError: see `post`.
        """
        headers = {**self._headers(), NOTIFY_FIELD: "true"}
        with self._opened() as http, http.stream("POST", path, json=body, headers=headers) as got:
            if got.is_error:
                got.read()
                self._check(got, body)
            yield self._events(got)

    def asynchronous(self) -> httpx.AsyncClient:
        """Return a client of the router for Trio, with the key in each request; see `errors`.

        Raises:
            NoRouterError: if no router is running.
        """
        return open_http_for_trio(self._url(), self._headers())

    def errors(self) -> AbstractContextManager[None]:
        """Raise `NoRouterError` in the block for errors of the connection."""
        return translated_errors(self._url())

    def error_of(self, response: httpx.Response) -> RefusedByRouterError:
        """Return the error that *response*, which was read, reports, and what to do about it."""
        error = refusal_of(response)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            error.cure = f"put a key into ${KEY_VARIABLE}, or give --key-file"
        return error

    def _events(self, response: httpx.Response) -> Iterator[dict[str, Any]]:
        try:
            for line in response.iter_lines():
                if not line.startswith(_DATA):
                    continue
                data = line.removeprefix(_DATA).strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if isinstance(event, dict) and isinstance(error := event.get("error"), dict):
                    sentence, output = without_output(str(error.get("message")))
                    raise RefusedByRouterError(
                        sentence, details=output, kind=str(error.get("code"))
                    )
                if isinstance(event, dict):
                    yield event
        except (httpx.HTTPError, ValueError) as exc:
            raise CutOffError(CUT_OFF, cure=_AFTER_CUT, details=[str(exc)]) from exc
        raise CutOffError(CUT_OFF, cure=_AFTER_CUT)

    def _headers(self) -> dict[str, str]:
        return {} if self._key is None else {"authorization": f"Bearer {self._key}"}

    @contextmanager
    def _opened(self) -> Iterator[httpx.Client]:
        url = self._url()
        with translated_errors(url), open_http(url) as http:
            yield http

    def _url(self) -> str:
        return self._connection.url or find_router(self._connection, os.environ).urls[0]

    def _check(self, response: httpx.Response, body: Mapping[str, Any] | None = None) -> None:
        if not response.is_error:
            return
        error = self.error_of(response)
        if error.kind == "model_not_found" and body is not None:
            error.cure = suggestion(str(body["model"]), names_of(self.models()))
        raise error


def notice_of(event: Mapping[str, Any]) -> str | None:
    """Return the router's notice in an event of a stream: why the request waits; or None."""
    try:
        text = event["choices"][0]["delta"]["reasoning_content"]
    except (KeyError, IndexError, TypeError):
        return None
    if isinstance(text, str) and text.startswith(MARK):
        return text.strip(MARK + "\n ")
    return None


def _read_key(key_file: Path | None) -> str | None:
    """Return the API key; None if there is none.

    Raises:
        CliError: if *key_file* cannot be read.
    """
    if key_file is None:
        return os.environ.get(KEY_VARIABLE) or None
    try:
        key = key_file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        reason = reason_of(exc) if isinstance(exc, OSError) else "it is not text"
        raise CliError(f"the API key in {key_file} cannot be read: {reason}") from exc
    if not key.isprintable() or not key.isascii() or not key:
        raise CliError(f"{key_file} does not contain an API key")
    return key
