"""Tools of the checks in the virtual machine: commands, the journal, requests, processes.

Only the standard library: checks run on the Python of the system, outside the router's.
"""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: This repository in the machine; every user may read it.
REPOSITORY = Path(__file__).parents[3]

CONFIG = Path("/etc/llama-router/router.toml")
DROP_INS = Path("/etc/systemd/system/llama-router.service.d")
HIDDEN_PID = Path("/var/lib/llama-router/hidden.pid")
TINY = Path("/srv/models/tiny.gguf")

#: The seconds that anything may take: the machine is emulated, and its host is busy.
LIMIT_S = 240

#: The seconds until the startup model is ready.
READY_S = 3

_BACKEND = f"/usr/bin/python3 {REPOSITORY}/tests/vm/guest/backend.py $port"

CONFIGURATION = f"""\
[router]
startup_model = "plain"
scan_caches = false

[models.plain]
group = "all"
spawn.command = {json.dumps([*_BACKEND.split(), str(READY_S)])}

[models.eater]
group = "all"
spawn.command = {json.dumps(_BACKEND.split())}

[models.hider]
group = "all"
spawn.command = {json.dumps([*_BACKEND.split(), "--hides", str(HIDDEN_PID)])}

[models.tiny]
group = "all"
path = "{TINY}"
"""

_GUIDE = REPOSITORY / "docs/how-to/install-as-a-service.md"


def run(*command: str, status: int = 0, env: dict[str, str] | None = None) -> str:
    """Run *command* in the repository; return all that it printed."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=LIMIT_S,
        cwd=REPOSITORY,
        env=None if env is None else os.environ | env,
    )
    print(f"$ {shlex.join(command)}\n{done.stdout}", end="", flush=True)
    assert done.returncode == status, f"{shlex.join(command)}: exit status {done.returncode}"
    return done.stdout


def follow(commands: Sequence[str]) -> None:
    """Run *commands* of the how-to; in place of an editor, the checks' configuration is written."""
    for line in commands:
        if line.startswith("sudoedit "):
            write_configuration()
        else:
            run("bash", "-c", line)


def guide(heading: str) -> list[list[str]]:
    """Return the blocks of commands below *heading* of the how-to about the service."""
    text = _GUIDE.read_text()
    section = re.split(rf"^## {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^## ", section, flags=re.MULTILINE)[0]
    blocks = re.findall(r"^```\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in blocks]


def write_configuration(more: str = "") -> None:
    """Write the configuration of the checks, and *more* behind it."""
    CONFIG.write_text(CONFIGURATION + more)


def running(drop_in: str | None = None) -> None:
    """Make sure that the service runs, with the configuration of the checks and *drop_in*."""
    write_configuration()
    DROP_INS.mkdir(exist_ok=True)
    file = DROP_INS / "check.conf"
    if drop_in is None and not file.exists() and show("ActiveState") == "active":
        return
    file.unlink(missing_ok=True)
    if drop_in is not None:
        file.write_text(drop_in)
    run("systemctl", "daemon-reload")
    run("systemctl", "reset-failed", "llama-router")
    run("systemctl", "restart", "llama-router")


def show(name: str, *, unit: str = "llama-router") -> str:
    """Return a property of a unit."""
    return run("systemctl", "show", "-P", name, unit).strip()


def main_pid() -> int:
    """Return the pid of the router."""
    return int(show("MainPID"))


def ask(path: str, body: object = None) -> tuple[int, Any]:
    """Return the status of the router's answer, and its JSON."""
    request = urllib.request.Request(
        f"http://127.0.0.1:8082{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
            return response.status, json.loads(response.read() or b"null")
    except urllib.error.HTTPError as exc:
        return exc.code, json.loads(exc.read() or b"null")


def chat(model: str, **more: object) -> tuple[int, Any]:
    """Ask *model* one question."""
    messages = [{"role": "user", "content": "hello"}]
    return ask("/v1/chat/completions", {"model": model, "messages": messages, **more})


def pids() -> dict[str, int]:
    """Return the pid of each model's backend."""
    listed = json.loads(run("sudo", "llama-router", "ps", "--json"))
    return {model["id"]: model["pid"] for model in listed if model["pid"]}


def is_alive(pid: int) -> bool:
    """Return whether there is a process that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Ending:
    """A process that must end: opened while it runs, so that no other can have its pid."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def wait(self, limit_s: float = LIMIT_S) -> None:
        """Wait for the end of the process."""
        assert select.select([self._fd], [], [], limit_s)[0], f"pid {self.pid} did not end"


class Journal:
    """The entries of the journal from now on."""

    def __init__(self, *match: str) -> None:
        self._match = match or ("--unit=llama-router",)
        out = run("journalctl", "--lines=0", "--show-cursor")
        self._cursor = out.partition("-- cursor: ")[2].strip()

    def wait(self, limit_s: float = LIMIT_S, **fields: str) -> dict[str, Any]:
        """Return the next entry that has *fields*; each value is a regular expression."""
        command = ["journalctl", "--follow", "--output=json", f"--after-cursor={self._cursor}"]
        until_s = time.monotonic() + limit_s
        with subprocess.Popen([*command, *self._match], stdout=subprocess.PIPE) as reader:
            try:
                assert reader.stdout is not None
                buffer = b""
                while (left_s := until_s - time.monotonic()) > 0:
                    if not select.select([reader.stdout], [], [], left_s)[0]:
                        break
                    *lines, buffer = (buffer + os.read(reader.stdout.fileno(), 2**16)).split(b"\n")
                    for line in lines:
                        entry = json.loads(line)
                        self._cursor = entry["__CURSOR"]
                        if all(
                            re.search(pattern, str(entry.get(name)))
                            for name, pattern in fields.items()
                        ):
                            print(f"journal: {entry.get('MESSAGE')}", flush=True)
                            return entry
            finally:
                reader.kill()
        raise AssertionError(f"the journal did not have {fields} within {limit_s} s")
