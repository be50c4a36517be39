"""The registry of all API dialects, and the lookup by path. Pure.

To add an API, add a module with its `ApiDialect` and name that in `APIS`;
docs/contributing/add-an-api.md has an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .anthropic import ANTHROPIC
from .dialect import ApiDialect
from .llama_cpp import LLAMA_CPP
from .ollama import OLLAMA
from .openai import CHAT, OPENAI, RESPONSES

#: Below this, a path begins with the name of a model, and its backend gets the rest.
UPSTREAM_PREFIX: Final = "/upstream/"

#: Ends of what precedes a path of one segment, if they are part of the path: ``/v1/completion``
#: and ``/chat/completion`` are other paths than ``/completion``.
_NOT_A_ROOT: Final = ("/v1", "/chat")


class ApiRegistry:
    """API dialects by path.

    Args:
        dialects: All dialects.
        default: Dialect of every path that none of them has.

    Attributes:
        dialects: All dialects, the default one included.
        model_objects: Objects of an answer that may name the model, in any API.
    """

    def __init__(self, dialects: Sequence[ApiDialect], *, default: ApiDialect) -> None:
        self.dialects = (*dialects, default)
        self._default = default
        self._by_path = {path: api for api in self.dialects for path in api.paths}
        self._by_prefix = {prefix: api for api in self.dialects for prefix in api.path_prefixes}
        endings = {ending: api for api in self.dialects for ending in api.stream_endings}
        self._by_stream_ending = sorted(endings.items(), key=lambda item: -len(item[0]))
        self._proxied = {p: api for p, api in self._by_path.items() if not api.served_by_router}
        served = [api for api in self.dialects if api.served_by_router]
        self._served_paths = frozenset(path for api in served for path in api.paths)
        self._served_prefixes = tuple(p for api in served for p in api.path_prefixes)
        self._most_segments = max(path.count("/") for path in self._proxied)
        self.model_objects: frozenset[bytes] = frozenset().union(
            *(api.model_objects for api in self.dialects)
        )

    def api_of(self, path: str) -> ApiDialect:
        """Return the dialect of *path*, decoded, also where the name of a model precedes it."""
        if (api := self._by_path.get(path)) is not None:
            return api
        for prefix, api in self._by_prefix.items():
            if path.startswith(prefix):
                return api
        return self._api_of_ending(path)

    def _api_of_ending(self, path: str) -> ApiDialect:
        """Return the dialect of the longest path of an API that *path* ends with."""
        found = self._default
        before, ending = path, ""
        for _ in range(self._most_segments):
            before, slash, segment = before.rpartition("/")
            if not slash:
                break
            is_root = path.startswith(UPSTREAM_PREFIX) and not before.endswith(_NOT_A_ROOT)
            may_count = bool(ending) or is_root
            ending = f"/{segment}{ending}"
            if may_count:
                found = self._proxied.get(ending, found)
        return found

    def api_of_stream(self, path: str) -> ApiDialect:
        """Return the dialect of event streams of *path*, decoded."""
        return self._api_of_stream(path) or self._default

    def api_of_requested_stream(
        self, path: str, *, stream: bool, accept: bytes
    ) -> ApiDialect | None:
        """Return the dialect of the stream that a request asks for; None if it asks for none.

        Args:
            path: Path of the request, decoded.
            stream: The body has ``"stream": true``.
            accept: Value of the field ``Accept``; empty if there is none. It counts only for
                paths without streams in any API, and only if it accepts nothing else.
        """
        if (api := self._api_of_stream(path)) is not None:
            return api if stream else None
        only_events = accept.partition(b";")[0].strip().lower() == b"text/event-stream"
        return self._default if only_events else None

    def _api_of_stream(self, path: str) -> ApiDialect | None:
        return next((api for end, api in self._by_stream_ending if path.endswith(end)), None)

    def api_with_path(self, path: str) -> ApiDialect | None:
        """Return the dialect that has *path*, decoded; None if none has, or if it is the router's.

        One look into a table, so each request can afford it.
        """
        return self._proxied.get(path)

    def methods_of(self, path: str) -> frozenset[str] | None:
        """Return the methods of *path*, decoded; None if it is unknown, or the router's own."""
        api = self._proxied.get(path)
        return None if api is None else api.paths[path]

    def is_served_by_router(self, path: str) -> bool:
        """Return whether *path*, decoded, is of an API that the control plane serves."""
        return path in self._served_paths or path.startswith(self._served_prefixes)


#: All APIs. Their order is that in which token figures are preferred.
APIS: Final = ApiRegistry((CHAT, RESPONSES, ANTHROPIC, LLAMA_CPP, OLLAMA), default=OPENAI)
