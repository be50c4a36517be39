"""The guide for nginx, with Debian's nginx in front of a router."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.process.harness import Backend, RawClient, Router, Stage, free_port, post, request

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "behind-a-proxy.md"
CHAT = "/v1/chat/completions?script"

#: nginx as a site configures it who knows nothing about streams.
BARE = "server {{ listen 80; location / {{ proxy_pass http://127.0.0.1:8082; }} }}"

CONFIGURATION = """\
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""

Connect = Callable[[], Awaitable[RawClient]]


def guide(language: str = "nginx") -> str:
    """Return the one example of the guide in that language."""
    (example,) = re.findall(
        rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(example)


def below_a_path() -> str:
    """Return the guide's server, with its location below a path in place of the others."""
    server, _, _ = guide().partition("    location / {")
    return server + guide("nginx-location") + "}"


@asynccontextmanager
async def nginx(router: Router, site: str, folder: Path) -> AsyncIterator[Connect]:
    """Run nginx for *router*; yields a function that connects to it."""
    port = free_port()
    site = site.replace("listen 80;", f"listen 127.0.0.1:{port};")
    site = site.replace("127.0.0.1:8082", f"127.0.0.1:{router.port}")
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(folder=folder, site=site))
    clients: list[RawClient] = []

    async def connect() -> RawClient:
        clients.append(RawClient(await trio.open_tcp_stream("127.0.0.1", port)))
        return clients[-1]

    command = [str(NGINX), "-p", str(folder), "-c", str(path)]
    checked = await trio.run_process([*command, "-t"], capture_stderr=True, check=False)
    assert checked.returncode == 0, checked.stderr.decode()
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, command, stderr=subprocess.DEVNULL)
        process = await nursery.start(run)
        while True:
            try:
                await connect()
            except OSError:
                assert process.poll() is None, (folder / "error.log").read_text()
                await trio.lowlevel.checkpoint()
            else:
                break
        try:
            yield connect
        finally:
            for client in clients:
                await trio.aclose_forcefully(client.stream)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def router(start, stage) -> Router:
    """A router that knows its name, with a model that is ready when it is told."""
    models = {"a": stage.model("a", "--health", "told", spawn={"proxy_endpoints": []})}
    started: Router = await start(
        models, notify_model_swap=True, allowed_hosts=["llm.example.com"], stream_keepalive_s=0.1
    )
    return started


def asked(target: str = CHAT) -> bytes:
    """Return the bytes of a request for a stream."""
    return post(target, "a", stream=True).replace(b"host: router", b"host: llm.example.com")


@pytest.mark.parametrize("site", ["guide", "path", "bare"])
async def test_a_stream_passes_as_it_comes(router, stage, tmp_path, site) -> None:
    """Notices during the load, keepalives of the silent backend, each event by itself."""
    sites = {"guide": guide(), "path": below_a_path(), "bare": BARE.format()}
    target = f"/llm{CHAT}" if site == "path" else CHAT
    async with nginx(router, sites[site], tmp_path) as connect:
        client = await connect()
        await client.send(asked(target))
        head = await client.head()
        assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
        await client.until(b"Loading model 'a'")
        backend = await stage.backend("a")
        await backend.do("ready")
        scripted = await backend.request()
        await client.until(b": waiting\n\n")
        await scripted.begin_stream()
        for number in range(3):
            await scripted.chunk(b'data: {"n": %d}\n\n' % number)
            await client.until(b'{"n": %d}\n\n' % number)
        await client.until(b": keepalive\n\n")


async def ready(router: Router, stage: Stage) -> Backend:
    """Load the model; return its backend."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.ask, post("/v1/chat/completions", "a"))
        backend = await stage.backend("a")
        await backend.do("ready")
    return backend


async def test_a_websocket_passes(router, stage, tmp_path) -> None:
    """Handshake, and what the backend says then."""
    backend = await ready(router, stage)
    async with nginx(router, guide(), tmp_path) as connect:
        client = await connect()
        handshake = request(
            "GET", "/upstream/a/v1/ws?script", connection="Upgrade", upgrade="websocket",
            sec_websocket_key="AAAAAAAAAAAAAAAAAAAAAA==", sec_websocket_version="13",
        )  # fmt: skip
        await client.send(handshake.replace(b"host: router", b"host: llm.example.com"))
        scripted = await backend.request()
        await scripted.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        assert (await client.head()).status == 101
        await scripted.send(b"\x89\x00")
        assert await client.exactly(2) == b"\x89\x00"


@pytest.mark.parametrize(
    ("origin", "status"), [("https://llm.example.com", 200), ("https://elsewhere.example", 403)]
)
async def test_a_page_of_its_own_name_is_let_in(router, stage, tmp_path, origin, status) -> None:
    """Another is not."""
    await ready(router, stage)
    async with nginx(router, guide(), tmp_path) as connect:
        client = await connect()
        data = post("/v1/chat/completions", "a").replace(b"host: router", b"host: llm.example.com")
        head, _, body = data.partition(b"\r\n\r\n")
        await client.send(head + b"\r\norigin: " + origin.encode() + b"\r\n\r\n" + body)
        assert (await client.answer()).status == status


async def test_the_admin_api_is_not_published(router, tmp_path) -> None:
    """Whatever token comes with a request."""
    async with nginx(router, guide(), tmp_path) as connect:
        client = await connect()
        await client.send(request("GET", "/admin/status").replace(b"router", b"llm.example.com"))
        assert (await client.answer()).status == 404
    assert router.events.named("request.refused") == []


@pytest.mark.parametrize("below", ["", "/llm"])
async def test_a_missing_slash_leads_to_the_same_place(router, tmp_path, below) -> None:
    """Also below a path, of which the router does not know."""
    site = below_a_path() if below else guide()
    async with nginx(router, site, tmp_path) as connect:
        client = await connect()
        asked = request("GET", f"{below}/upstream/a")
        await client.send(asked.replace(b"host: router", b"host: llm.example.com"))
        answer = await client.head()
        assert (answer.status, answer.fields["location"]) == (307, "./a/")
