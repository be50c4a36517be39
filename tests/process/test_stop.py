"""Many backends are stopped at once, not one after another."""

from __future__ import annotations

import pytest
import trio

from tests.process.harness import post

pytestmark = pytest.mark.process

#: Backends, each of which outlasts SIGTERM by its whole grace.
COUNT = 20
GRACE_S = 1.0


async def test_twenty_stubborn_backends_are_stopped_together(start, stage) -> None:
    """All of them take hardly longer than one: in turn it would be twenty seconds."""
    models = {
        f"m{number}": stage.model(
            f"m{number}", "--sigterm", "ignore", group="g", spawn={"stop_timeout_s": GRACE_S}
        )
        for number in range(COUNT)
    }
    router = await start(models)
    async with trio.open_nursery() as nursery:
        for model in models:
            nursery.start_soon(router.ask, post("/v1/echo", model))
    assert len(router.spawned()) == COUNT
    begun_s = trio.current_time()
    await router.stop()
    assert GRACE_S <= trio.current_time() - begun_s < 5 * GRACE_S
