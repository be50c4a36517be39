"""A router ends in time, whatever hangs."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable

import pytest
import tomli_w
import trio

from llama_router.control.admin import settings
from llama_router.process.instances import InstanceRecord
from llama_router.supervisor import address
from tests.limits import LIMIT_S
from tests.process.harness import Router, request

pytestmark = pytest.mark.process


class Hanging:
    """Hangs whoever calls it, until the test is over."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.over = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def __call__(self, *_: object, **__: object) -> None:
        """Hang."""
        self._token.run_sync_soon(self.entered.set)
        self.over.wait()


@pytest.fixture
async def hanging() -> AsyncIterator[Hanging]:
    """Stands for a file system or a name server that says nothing."""
    hanging = Hanging()
    yield hanging
    hanging.over.set()


async def test_a_record_that_cannot_be_removed(start: Callable, monkeypatch, hanging) -> None:
    """Whatever is wrong with the file system of the state directory."""
    router: Router = await start({})
    monkeypatch.setattr(InstanceRecord, "close", hanging)
    with trio.fail_after(LIMIT_S):
        await router.stop()


async def test_a_new_address_whose_name_is_being_looked_up(
    start: Callable, stage, monkeypatch, hanging
) -> None:
    """A reload that does not get on is given up at the end."""
    router: Router = await start({})
    monkeypatch.setattr(address, "listen", hanging)
    document = router.document | {"router": router.document["router"] | {"host": "localhost"}}
    router.path.write_text(tomli_w.dumps(document))
    router.requests.reload()
    await hanging.entered.wait()
    with trio.fail_after(LIMIT_S):
        await router.stop()


async def test_a_request_that_reads_a_file(start: Callable, monkeypatch, hanging) -> None:
    """A client of the control plane that is still being answered is cut off in time."""
    router: Router = await start({"a": {"path": "a.gguf"}}, admin_token="secret-secret-secret")
    monkeypatch.setattr(settings, "read_config", hanging)
    client = await router.connect()
    await client.send(
        request("GET", "/admin/settings?model=a", x_admin_token="secret-secret-secret")
    )
    await hanging.entered.wait()
    router.requests.force_stop.set()
    with trio.fail_after(LIMIT_S):
        await router.stop()
