"""Acts as docker and as dockerd: ``scripted_docker.py SOCKET dockerd`` or ``SOCKET run|rm|...``.

Containers are children of dockerd, so they outlive their client, as real ones do. It knows what
the router and its tests use: ``run [--rm] --name N -p A:B:C IMAGE COMMAND...``,
``container inspect --format F N``, ``rm --force N``, ``stop N``. While the file ``SOCKET.down``
is there, dockerd answers nothing but an error; the words of all commands are in ``SOCKET.log``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class Dockerd:
    """The service: it has the containers."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.containers: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, path: Path) -> None:
        """Answer clients for ever."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        signal.signal(signal.SIGTERM, self.end)
        say("ready")
        while True:
            stream = listener.accept()[0]
            threading.Thread(target=self.answer, args=(stream,), daemon=True).start()

    def end(self, _signum: int, _frame: object) -> None:
        """End with all containers."""
        for container in list(self.containers.values()):
            container.kill()
        os._exit(0)

    def answer(self, stream: socket.socket) -> None:
        """Answer one client."""
        with contextlib.suppress(OSError), stream, stream.makefile("rw") as file:
            asked = json.loads(file.readline())
            for reply in getattr(self, asked.pop("op"))(**asked):
                # A client may be gone; its container is not.
                with contextlib.suppress(OSError):
                    stream.sendall(json.dumps(reply).encode() + b"\n")

    def run(self, name: str, argv: list[str], *, removes: bool) -> Any:
        """Run a container; its client waits for the exit."""
        with self.lock:
            if name in self.containers:
                yield {"error": f'Conflict. The container name "/{name}" is already in use.'}
                return
            container = subprocess.Popen(
                argv, start_new_session=True, stdout=subprocess.DEVNULL, env={"PATH": "/bin"}
            )
            self.containers[name] = container
        yield {"pid": container.pid}
        status = container.wait()
        if removes:
            with self.lock:
                self.containers.pop(name, None)
        yield {"status": status if status >= 0 else 128 - status}

    def inspect(self, name: str) -> Any:
        """Say whether a container is there."""
        with self.lock:
            known = name in self.containers
        yield {"output": name} if known else {"error": f"Error: No such container: {name}"}

    def rm(self, name: str) -> Any:
        """End and forget a container."""
        with self.lock:
            container = self.containers.get(name)
        if container is not None:
            container.kill()
            container.wait()
            with self.lock:
                self.containers.pop(name, None)
        yield {"output": name}

    def signal(self, name: str, signum: int) -> Any:
        """Signal a container."""
        with self.lock:
            container = self.containers.get(name)
        if container is None:
            yield {"error": f"Error: No such container: {name}"}
            return
        container.send_signal(signum)
        yield {"output": name}


class Client:
    """The command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def ask(self, op: str, **fields: Any) -> Any:
        """Yield the replies of dockerd."""
        if Path(f"{self.path}.down").exists():
            sys.exit("Cannot connect to the Docker daemon. Is the docker daemon running?")
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(self.path))
            with stream.makefile("rw") as file:
                print(json.dumps({"op": op, **fields}), file=file, flush=True)
                for line in file:
                    reply = json.loads(line)
                    if "error" in reply:
                        say(reply["error"])
                        sys.exit(125 if op == "run" else 1)
                    yield reply

    def run(self, words: list[str]) -> int:
        """Run a container, pass SIGTERM on to it, and exit as it does."""
        name, at = "", 0
        while words[at].startswith("-"):
            if words[at] == "--name":
                name = words[at + 1]
            at += 1 if words[at] in ("--rm", "--init") else 2

        def forward(signum: int, _frame: object) -> None:
            for _ in self.ask("signal", name=name, signum=signum):
                pass

        signal.signal(signal.SIGTERM, forward)  # before there is anything to signal
        for reply in self.ask("run", name=name, argv=words[at + 1 :], removes="--rm" in words):
            if "pid" in reply:
                say(f"container {name} runs")
            else:
                return int(reply["status"])
        return 1

    def other(self, words: list[str]) -> int:
        """Run any other command."""
        match words:
            case ["container", "inspect", "--format", _, name]:
                replies = self.ask("inspect", name=name)
            case ["rm", "--force", name]:
                replies = self.ask("rm", name=name)
            case ["stop", name]:
                replies = self.ask("signal", name=name, signum=signal.SIGTERM)
            case _:
                sys.exit(f"docker: {words} is not a command")
        for reply in replies:
            say(reply["output"])
        return 0


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Act as the words say."""
    path, *words = Path(sys.argv[1]), *sys.argv[2:]
    if words == ["dockerd"]:
        Dockerd().serve(path)
    with Path(f"{path}.log").open("a") as file:
        print(*words, file=file)
    client = Client(path)
    return client.run(words[1:]) if words[0] == "run" else client.other(words)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
