"""Time in which the router was stopped, a paused machine for instance, is nobody's delay."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.process.harness import Stage
from tests.process.real import LIMIT_S, RealRouter, chat, serving, write_config

pytestmark = pytest.mark.process

#: What the tests set as a limit, and for how long all stand still, in seconds.
TIMEOUT_S = 2.0
PAUSE_S = TIMEOUT_S + 1.0


@contextmanager
def stopped(router: RealRouter) -> Iterator[None]:
    """Stop the router and all that it started, as a paused machine does."""
    pids = [router.process.pid, *router.family()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_a_start_does_not_fail_for_time_in_which_nothing_ran(
    tmp_path: Path, stage: Stage
) -> None:
    """A pause longer than ready_timeout_s while a model loads fails no request."""
    command = stage.model("slow", "--health", "told")["spawn"]["command"]
    table = (
        f"\n[models.slow.spawn]\ncommand = {json.dumps(command)}\nready_timeout_s = {TIMEOUT_S}\n"
    )
    answers = []

    async def ask(router: RealRouter) -> None:
        async with router.client() as client:
            answers.append(await client.post("/v1/chat/completions", json=chat("slow")))

    with trio.fail_after(LIMIT_S):
        async with (
            serving(write_config(tmp_path, table)) as router,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(ask, router)
            backend = await stage.backend("slow")
            await router.event("backend.spawned", model="slow")
            with stopped(router):
                await trio.sleep(PAUSE_S)
            await backend.do("ready")
        assert [answer.status_code for answer in answers] == [200]


#: Says when it is asked to end, and ends in good order when it is allowed to.
_SLOW_TO_END = """
import http.server, os, signal, sys

port, said, allowed, clean = int(sys.argv[1]), *sys.argv[2:]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

def end(*_):
    with open(said, "w") as file:
        file.write("asked")
    with open(allowed) as file:
        file.read(1)
    open(clean, "w").close()
    os._exit(0)

signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


async def test_a_stop_leaves_the_grace_though_nothing_ran_meanwhile(tmp_path: Path) -> None:
    """A pause longer than stop_timeout_s while a backend ends does not get it killed."""
    script, said, allowed, clean = (tmp_path / name for name in ("end.py", "said", "go", "clean"))
    script.write_text(_SLOW_TO_END)
    os.mkfifo(said)
    os.mkfifo(allowed)
    command = [sys.executable, "-I", str(script), "$port", *map(str, (said, allowed, clean))]
    table = f"\n[models.a.spawn]\ncommand = {json.dumps(command)}\nstop_timeout_s = {TIMEOUT_S}\n"
    with trio.fail_after(LIMIT_S):
        async with (
            serving(write_config(tmp_path, table)) as router,
            trio.lowlevel.FdStream(os.open(said, os.O_RDWR)) as asked,
            router.client() as client,
        ):
            await client.post("/v1/completions", json={"model": "a"})
            await router.event("backend.ready", model="a")
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            await client.post(
                "/models/unload", json={"model": "a"}, headers={"x-admin-token": token}
            )
            await asked.receive_some()
            with stopped(router):
                await trio.sleep(PAUSE_S)
            go = os.open(allowed, os.O_RDWR)
            os.write(go, b"!")
            await router.event("backend.stopped", model="a")
            os.close(go)
            assert clean.exists()
            assert not router.named("backend.stuck")
