"""The wait of a stream's request for its backend, as the bytes that its client gets meanwhile."""

from __future__ import annotations

import trio

from ..core.access.caller import Caller
from ..core.apis.notices import WaitReporter, redact_wait
from ..core.config.names import ModelId
from ..core.scheduling.waits import Wait
from .dispatcher import Dispatcher
from .lease import Lease


class StreamWait:
    """The wait of a streamed request for its model, and the lines that its client gets meanwhile.

    Args:
        dispatcher: The dispatcher that grants the backend.
        lease: The lease of the request.
        model: The model.
        reporter: Decides when the client gets which lines.
        caller: The client; names of models that it may not use are left out.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        lease: Lease,
        model: ModelId,
        reporter: WaitReporter,
        caller: Caller,
    ) -> None:
        self._dispatcher = dispatcher
        self._lease = lease
        self._model = model
        self._reporter = reporter
        self._caller = caller
        self._reported_end = False

    async def next_lines(self) -> bytes:
        """Wait for the next lines for the client; none once the backend is granted.

        Raises:
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be started.
        """
        while self._lease.granted_nowait() is None:
            changed = trio.Event()
            with self._dispatcher.waits.watch(self._lease, self._model, changed.set):
                if lines := self._reporter.about(self._waits_for, now_s=trio.current_time()):
                    return lines
                with trio.move_on_at(self._reporter.due_s):
                    await changed.wait()
        if self._reported_end:
            return b""
        self._reported_end = True
        return self._reporter.granted(str(self._model))

    def _waits_for(self) -> Wait | None:
        return redact_wait(self._lease.waits_for(), self._caller, self._dispatcher.config.models)
