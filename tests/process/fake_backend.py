"""A scripted backend for tests: the standard library only, quick to start.

Run with ``python -I -S fake_backend.py --port N [--option value ...]``:

``--control PORT``
    Where the test listens. It is told of every start and every scripted request, and
    sends commands. One JSON object per line in both directions.
``--name TEXT``
    Said to the test, and in every echo.
``--health ok|told|hang|garbage``
    How ``/health`` answers; ``told`` is 503 until the command ``ready``.
``--complain on|off``
    Whether it says that it cannot bind its port.
``--listen at once|told|never``
    When the port is opened; ``told`` waits for the command ``listen``.
``--exit CODE``, ``--say TEXT``
    Print TEXT and exit, before anything else.
``--script PATH``
    Requests to PATH are answered by the test, as those to ``/v1/script``.
``--sigterm ignore``
    Survive SIGTERM.
``--flood on``
    Write to standard output without end.

``/v1/script``, and any other path with ``?script``, is answered with the bytes that the
test sends, when it sends them.
``/v1/big?N`` has a body of N bytes. ``/v1/early`` is refused before its body is read.
Every other path is answered with what was received, as JSON.
"""

import json
import os
import select
import signal
import socket
import sys
import threading
import time

#: A client that takes nothing for so long is reported as stalled, in seconds.
STALL_S = 0.3


class Backend:
    """All connections, and the line to the test."""

    def __init__(self, options: dict[str, str]) -> None:
        self.options = options
        self.name = options.get("--name", "")
        self.ready = options.get("--health", "ok") != "told"
        self.may_listen = threading.Event()
        self.connections: dict[int, socket.socket] = {}
        self.telling = threading.Lock()
        self.control: socket.socket | None = None

    def tell(self, **event: object) -> None:
        """Send *event* to the test."""
        if self.control is not None:
            with self.telling:
                self.control.sendall(json.dumps(event).encode() + b"\n")

    def obey(self) -> None:
        """Do what the test says, in order; end when it ends."""
        assert self.control is not None
        with self.control.makefile("rb") as lines:
            for line in lines:
                self.do(**json.loads(line))
        os._exit(0)

    def do(self, do: str, number: int = 0, data: str = "", code: int = 0) -> None:
        """Carry out one command."""
        match do:
            case "ready":
                self.ready = True
            case "listen":
                self.may_listen.set()
            case "send":
                self.connections[number].sendall(data.encode("latin-1"))
            case "close":
                try:  # noqa: SIM105 - an import of contextlib takes 5 ms of each of many starts
                    self.connections[number].shutdown(socket.SHUT_RDWR)
                except (KeyError, OSError):
                    pass  # the router, which had its whole answer, closed it before
            case "print":
                os.write(1, data.encode())
            case "exit":
                os._exit(code)
            case _:
                raise ValueError(do)
        self.tell(event="done", do=do)

    def run(self) -> None:
        """Start as the options say, then serve without end."""
        options = self.options
        if "--say" in options:
            os.write(1, options["--say"].encode())
        if "--exit" in options:
            os._exit(int(options["--exit"]))
        if options.get("--sigterm") == "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if options.get("--flood") == "on":
            threading.Thread(target=flood, daemon=True).start()
        port = int(options["--port"])
        if "--control" in options:
            self.control = socket.create_connection(("127.0.0.1", int(options["--control"])))
            self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.obey, daemon=True).start()
            self.tell(event="started", name=self.name, port=port, pid=os.getpid())
        if options.get("--listen", "at once") != "at once":
            self.may_listen.wait()
        try:
            listener = socket.create_server(("127.0.0.1", port), backlog=128)
        except OSError as exc:
            if options.get("--complain", "on") == "on":
                os.write(1, f"cannot bind: {exc.strerror}\n".encode())
            os._exit(98)
        number = 0
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number += 1
            self.connections[number] = connection
            threading.Thread(target=self.serve, args=(connection, number), daemon=True).start()

    def serve(self, connection: socket.socket, number: int) -> None:
        """Answer one connection's requests until it ends."""
        reader = Reader(connection)
        try:
            while (head := reader.until(b"\r\n\r\n")) is not None:
                method, target, fields = parse(head)
                if target == "/v1/early":
                    connection.sendall(answer(b'{"early": true}', status="413 Too Large"))
                    break
                body = reader.exactly(int(dict(fields).get("content-length", "0")))
                received = {
                    "number": number,
                    "method": method,
                    "target": target,
                    "fields": fields,
                    "body": body.decode("latin-1"),
                }
                self.respond(connection, received)
        except OSError:
            pass
        finally:
            self.tell(event="gone", number=number, at_s=time.monotonic())
            del self.connections[number]
            connection.close()

    def respond(self, connection: socket.socket, received: dict[str, object]) -> None:
        """Answer one request, or leave that to the test."""
        target = str(received["target"])
        scripted = ("/v1/script", self.options.get("--script"))
        if target in scripted or target.endswith("?script"):
            self.tell(event="request", **received)
        elif target.startswith("/v1/big?"):
            self.send_big(connection, int(target.partition("?")[2]))
        elif target == "/health":
            self.answer_health(connection)
        else:
            text = json.dumps({"name": self.name, "pid": os.getpid(), **received}).encode()
            connection.sendall(answer(text, bodiless=received["method"] == "HEAD"))

    def answer_health(self, connection: socket.socket) -> None:
        """Answer as ``--health`` says."""
        match self.options.get("--health", "ok"):
            case "hang":
                self.tell(event="hanging")
                threading.Event().wait()
            case "garbage":
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            case _ if self.ready:
                connection.sendall(answer(b'{"status": "ok"}'))
            case _:
                connection.sendall(answer(b'{"status": "loading"}', status="503 Loading"))

    def send_big(self, connection: socket.socket, size_bytes: int) -> None:
        """Send a body of *size_bytes*; say how much was taken when the client stalls."""
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size_bytes)
        connection.setblocking(False)
        piece = memoryview(b"x" * 65536)
        sent_bytes = 0
        while sent_bytes < size_bytes:
            if not select.select([], [connection], [], STALL_S)[1]:
                self.tell(event="stalled", sent_bytes=sent_bytes)
                select.select([], [connection], [])
            sent_bytes += connection.send(piece[: size_bytes - sent_bytes])
        connection.setblocking(True)


class Reader:
    """Reads a connection; what came too early is kept for the next call."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.buffer = b""

    def until(self, end: bytes) -> bytes | None:
        """Return what is before *end*; None if the connection ends."""
        while end not in self.buffer:
            data = self.connection.recv(65536)
            if not data:
                return None
            self.buffer += data
        found, _, self.buffer = self.buffer.partition(end)
        return found

    def exactly(self, size_bytes: int) -> bytes:
        """Return that many bytes; raise OSError if the connection ends before."""
        while len(self.buffer) < size_bytes:
            data = self.connection.recv(65536)
            if not data:
                raise ConnectionResetError
            self.buffer += data
        found, self.buffer = self.buffer[:size_bytes], self.buffer[size_bytes:]
        return found


def parse(head: bytes) -> tuple[str, str, list[tuple[str, str]]]:
    """Return method, target and fields of a request head."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = [line.partition(":") for line in lines]
    return method, target, [(name.lower(), value.strip()) for name, _, value in pairs]


def answer(body: bytes, *, status: str = "200 OK", bodiless: bool = False) -> bytes:
    """Return a whole JSON answer."""
    fields = f"content-type: application/json\r\ncontent-length: {len(body)}"
    head = f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n"
    return head.encode() + (b"" if bodiless else body)


def flood() -> None:
    """Write lines, and now and then half of one, as fast as they are taken."""
    block = (b"f" * 127 + b"\n") * 500 + b"half a line"
    while True:
        os.write(1, block)


if __name__ == "__main__":
    Backend(dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))).run()
