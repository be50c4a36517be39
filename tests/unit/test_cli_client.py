"""How commands find a running router."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from llama_router.cli.client import AdminClient
from llama_router.cli.failures import RefusedByRouterError
from llama_router.cli.options import Connection
from llama_router.cli.router_search import Token, find_router

MISTAKES = ["[models.m\n", "x = \n", 'a = "\n', "[[router]]\n"]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_router_is_found_though_its_configuration_is_not_valid_toml(tmp_path, mistake) -> None:
    """It runs on with the last good one, and whoever made the mistake asks it what is wrong."""
    config = tmp_path / "router.toml"
    config.write_text(
        f'[router] # here\nport = 1\nstate_dir = "st"  # there\n\n[models.a]\n{mistake}'
    )
    facts = {"pid": os.getpid(), "urls": ["http://x"], "config": str(config), "token_file": ""}
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "router.json").write_text(json.dumps(facts))
    assert find_router(Connection(config=config), {"HOME": str(tmp_path)}).urls == ("http://x",)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"host": self.headers["Host"], "path": self.path}).encode()
        knows = self.headers["Authorization"] != "Bearer outdated"
        self.send_response(200 if knows else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "unix"


@pytest.fixture
def socket_path(tmp_path) -> Iterator[Path]:
    """Where something answers."""
    with _Server(str(tmp_path / "s"), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield tmp_path / "s"
        server.shutdown()
        thread.join()


def test_commands_reach_a_router_that_listens_on_a_unix_socket(socket_path) -> None:
    """Its URL is ``unix:`` and the path; to it, they call it localhost."""
    client = AdminClient(f"unix:{socket_path}", Token("secret", "a test"))
    assert client.get("/admin/status") == {"host": "localhost", "path": "/admin/status"}


def test_commands_do_not_ask_a_router_that_listens_everywhere_by_that_address() -> None:
    """The router answers to 127.0.0.1; of the address 0.0.0.0 pages make use."""
    with socketserver.ThreadingTCPServer(("0.0.0.0", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        port = server.server_address[1]
        client = AdminClient(f"http://0.0.0.0:{port}/", Token("secret", "a test"))
        assert client.get("/admin/status")["host"] == f"127.0.0.1:{port}"
        server.shutdown()
        thread.join()


def test_a_token_that_was_changed_just_now_is_read_again(socket_path) -> None:
    """Once: a command does not go on trying, and says where the refused one is from."""
    tokens = [Token("outdated", "there"), Token("current", "there")]
    url = f"unix:{socket_path}"
    client = AdminClient(url, tokens[0], renew=lambda: tokens[1])
    with client.stream("/admin/logs/a") as lines:
        assert json.loads(next(lines))["path"] == "/admin/logs/a"
    assert client.get("/admin/status")["path"] == "/admin/status"
    client = AdminClient(url, tokens[0], renew=lambda: tokens[0])
    with pytest.raises(RefusedByRouterError) as refused:
        client.get("/admin/status")
    assert "is from there" in refused.value.cure
