"""A backend for sounds and pictures: the standard library only. Its one argument is a port.

It hears and draws nothing, but reads its requests as strictly as a real one, and says in
its answers what it got.
"""

import base64
import email.parser
import email.policy
import hashlib
import http.server
import json
import sys
from typing import Any, ClassVar

#: A sound: binary, and longer than what fits into one segment.
SOUND = bytes(range(256)) * 1024


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    ANSWERS: ClassVar = {
        "/v1/audio/transcriptions": "hear",
        "/v1/audio/translations": "hear",
        "/v1/audio/speech": "speak",
        "/v1/images/generations": "draw",
        "/v1/images/edits": "redraw",
        "/v1/chat/completions": "call",
    }

    def do_GET(self) -> None:
        """Say that all is well."""
        self.answer("text/plain", b"ok")

    def do_POST(self) -> None:
        """Answer by the path."""
        body = self.rfile.read(int(self.headers["content-length"]))
        getattr(self, self.ANSWERS[self.path])(body)

    def hear(self, body: bytes) -> None:
        """Say what was uploaded, in the format that was asked for."""
        form = self.form(body)
        ((name, sound),) = form["file"]
        text = f"{name}, {len(sound)} bytes, {hashlib.sha256(sound).hexdigest()}"
        if self.value(form, "stream") == "true":
            self.events(
                {"type": "transcript.text.delta", "delta": text[:10]},
                {"type": "transcript.text.delta", "delta": text[10:]},
                {"type": "transcript.text.done", "text": text},
            )
        elif self.value(form, "response_format") == "text":
            self.answer("text/plain", text.encode())
        else:
            self.json({"text": text, "language": self.value(form, "language")})

    def speak(self, body: bytes) -> None:
        """Send a sound in chunks, without saying how long it is."""
        assert json.loads(body)["input"]
        self.begin("audio/mpeg")
        for at in range(0, len(SOUND), 10_000):
            self.chunk(SOUND[at : at + 10_000])
        self.chunk(b"")

    def draw(self, body: bytes) -> None:
        """Send as many pictures as were asked for."""
        asked = json.loads(body)
        pictures = [f"{asked['prompt']} {n}".encode() for n in range(asked.get("n", 1))]
        self.json({"created": 1, "data": [{"b64_json": encoded(p)} for p in pictures]})

    def redraw(self, body: bytes) -> None:
        """Send back the pictures that came."""
        form = self.form(body)
        pictures = [data for name in ("image", "image[]") for _, data in form.get(name, ())]
        self.json({"created": 1, "data": [{"b64_json": encoded(p)} for p in pictures]})

    def call(self, body: bytes) -> None:
        """Call the first tool."""
        asked = json.loads(body)
        tool = asked["tools"][0]["function"]["name"]
        first = {"index": 0, "id": "c1", "type": "function"}
        self.events(
            *[
                {
                    "id": "x",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": asked["model"],
                    "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
                }
                for delta, reason in (
                    ({"tool_calls": [first | {"function": {"name": tool, "arguments": ""}}]}, None),
                    ({"tool_calls": [{"index": 0, "function": {"arguments": '{"at": '}}]}, None),
                    ({"tool_calls": [{"index": 0, "function": {"arguments": '"sea"}'}}]}, None),
                    ({}, "tool_calls"),
                )
            ]
        )

    def form(self, body: bytes) -> dict[str, list[tuple[str | None, bytes]]]:
        """Return file name and content of each part, by the name of its field."""
        head = f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode()
        parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        assert parsed.is_multipart(), body[:100]
        found: dict[str, list[tuple[str | None, bytes]]] = {}
        for part in parsed.iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            assert isinstance(name, str)
            assert isinstance(content, bytes)
            found.setdefault(name, []).append((part.get_filename(), content))
        return found

    @staticmethod
    def value(form: dict[str, list[tuple[str | None, bytes]]], name: str) -> str | None:
        """Return the value of a field."""
        return form[name][0][1].decode() if name in form else None

    def json(self, document: dict[str, Any]) -> None:
        """Send *document*."""
        self.answer("application/json", json.dumps(document).encode())

    def answer(self, content_type: str, body: bytes) -> None:
        """Send *body*, with its length."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self, *documents: dict[str, Any]) -> None:
        """Send an event stream."""
        self.begin("text/event-stream")
        for document in documents:
            self.chunk(b"data: " + json.dumps(document).encode() + b"\n\n")
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def begin(self, content_type: str) -> None:
        """Send the head of an answer in chunks."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        """Send a chunk; an empty one is the last."""
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def encoded(data: bytes) -> str:
    """Return *data* in base64."""
    return base64.b64encode(data).decode()


if __name__ == "__main__":
    address = ("127.0.0.1", int(sys.argv[1]))
    http.server.ThreadingHTTPServer(address, Handler).serve_forever()
