"""What goes wrong in the system while a model starts costs that model at most, and no time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from llama_router.backends import launch, preflight
from llama_router.core.config.specs import ModelSpec
from tests.process.harness import post

pytestmark = pytest.mark.process

ECHO = "/v1/echo"


@pytest.fixture
def hangs() -> Iterator[threading.Event]:
    """Lets what waits for it go on at the end of the test, as a dead file server may one day."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_file_that_cannot_be_looked_at(start, stage) -> None:
    """The backend itself may say what is wrong with it; the router goes on."""
    model = stage.model("a", path="/" + "x" * 300)
    router = await start({"a": model})
    assert (await router.ask(post(ECHO, "a"))).status == 200


async def test_a_file_system_that_hangs(start, stage, monkeypatch, hangs) -> None:
    """Its model is given up after ready_timeout_s, and others take its place."""

    def look(spec: ModelSpec) -> None:
        if spec.id == "a":
            hangs.wait()

    monkeypatch.setattr(preflight, "_first_fault", look)
    models = {
        "a": stage.model("a", path="/a.gguf", spawn={"ready_timeout_s": 0.5}),
        "b": stage.model("b"),
    }
    router = await start(models)
    answer = await router.ask(post(ECHO, "a"))
    assert answer.error["code"] == "backend_not_ready"
    assert "/a.gguf" in answer.error["message"]
    assert (await router.ask(post(ECHO, "b"))).status == 200


async def test_a_look_at_processes_that_hangs(start, stage, monkeypatch, hangs) -> None:
    """The start is given up after ready_timeout_s all the same."""
    monkeypatch.setattr(launch, "foreign_listener", lambda *_: hangs.wait())
    router = await start({"a": stage.model("a", spawn={"ready_timeout_s": 1.0})})
    assert (await router.ask(post(ECHO, "a"))).error["code"] == "backend_not_ready"


#: Reads for a while, says nothing, then serves.
READING = """\
import sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

end_s = time.monotonic() + float(sys.argv[2])
with open("/dev/zero", "rb", buffering=0) as disk:
    while time.monotonic() < end_s:
        disk.read(1 << 20)
        time.sleep(0.05)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


async def test_a_model_on_a_slow_disk(start) -> None:
    """A start may take longer than ready_timeout_s while the backend reads."""
    command = [sys.executable, "-c", READING, "$port", "3"]
    spawn = {"command": command, "ready_timeout_s": 1.0, "proxy_endpoints": []}
    router = await start({"a": {"spawn": spawn}})
    assert (
        await router.ask(b"GET /upstream/a/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
    ).status == 200


async def test_the_absolute_limit_of_a_start(start) -> None:
    """After ready_limit_s a start is given up, whatever moves."""
    command = [sys.executable, "-c", READING, "$port", "60"]
    spawn = {"command": command, "ready_timeout_s": 60.0, "ready_limit_s": 1.0}
    router = await start({"a": {"spawn": spawn}})
    answer = await router.ask(post(ECHO, "a"))
    assert answer.error["code"] == "backend_not_ready"
    assert "within 1 s (ready_limit_s)" in answer.error["message"]
