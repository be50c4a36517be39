"""An Ollama client whose stream waits for its model: the lines that it gets meanwhile."""

from __future__ import annotations

import trio

from ...core.access.gate import Caller
from ...core.apis.notices import WaitReporter, discreet
from ...core.config.names import ModelId
from ...core.scheduling.waits import Wait
from ...dispatch.dispatcher import Dispatcher
from ...dispatch.lease import Lease


class Waiting:
    """The wait of one request for its model.

    Args:
        dispatcher: Whom it waits for.
        lease: What it waits with.
        model: The model.
        company: Decides what its client hears.
        asker: What that may know.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        lease: Lease,
        model: ModelId,
        company: WaitReporter,
        asker: Caller,
    ) -> None:
        self._dispatcher = dispatcher
        self._lease = lease
        self._model = model
        self._company = company
        self._asker = asker
        self._told = False  # that the wait is over

    async def heard(self) -> bytes:
        """Wait for what the client is to hear next; nothing is left to hear if it is empty.

        Then the backend is granted.

        Raises:
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be brought up.
        """
        while self._lease.granted_nowait() is None:
            news = trio.Event()
            with self._dispatcher.waits.watch(self._lease, self._model, news.set):
                if said := self._company.about(self._waits_for, now_s=trio.current_time()):
                    return said
                with trio.move_on_at(self._company.due_s):
                    await news.wait()
        if self._told:
            return b""
        self._told = True
        return self._company.granted(str(self._model))

    def _waits_for(self) -> Wait | None:
        return discreet(self._lease.waits_for(), self._asker, self._dispatcher.config.models)
