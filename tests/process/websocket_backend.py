"""A backend with WebSockets for tests: ``/v1/echo`` echoes, ``/v1/die`` dies at a message.

``/v1/shy`` refuses every handshake, and from then on never answers on that connection. Other
requests for it are answered, and the answer counts those on the same connection.
"""

import os
import socket
import sys
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    RejectConnection,
    Request,
    TextMessage,
)


def serve(connection: socket.socket) -> None:
    """Serve one connection: a health check, or a WebSocket."""
    data = connection.recv(65536)
    if data.startswith(b"GET /health "):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        connection.close()
        return
    if data.startswith(b"GET /v1/shy"):
        serve_shyly(connection, data)
        return
    protocol = WSConnection(ConnectionType.SERVER)
    target = ""
    while data:
        protocol.receive_data(data)
        for event in protocol.events():
            if isinstance(event, Request):
                target = event.target.partition("?")[0]
                known = target in ("/v1/echo", "/v1/die")
                answer: Event = AcceptConnection() if known else RejectConnection(status_code=404)
                connection.sendall(protocol.send(answer))
            elif isinstance(event, TextMessage | BytesMessage):
                if target == "/v1/die":
                    os._exit(1)
                connection.sendall(protocol.send(event))
            elif isinstance(event, CloseConnection):
                connection.sendall(protocol.send(event.response()))
                connection.close()
                return
        data = connection.recv(65536)
    connection.close()


def serve_shyly(connection: socket.socket, data: bytes) -> None:
    """Answer requests, beginning with *data*, up to the first handshake."""
    count = 0
    while b"upgrade:" not in data.lower():
        count += 1
        body = b"%d" % count
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        if not (data := connection.recv(65536)):
            return
    answer = b"HTTP/1.1 404 Not Found\r\nx-before: %d\r\ncontent-length: 0\r\n\r\n" % count
    connection.sendall(answer)
    while connection.recv(65536):
        pass  # it takes this for what follows a handshake


def main() -> None:
    """Listen on the port of the first argument, for ever."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    main()
