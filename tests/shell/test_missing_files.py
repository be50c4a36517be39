"""Models that were given up for a file, on a virtual clock."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from llama_router.core.config.names import ModelId
from llama_router.core.config.specs import ModelSpec
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.dispatch import missing_files
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.missing_files import POLL_S, watch_missing_files
from llama_router.errors.backends import BackendExitedError
from tests.shell.test_dispatcher import config

A = ModelId("a")


async def fail_for_good(spec: ModelSpec, report: Any) -> None:
    """Fail as a backend with a damaged model does."""
    error = BackendExitedError(str(spec.id), 1, cause="broken_model")
    error.retryable = False
    raise error


@pytest.fixture
async def dispatcher(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Dispatcher:
    """Return a dispatcher whose model failed, and whose files are watched."""

    async def at_once(look: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return look(*args)

    monkeypatch.setattr(missing_files, "in_thread", at_once)
    (tmp_path / "a.gguf").write_bytes(b"damaged")
    conf = config({"cooldown_s": 1e6}, a={"path": str(tmp_path / "a.gguf")})
    dispatcher = Dispatcher(conf, fail_for_good)
    await nursery.start(dispatcher.run)
    with dispatcher.lease(A) as lease, pytest.raises(BackendExitedError):
        await lease.granted()
    nursery.start_soon(watch_missing_files, dispatcher)
    return dispatcher


async def test_a_changed_file_ends_the_pause_of_a_broken_model(
    dispatcher: Dispatcher, autojump_clock: MockClock, tmp_path: Path
) -> None:
    """It was fetched anew: the next request tries it."""
    await trio.sleep(3 * POLL_S)
    assert dispatcher.phase(A) is Phase.FAILED
    (tmp_path / "a.gguf").write_bytes(b"fetched anew")
    await trio.sleep(2 * POLL_S)
    assert dispatcher.phase(A) is Phase.STOPPED
