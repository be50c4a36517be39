"""A scripted backend: ``backend.py PORT [READY_S] [--hides FILE]``.

``/health`` is 200 after READY_S seconds. With ``--hides`` it starts a process that leaves its
session and its parent, and writes the pid of that to FILE. A chat with ``"eat_mib": N`` takes so
much memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ATE: list[bytearray] = []


class Handler(BaseHTTPRequestHandler):
    """Answers health checks and chats."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Say whether it is ready."""
        ready = time.monotonic() - BEGUN_S >= READY_S
        self._answer(200 if ready else 503, {"status": "ok" if ready else "loading"})

    def do_POST(self) -> None:
        """Answer a chat, or eat."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        ATE.extend(bytearray(b"x" * 2**20) for _ in range(body.get("eat_mib", 0)))
        message = {"role": "assistant", "content": "hello"}
        self._answer(200, {"choices": [{"index": 0, "message": message}]})

    def _answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def hide(file: str) -> None:
    """Start a process in a session of its own whose parent is gone."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if pid := os.fork():
        Path(file).write_text(str(pid))
        os._exit(0)
    os.closerange(0, 100)
    while True:
        time.sleep(1000)


BEGUN_S = time.monotonic()
words = sys.argv[1:]
if "--hides" in words:
    at = words.index("--hides")
    hide(words[at + 1])
    del words[at : at + 2]
READY_S = float(words[1]) if len(words) > 1 else 0.0
ThreadingHTTPServer(("127.0.0.1", int(words[0])), Handler).serve_forever()
