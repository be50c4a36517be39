"""The made-up API of docs/contributing/add-an-api.md, added as the page says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llama_router.core.apis import registry
from llama_router.core.apis.dialect import ApiDialect, StreamDialect, StreamInfo
from llama_router.core.apis.model_names import ModelNameRewriter, ModelPlaces
from llama_router.core.apis.registry import APIS, ApiRegistry
from llama_router.core.apis.usage import Usage, UsageReader, usage_places
from llama_router.core.requests import routes
from llama_router.core.requests.routes import ByBody, Control, route
from llama_router.errors.admission import UnknownModelError
from llama_router.gateway import router_responses
from llama_router.gateway.router_responses import error_response
from llama_router.http1 import parse_request_head

PAGE = Path(__file__).parents[2] / "docs" / "contributing" / "add-an-api.md"
MODULE, LINE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
PATH = "/v3/answers"


@pytest.fixture
def oracle() -> ApiDialect:
    """Return the dialect that the module on the page makes."""
    namespace = {"__package__": "llama_router.core.apis", "__name__": "oracle"}
    exec(MODULE, namespace)
    api = namespace["ORACLE"]
    assert isinstance(api, ApiDialect)
    return api


@pytest.fixture
def apis(oracle: ApiDialect) -> ApiRegistry:
    """Return the registry that the line on the page makes."""
    namespace = {**vars(registry), "ORACLE": oracle}
    exec(LINE, namespace)
    apis = namespace["APIS"]
    assert isinstance(apis, ApiRegistry)
    return apis


def test_the_line_adds_one_api(apis: ApiRegistry, oracle: ApiDialect) -> None:
    """The page names all others, too."""
    assert set(apis.dialects) == {*APIS.dialects, oracle}


def test_requests_are_routed(apis: ApiRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that the API has not is refused, any other request goes to a backend."""
    monkeypatch.setattr(routes, "APIS", apis)
    assert route(b"POST", PATH.encode(), b"model=a") == ByBody(model="a")
    assert route(b"PUT", PATH.encode(), b"model=") == Control()


@pytest.mark.parametrize("path", [PATH, f"/upstream/a/b{PATH}"])
def test_refusals(apis: ApiRegistry, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Body and header fields of a refusal by the data plane are those of the API."""
    monkeypatch.setattr(router_responses, "APIS", apis)
    head = parse_request_head(f"POST {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    response = error_response(head, UnknownModelError("no such model"), "req_1", (), close=False)
    fields, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\noracle-request: req_1" in fields
    fault = {"text": "no such model", "code": "model_not_found", "request": "req_1"}
    assert json.loads(body) == {"fault": fault}


def test_streams(apis: ApiRegistry) -> None:
    """Notices, keepalives and the error at the end are events of the API."""
    api = apis.api_of_requested_stream(PATH, stream=True, accept=b"")
    assert api is not None
    stream = StreamDialect(api, StreamInfo(id="1", created_s=0.0, model="m", path=PATH))
    events = (
        stream.notice("Loading"),
        stream.keepalive(),
        stream.error(UnknownModelError("no")),
        stream.answer_as_error(500, "text/plain", b"oops"),
    )
    kinds = [json.loads(event.removeprefix(b"data: "))["kind"] for event in events]
    assert kinds == ["progress", "keepalive", "fault", "fault"]


def test_the_name_of_the_model_in_an_answer(apis: ApiRegistry) -> None:
    """It is replaced where the API has it."""
    places = ModelPlaces(apis.model_objects)
    rewriter = ModelNameRewriter("a:fast", events=False, places=places)
    answer = rewriter.feed(b'{"answer":{"model":"a"},"x":{"model":"b"}}')
    assert answer == b'{"answer":{"model":"a:fast"},"x":{"model":"b"}}'


def test_token_figures(apis: ApiRegistry) -> None:
    """They are read where the API has them, and where others have them."""
    read = UsageReader(usage_places(apis.api_of("/v3/answers"), apis.dialects)).read
    assert read(b'{"text":"","tokens":{"asked":3,"answered":4}}') == Usage(3, 4)
    assert read(b'{"usage":{"prompt_tokens":9,"completion_tokens":5}}') == Usage(9, 5)
