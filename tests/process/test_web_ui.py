"""GET / and /index.html: the way to the dashboard, the chat UI of a running backend, facts."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from llama_router.core.config.names import ModelId
from tests.process.harness import Answer, Router, request
from tests.process.real import LIMIT_S, make_models, model_table, serving, write_config

pytestmark = pytest.mark.process

#: What browsers send when a person opens a page.
NAVIGATION = {
    "accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "accept_encoding": "gzip, deflate",
    "sec_fetch_mode": "navigate",
    "sec_fetch_site": "none",
    "sec_fetch_dest": "document",
}

#: The address of llama.cpp's UI.
UI = "/index.html"

#: A server with a page, like llama.cpp's: packed files only, one of its own and a common one.
_BACKEND = """
import gzip, http.server, sys

port, name, server = int(sys.argv[1]), sys.argv[2], sys.argv[3]
FILES = {"/": "page of " + name, "/_app/common.js": "of " + name, f"/_app/{name}.js": "own"}
asked = 0

class Handler(http.server.BaseHTTPRequestHandler):
    def version_string(self):
        return server

    def do_GET(self):
        global asked
        if self.path == "/health":
            return self.send(200, b"ok")
        asked += self.path == "/"
        if self.path.startswith("/v1/asked"):
            return self.send(200, str(asked).encode())
        if "gzip" not in self.headers.get("accept-encoding", ""):
            return self.send(415, b"cannot")
        if self.path not in FILES:
            return self.send(404, b"{}")
        body = gzip.compress(FILES[self.path].encode())
        self.send(200, body, ("content-encoding", "gzip"), ("etag", '"x"'),
                  ("access-control-allow-origin", "*"), ("set-cookie", "a=b"))

    def send(self, status, body, *fields):
        self.send_response(status)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(body)))
        for field in fields:
            self.send_header(*field)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def backend(folder: Path, name: str, server: str = "llama.cpp") -> dict[str, object]:
    """Return the table of a model whose backend has a page."""
    script = folder / "page.py"
    script.write_text(_BACKEND)
    command = [sys.executable, "-I", str(script), "$port", name, server]
    return {"group": "g", "spawn": {"command": command, "proxy_endpoints": ["/v1/"]}}


@pytest.fixture
async def router(start, tmp_path) -> AsyncIterator[Router]:
    """Two models with pages, and one whose page is another program's."""
    with trio.fail_after(LIMIT_S):
        yield await start(
            {
                "one": backend(tmp_path, "one"),
                "two": backend(tmp_path, "two"),
                "other": backend(tmp_path, "other", "uvicorn"),
            }
        )


async def load(router: Router, model: str) -> None:
    """Let *model* run."""
    with router.running.dispatcher.lease(ModelId(model)) as lease:
        await lease.granted()


async def unload(router: Router, model: str) -> None:
    """Let it be gone."""
    await router.running.dispatcher.unload(ModelId(model), force=True)


async def navigate(router: Router, path: str = "/", **fields: str) -> Answer:
    """Open a page as a browser does."""
    return await router.ask(request("GET", path, **(NAVIGATION | fields)))


def text(answer: Answer) -> str:
    """Return the body, unpacked if need be."""
    packed = answer.fields.get("content-encoding") == "gzip"
    return (gzip.decompress(answer.body) if packed else answer.body).decode()


async def test_programs_get_a_few_facts(router) -> None:
    """A GET gives JSON with links that exist, and HEAD is fine, as Ollama's client asks it."""
    answer = await router.ask(request("GET", "/"))
    assert (answer.status, answer.json()["name"]) == (200, "llama-router")
    for path in answer.json()["links"].values():
        assert (await router.ask(request("GET", path))).status != 404
    head = await router.ask(request("HEAD", "/"))
    assert (head.status, head.body) == (200, b"")


async def test_programs_learn_whether_there_is_a_chat_ui(router) -> None:
    """They need not fetch it for that."""
    assert (await router.ask(request("GET", "/?chat"))).json()["chat_ui"] is False
    await load(router, "one")
    assert (await router.ask(request("GET", "/?chat"))).json()["chat_ui"] is True
    assert "chat_ui" not in (await router.ask(request("GET", "/"))).json()


async def test_a_browser_is_led_to_the_dashboard(router) -> None:
    """By a relative address, for proxies, that no cache keeps, whether a model runs or not."""
    for _ in range(2):
        answer = await navigate(router)
        assert (answer.status, answer.fields["location"]) == (302, "ui/")
        assert answer.fields["cache-control"] == "no-store"
        assert "sec-fetch-mode" in answer.fields["vary"]
        await load(router, "one")


@pytest.mark.parametrize("path", ["/index.html", "/?q=hello"])
async def test_without_the_chat_ui_the_dashboard_offers_to_start_it(router, path) -> None:
    """A person sees a page, not an error."""
    answer = await navigate(router, path)
    assert (answer.status, answer.fields["location"]) == (302, "ui/#/chat")


async def test_pages_are_for_people_only(router) -> None:
    """A service worker would keep them in place of the UI; files and unknown paths are 404s."""
    for path in ("/?__WB_REVISION__=1", "/index.html"):
        kept = await router.ask(request("GET", path, accept="*/*", sec_fetch_mode="cors"))
        assert (kept.status, kept.error["code"]) == (404, "no_ui")
    for path, code in (
        ("/_app/common.js", "no_ui"),
        ("/sw.js", "no_ui"),
        ("/nothing", "not_found"),
        ("/x/y.js", "not_found"),
        ("/_app/%2e%2e/v1/models", "not_found"),
    ):
        answer = await navigate(router, path)
        assert (answer.status, answer.error["code"]) == (404, code), path


async def test_the_ui_is_that_of_a_running_backend(router) -> None:
    """Outside of its proxy_endpoints, with what the browser needs to know and nothing else."""
    await load(router, "one")
    page = await navigate(router, UI)
    assert (page.status, text(page)) == (200, "page of one")
    assert page.fields["etag"] == '"x"'
    assert page.fields["content-security-policy"] == "frame-ancestors 'self'"
    assert not page.fields.keys() & {"set-cookie", "access-control-allow-origin", "server"}
    assert text(await navigate(router, "/?q=hello")) == "page of one"
    plain = await navigate(router, UI, accept_encoding="identity")
    assert (text(plain), "content-encoding" in plain.fields) == ("page of one", False)
    script = await navigate(router, "/_app/one.js")
    assert (script.status, text(script)) == (200, "own")


async def test_the_same_ui_is_served_while_its_backend_is_ready(router) -> None:
    """Then another one; a file that only another has comes from there."""
    await load(router, "one")
    assert text(await navigate(router, UI)) == "page of one"
    await load(router, "two")
    assert text(await navigate(router, UI)) == "page of one"
    assert text(await navigate(router, "/_app/common.js")) == "of one"
    assert text(await navigate(router, "/_app/two.js")) == "own"
    await unload(router, "one")
    assert text(await navigate(router, "/_app/common.js")) == "of two"
    gone = await navigate(router, "/_app/one.js")
    assert (gone.status, gone.error["code"]) == (404, "no_ui")
    assert text(await navigate(router, UI)) == "page of two"
    await load(router, "one")
    assert text(await navigate(router, UI)) == "page of two"


async def test_a_page_of_another_program_is_not_served(router) -> None:
    """It is looked at once, and then there is no UI."""
    await load(router, "other")
    for _ in range(3):
        assert (await navigate(router, UI)).status == 302
    asked = await router.ask(request("GET", "/v1/asked?model=other"))
    assert asked.body == b"1"


async def test_the_page_needs_no_key(start, tmp_path) -> None:
    """It is the same for everybody; other sites may link to it, but not use it."""
    with trio.fail_after(LIMIT_S):
        router = await start(
            {"one": backend(tmp_path, "one")}, api_keys={"k": {"key": "secret-key-123456"}}
        )
        assert (await navigate(router)).status == 302
        await load(router, "one")
        assert text(await navigate(router, UI)) == "page of one"
        assert (await navigate(router, "/v1/models")).status == 401
        assert (await navigate(router, UI, sec_fetch_site="cross-site")).status == 200
        for mode in ("no-cors", "cors"):
            taken = await navigate(
                router, "/_app/one.js", sec_fetch_site="cross-site", sec_fetch_mode=mode
            )
            assert (taken.status, taken.error["code"]) == (403, "origin_not_allowed")


@pytest.mark.embedded
async def test_every_file_that_the_real_ui_names_is_served(tmp_path, tmp_path_factory) -> None:
    """Those of its page, its manifest and its service worker, packed and unpacked."""
    pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
    config = write_config(tmp_path, model_table(make_models(tmp_path_factory), "a"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await client.post("/models/load", json={"model": "a"})
            await router.event("backend.ready", model="a")
            page = await client.get("/index.html", headers={"accept": "text/html"})
            assert page.headers["content-type"].startswith("text/html")
            assert page.headers["cross-origin-opener-policy"] == "same-origin"
            again = await client.get(
                "/index.html",
                headers={"accept": "text/html", "if-none-match": page.headers["etag"]},
            )
            assert again.status_code == 304
            names = set(re.findall(r'(?:href|src)="(?:\./)?([^":]+)"', page.text))
            names |= set(re.findall(r'import\("\./([^"]+)"\)', page.text))
            names |= set(re.findall(r'url:"([\w-][^"]*)"', (await client.get("/sw.js")).text))
            manifest = json.loads((await client.get("/manifest.webmanifest")).content)
            names |= {icon["src"] for icon in manifest["icons"]}
            names |= {"sw.js", "index.html", "_app/version.json"}
            assert len(names) > 20
            for name in names:
                answer = await client.get(f"/{name}")
                assert answer.status_code == 200, name
                assert answer.content, name
                assert int(answer.headers["content-length"]) > 0
            plain = await client.get("/sw.js", headers={"accept-encoding": "identity"})
            assert b"define" in plain.content
            assert "content-encoding" not in plain.headers
