"""An offline hub for tests: the API and the files of repositories in a folder, with faults.

``ROOT/USER/REPO/FILES…`` is what it has. Faults are attributes, and may be changed while it
runs. Run as a program it takes ROOT and prints its URL.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit


class HubServer(ThreadingHTTPServer):
    """The hub; a context manager that serves in a thread.

    Attributes:
        url: What belongs into HF_ENDPOINT.
        log: One entry for each request: method, path, fields, and range if it sent a file.
        token: What gated repositories ask for.
        known_tokens: Tokens that it accepts at all; any other one is wrong.
        gated: Repositories that only *token* opens.
        answers: Status and fields to answer the next requests with, before anything else.
        drop_after: A file's connection ends after so many bytes; None lets it live.
        drops: How many connections are dropped so; None means all.
        stall_after: After so many bytes of a file nothing more comes, until `released`.
        stall_api: The API says nothing, until `released`.
        rate: Bytes of a file in a second.
        flip: One byte of every file is another.
        lie_size: Added to the size that the API announces.
        ignore_range: Whole files only.
        direct: Files come from the hub itself, without a redirect.
        cdn_answers: Like *answers*, for the host that it redirects to.
        extra_siblings: More entries for the list of files.
        extra_found: More entries for the answer to a search.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, root: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.cdn = f"http://localhost:{self.server_port}"  # another host, for all clients know
        self.log: list[dict[str, Any]] = []
        self.token: str | None = None
        self.known_tokens: set[str] = set()
        self.gated: set[str] = set()
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.cdn_answers: list[tuple[int, dict[str, str]]] = []
        self.drop_after: int | None = None
        self.drops: int | None = None
        self.stall_after: int | None = None
        self.stall_api = False
        self.stalled = threading.Event()
        self.released = threading.Event()
        self.rate = 0.0
        self.flip = False
        self.lie_size = 0
        self.ignore_range = False
        self.direct = False
        self.extra_siblings: list[dict[str, Any]] = []
        self.extra_found: list[Any] = []
        self._hashes: dict[tuple[Path, int, int], str] = {}

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet: clients that leave in the middle are what is tested."""

    def served(self, path: str) -> list[dict[str, Any]]:
        """Return the requests for which bytes of files whose path ends so were sent."""
        return [entry for entry in self.log if entry.get("file", "").endswith(path)]

    def sha256(self, path: Path) -> str:
        """Return the hash of a file, remembered as long as it does not change."""
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if key not in self._hashes:
            with path.open("rb") as file:
                self._hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[key]

    def spelled(self, repo: str) -> str:
        """Return the name of a repository as it is: the hub does not mind upper and lower case."""
        folders = (path.relative_to(self.root).as_posix() for path in self.root.glob("*/*"))
        return next((name for name in folders if name.lower() == repo.lower()), repo)

    def files(self, repo: str) -> list[Path]:
        """Return the files of a repository, by path."""
        return sorted(path for path in (self.root / repo).rglob("*") if path.is_file())

    def commit(self, repo: str) -> str:
        """Return a hash that changes with the repository."""
        content = [f"{path}{self.sha256(path)}" for path in self.files(repo)]
        return hashlib.sha1("".join(content).encode()).hexdigest()

    def sibling(self, repo: str, path: Path) -> dict[str, Any]:
        """Return how the API describes a file."""
        size = path.stat().st_size + self.lie_size
        entry = {"rfilename": path.relative_to(self.root / repo).as_posix(), "size": size}
        if path.suffix != ".gguf":
            data = path.read_bytes()
            return entry | {"blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        lfs = {"sha256": self.sha256(path), "size": size, "pointerSize": 130}
        return entry | {"blobId": "0" * 40, "lfs": lfs}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        hub = self.server
        path = unquote(urlsplit(self.path).path)
        self.entry: dict[str, Any] = {
            "method": self.command,
            "path": path,
            "fields": {k.lower(): v for k, v in self.headers.items()},
        }
        hub.log.append(self.entry)
        if found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            if not self._scripted(hub.cdn_answers):
                self._send_file(hub.root / found[1] / found[2])
        elif self._scripted(hub.answers):
            pass
        elif path == "/api/models":
            self._search(parse_qs(urlsplit(self.path).query))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/main)?", path):
            self._describe(hub.spelled(found[1]))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(hub.spelled(found[1]), found[2], found[3])
        else:
            self._refuse(404, "RepoNotFound", "Sorry, there is no such page.")

    do_HEAD = do_GET  # noqa: N815 -- the name that http.server looks for

    def _scripted(self, answers: list[tuple[int, dict[str, str]]]) -> bool:
        if not answers:
            return False
        status, fields = answers.pop(0)
        self._send(status, b"{}", fields.items())
        return True

    def _send(self, status: int, body: bytes, fields: Iterable[tuple[str, str]] = ()) -> None:
        self.entry["status"] = status
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        fields = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), fields.items())

    def _denied(self, repo: str, *, file: bool) -> bool:
        """Answer as the hub does to those who may not see or have what they ask for."""
        hub = self.server
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.known_tokens:
            message = "Invalid credentials in Authorization header"
            self._refuse(401, "", message)
        elif not (hub.root / repo).is_dir():
            if token:
                self._refuse(404, "RepoNotFound", "Repository not found")
            else:
                self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif file and repo in hub.gated and token != hub.token:
            self._refuse(403 if token else 401, "GatedRepo", f"Access to {repo} is restricted.")
        else:
            return False
        return True

    def _search(self, query: dict[str, list[str]]) -> None:
        """List the repositories with all words in their names, as the hub does."""
        hub = self.server
        self.entry["query"] = query
        if hub.stall_api:
            hub.stalled.set()
            hub.released.wait()
        words = query.get("search", [""])[0].lower().split()
        names = sorted(path.relative_to(hub.root).as_posix() for path in hub.root.glob("*/*"))
        found: list[Any] = [
            {
                "id": name,
                "downloads": 10,
                "likes": 1,
                "gated": "auto" if name in hub.gated else False,
                "lastModified": "2026-11-01T10:00:00.000Z",
                "pipeline_tag": "text-generation",
            }
            for name in names
            if all(word in name.lower() for word in words)
        ]
        answer = json.dumps(found + hub.extra_found).encode()
        self._send(200, answer, {"Content-Type": "application/json"}.items())

    def _describe(self, repo: str) -> None:
        hub = self.server
        if hub.stall_api:
            hub.stalled.set()
            hub.released.wait()
        if self._denied(repo, file=False):
            return
        siblings = [hub.sibling(repo, path) for path in hub.files(repo)]
        document = {
            "id": repo,
            "sha": hub.commit(repo),
            "private": False,
            "gated": "auto" if repo in hub.gated else False,
            "siblings": siblings + hub.extra_siblings,
        }
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"}.items())

    def _resolve(self, repo: str, commit: str, name: str) -> None:
        hub = self.server
        path = hub.root / repo / name
        if self._denied(repo, file=True):
            return
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif commit not in {"main", hub.commit(repo)}:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
        elif hub.direct or path.suffix != ".gguf":
            self._send_file(path)
        else:
            fields = {
                "Location": f"{hub.cdn}/cdn/{repo}/{name}?signed=1",
                "X-Repo-Commit": hub.commit(repo),
                "X-Linked-Size": str(path.stat().st_size),
                "X-Linked-Etag": f'"{hub.sha256(path)}"',
            }
            self._send(302, b"", fields.items())

    def _send_file(self, path: Path) -> None:
        hub, size = self.server, path.stat().st_size
        start, end = 0, size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not hub.ignore_range:
            start = int(asked[1])
            end = min(size, int(asked[2]) + 1) if asked[2] else size
            if start >= size:
                self._send(416, b"")
                return
        self.entry |= {"file": str(path), "start": start, "sent": 0}
        is_part = start > 0 or end < size
        self.send_response(206 if is_part else 200)
        if is_part:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(path, start, end)

    def _send_body(self, path: Path, start: int, end: int) -> None:
        hub = self.server
        began_s = time.monotonic()
        with path.open("rb") as file:
            file.seek(start)
            while data := file.read(min(65536, end - file.tell())):
                if hub.flip and not start and not self.entry["sent"]:
                    data = bytes([data[0] ^ 255]) + data[1:]
                if hub.drop_after is not None and hub.drops != 0:
                    data = data[: hub.drop_after - self.entry["sent"]]
                if hub.stall_after is not None:
                    data = data[: hub.stall_after - self.entry["sent"]]
                self.wfile.write(data)
                self.entry["sent"] += len(data)
                if self.entry["sent"] == hub.stall_after:
                    hub.stalled.set()
                    hub.released.wait()
                    return
                if self.entry["sent"] == hub.drop_after and hub.drops != 0:
                    hub.drops = None if hub.drops is None else hub.drops - 1
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if hub.rate:
                    late_s = self.entry["sent"] / hub.rate - (time.monotonic() - began_s)
                    time.sleep(max(late_s, 0))


if __name__ == "__main__":
    with HubServer(Path(sys.argv[1])) as server:
        print(server.url, flush=True)  # noqa: T201 -- for who started it
        threading.Event().wait()
