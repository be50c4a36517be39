"""Several addresses to listen on: their sockets, and a router that changes them."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator

import pytest
import trio

from llama_router.gateway.server import ListenError, listen
from tests.limits import LIMIT_S
from tests.process.harness import RawClient, free_port, post
from tests.process.real import serving, write_config
from tests.process.test_admin import admin, write

pytestmark = pytest.mark.process


@pytest.fixture
def opened() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def where(sockets: list[socket.socket]) -> list[tuple[str, int]]:
    return [each.getsockname()[:2] for each in sockets]


def test_addresses_without_a_port_get_the_same_one(opened) -> None:
    """Also where any free one is taken; the others keep their own."""
    own = free_port()
    found = listen(["127.0.0.1", f"127.0.0.1:{own}", "127.0.0.2"], 0)
    opened += found.sockets
    expected = [("127.0.0.1", found.port), ("127.0.0.1", own), ("127.0.0.2", found.port)]
    assert where(found.sockets) == expected


def test_an_address_that_another_one_covers_needs_no_socket(opened) -> None:
    """Nor does one that stands there twice; a name may have been in its place."""
    found = listen(["127.0.0.1", "localhost", "127.0.0.1", "0.0.0.0"], 0)
    opened += found.sockets
    assert [ip for ip, _ in where(found.sockets) if ":" not in ip] == ["0.0.0.0"]


def test_localhost_is_both_families(opened) -> None:
    """Whatever the machine's list of names says: clients try either."""
    found = listen(["localhost"], 0)
    opened += found.sockets
    assert where(found.sockets) == [("127.0.0.1", found.port), ("::1", found.port)]


def test_a_unix_socket_is_for_its_group_and_goes_with_its_router(tmp_path) -> None:
    """The file of one that was killed is replaced; the same one is kept by a reload."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    (listener,) = listen([f"unix:{path}"], 0).sockets
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert listen([f"unix:{path}"], 0, replacing=[listener]).sockets == [listener]
    listener.close()
    assert not path.exists()


def test_a_unix_socket_of_another_program_is_not_taken(tmp_path) -> None:
    """Nor is a file that is no socket."""
    path, file = tmp_path / "s", tmp_path / "f"
    file.write_text("mine")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match=f"cannot listen on unix:{path}: .*another program"):
            listen([f"unix:{path}"], 0)
    with pytest.raises(ListenError, match="there is a file that is no socket"):
        listen([f"unix:{file}"], 0)
    assert path.is_socket()
    assert file.read_text() == "mine"


def test_a_unix_socket_leaves_the_file_of_another_one(tmp_path) -> None:
    """Another router may have taken the path since."""
    path = tmp_path / "s"
    (listener,) = listen([f"unix:{path}"], 0).sockets
    path.unlink()
    path.write_text("another")
    listener.close()
    assert path.exists()


def test_sockets_that_fit_are_kept(opened) -> None:
    """So no connection that waits at one of them is lost."""
    before = listen(["127.0.0.1", "127.0.0.2"], 0)
    after = listen(["127.0.0.3", "127.0.0.2"], before.port, replacing=before.sockets)
    opened += [*before.sockets, *after.sockets]
    assert after.sockets[1] is before.sockets[1]
    assert where(after.sockets)[0] == ("127.0.0.3", before.port)


def test_a_taken_address_among_several_opens_none(opened) -> None:
    """The error names it; the sockets that were to be replaced are still open."""
    before = listen(["127.0.0.1"], 0)
    opened += before.sockets
    with socket.create_server(("127.0.0.2", 0)) as stranger:
        taken = f"127.0.0.2:{stranger.getsockname()[1]}"
        with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.2 port \d+.*another"):
            listen(["127.0.0.1", "127.0.0.3", taken], before.port, replacing=before.sockets)
    assert where(before.sockets) == [("127.0.0.1", before.port)]
    with socket.create_server(("127.0.0.3", before.port)):
        pass


async def connects(host: str, port: int) -> bool:
    """Return whether a router answers there."""
    try:
        async with await trio.open_tcp_stream(host, port):
            return True
    except OSError:
        return False


async def test_a_router_listens_on_all_of_them(start, stage) -> None:
    """They are in its status and in the file by which commands find it."""
    own = free_port()
    router = await start(
        {"a": stage.model("a")}, host=["127.0.0.1", "127.0.0.2", f"127.0.0.1:{own}"]
    )
    urls = [f"http://{at}" for at in (f"127.0.0.1:{router.port}", f"127.0.0.2:{router.port}")]
    urls.append(f"http://127.0.0.1:{own}")
    assert (await admin(router, "GET", "status")).json()["urls"] == urls
    runtime = json.loads((router.path.parent / "state" / "router.json").read_text())
    assert runtime["urls"] == urls
    assert await connects("127.0.0.2", router.port)
    assert (await admin(router, "GET", "status", port=own)).status == 200


async def test_a_router_listens_on_a_unix_socket(start, stage, tmp_path) -> None:
    """Beside an address; its URL is in the status, and requests there are served."""
    path = tmp_path / "s"
    router = await start({"a": stage.model("a")}, host=["127.0.0.1", f"unix:{path}"])
    assert (await admin(router, "GET", "status")).json()["urls"][1] == f"unix:{path}"
    client = RawClient(await trio.open_unix_socket(path))
    await client.send(post("/v1/echo", "a"))
    assert (await client.answer()).status == 200
    await client.stream.aclose()
    await router.stop()
    assert not path.exists()


async def test_the_command_line_has_several(tmp_path) -> None:
    """Each ``--host`` is one; together they take the place of those in the file."""
    config = write_config(tmp_path)
    hosts = ("--host", "127.0.0.2", "--host", "127.0.0.3")
    with trio.fail_after(LIMIT_S):
        async with serving(config, *hosts) as router:
            urls = (await router.event("router.ready"))["urls"]
    assert [url.rpartition(":")[0] for url in urls] == ["http://127.0.0.2", "http://127.0.0.3"]


async def test_a_reload_adds_and_removes_addresses(start, stage) -> None:
    """A stream at an address that stays goes on, and so does the address."""
    router = await start({"a": stage.model("a")}, host=["127.0.0.1", "127.0.0.2"])
    client = await router.connect()
    await client.send(post("/v1/script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await client.head()
    own = free_port()
    write(router, host=["127.0.0.1", f"127.0.0.3:{own}"])
    assert (await admin(router, "POST", "reload")).json()["status"] == "applied"
    assert await connects("127.0.0.3", own)
    assert not await connects("127.0.0.2", router.port)
    await scripted.chunk(b"data: 1\n\n")
    assert await client.chunk() == b"data: 1\n\n"
    write(router, host="127.0.0.1")
    assert (await admin(router, "POST", "reload")).json()["status"] == "applied"
    assert not await connects("127.0.0.3", own)
    assert (await admin(router, "GET", "status")).status == 200


async def test_one_public_address_among_several_is_refused(start, stage) -> None:
    """The problem names it by its place in the list."""
    router = await start({"a": stage.model("a")})
    write(router, host=["127.0.0.1", "0.0.0.0:9000"])
    answer = await admin(router, "POST", "reload")
    assert [problem["where"] for problem in answer.json()["problems"]] == ["router.host[1]"]
