"""Loading of the startup model, before the router accepts connections."""

from __future__ import annotations

import trio

from ..dispatch.dispatcher import Dispatcher
from ..errors.base import RouterError
from ..systemd.manager import ServiceManager


async def load_startup_model(
    dispatcher: Dispatcher, stop: trio.Event, manager: ServiceManager
) -> bool:
    """Load the startup model, if one is configured; return False if *stop* was set first.

    Raises:
        RouterError: if it cannot be loaded.
    """
    config = dispatcher.config
    name = config.router.startup_model
    if name is None:
        return True
    model = config.resolve(name)
    assert model is not None, "a checked configuration names a model that it has"
    manager.starting(f"loading the startup model {name}")
    error: RouterError | None = None
    async with trio.open_nursery() as nursery:

        async def give_up() -> None:
            await stop.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(give_up)
        with dispatcher.lease(model, takes_slot=False) as lease:
            try:
                await lease.granted()
            except RouterError as exc:
                error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
    return not stop.is_set()
