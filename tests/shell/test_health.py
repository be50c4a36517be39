"""Health checks of ready backends, with probes that the test answers, on a virtual clock."""

from collections.abc import Callable

import attrs
import pytest
import trio
from trio.testing import MockClock

from llama_router.backends.backend import Backend
from llama_router.core.config.names import ModelId
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.health import FAILURES_IN_ROW, PROBES
from llama_router.errors.backends import UpstreamTimeoutError
from tests.shell.test_dispatcher import FakeBackends, config

A = ModelId("a")
SILENT = UpstreamTimeoutError("it was silent for 600 s")


@attrs.define
class Health:
    """Answers probes after a moment; `on_probe` is called before that."""

    answers: list[str]
    probes: int = 0
    on_probe: Callable[[], None] = lambda: None

    async def __call__(self, *_: object, timeout_s: float) -> str:
        """Return the next answer; the last one for ever."""
        self.probes += 1
        await trio.sleep(timeout_s)
        self.on_probe()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


async def ready(nursery: trio.Nursery, health: Health) -> tuple[Dispatcher, Backend]:
    """Return a dispatcher, and the ready backend of its model."""
    dispatcher = Dispatcher(config(a={}), FakeBackends(), probe=health)
    await nursery.start(dispatcher.run)
    with dispatcher.lease(A) as lease:
        backend = await lease.granted()
        assert isinstance(backend, Backend)
        return dispatcher, backend


async def test_a_silent_backend_without_health_is_replaced(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """One request timed out, and no probe is answered: its requests fail with that reason."""
    health = Health(["no answer within 5 s"])
    dispatcher, backend = await ready(nursery, health)
    dispatcher.note_outcome(backend, status=0, error=SILENT)
    await backend.gone.wait()
    assert health.probes == PROBES
    assert "it was silent for 600 s, and /health says: no answer within 5 s" in str(backend.error)
    with dispatcher.lease(A) as lease:
        assert await lease.granted() is not backend


async def test_a_silent_backend_in_good_health_stays(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A long prompt is no reason to load the model again."""
    dispatcher, backend = await ready(nursery, Health(["no answer within 5 s", "200"]))
    dispatcher.note_outcome(backend, status=0, error=SILENT)
    await trio.sleep(100)
    assert dispatcher.phase(A) is Phase.READY


async def test_errors_in_a_row_are_a_reason_to_ask(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It answers 500 to everything, and says itself that it is ill."""
    health = Health(["503"])
    dispatcher, backend = await ready(nursery, health)
    for _ in range(FAILURES_IN_ROW - 1):
        dispatcher.note_outcome(backend, status=500, error=None)
    await trio.sleep(100)
    assert not health.probes
    dispatcher.note_outcome(backend, status=500, error=None)
    await backend.gone.wait()
    assert "/health says: 503" in str(backend.error)


async def test_a_request_that_succeeds_meanwhile_is_a_sign_of_life(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The health endpoint may be slower than the rest."""
    health = Health(["no answer within 5 s"])
    dispatcher, backend = await ready(nursery, health)
    health.on_probe = lambda: dispatcher.note_outcome(backend, status=200, error=None)
    dispatcher.note_outcome(backend, status=0, error=SILENT)
    await trio.sleep(100)
    assert dispatcher.phase(A) is Phase.READY


async def test_a_stream_that_moves_is_a_sign_of_life(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A program that does one thing at a time answers no probe while it streams."""
    health = Health(["no answer within 5 s"])
    dispatcher, backend = await ready(nursery, health)
    with dispatcher.lease(A) as lease:
        await lease.granted()
        lease.moved_bytes = lambda: health.probes
        dispatcher.note_outcome(backend, status=0, error=SILENT)
        await trio.sleep(100)
        assert dispatcher.phase(A) is Phase.READY


@pytest.mark.parametrize("failures", [2, 9])
async def test_one_check_at_a_time(
    nursery: trio.Nursery, autojump_clock: MockClock, failures: int
) -> None:
    """A hundred requests that time out together cause three probes."""
    health = Health(["no answer within 5 s"])
    dispatcher, backend = await ready(nursery, health)
    for _ in range(failures):
        dispatcher.note_outcome(backend, status=0, error=SILENT)
    await backend.gone.wait()
    assert health.probes == PROBES
