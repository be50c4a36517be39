"""The stop command of a backend: it runs before SIGTERM, within a deadline."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Final

import attrs
import trio

from ..core.config.redaction import redacted_command
from ..errors.backends import SpawnError
from ..logs.events import log
from ..model_logs.model_log import ModelLog
from ..process.process import run_process
from ..timeouts import move_on_after_running

#: Most bytes of its output that are kept for the explanation of a failure.
_MAX_OUTPUT_BYTES: Final = 4096

#: Characters of the output in one line of the log.
_SHOWN_CHARACTERS: Final = 200


@attrs.define(kw_only=True)
class StopCommand:
    """Runs ``stop_command`` once, and explains its failure; a failure never keeps a backend alive.

    Attributes:
        model: The model, for the log.
        argv: The command line, placeholders replaced.
        env: Its environment: that of the backend.
        cwd: Its working folder.
        timeout_s: Seconds for the command, and for the backend to end by it.
        marker: Unique name of the backend's run.
        force_stop: Set when backends get no more grace.
        model_log: The log of the model.
    """

    model: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None
    timeout_s: float
    marker: str
    force_stop: trio.Event
    model_log: ModelLog
    _output: bytearray = attrs.field(factory=bytearray, init=False)
    _is_done: bool = attrs.field(default=False, init=False)

    async def run(self) -> None:
        """Run it, then wait until cancelled by the end of the backend.

        Returns:
            When it has failed, or the time is over: the backend is to be ended otherwise.
        """
        shown = shlex.join(redacted_command(self.argv))
        self.model_log.note(f"the stop command runs: {shown}")
        if await move_on_after_running(self._run, self.timeout_s) or self._is_done:
            return
        self._explain(f"it did not end within {self.timeout_s:g} s (stop_timeout_s)")

    async def _run(self) -> None:
        try:
            status = await run_process(
                self.argv,
                env=self.env,
                cwd=self.cwd,
                stdin="null",
                grace_s=0,
                force_stop=self.force_stop,
                on_output=self._keep,
                on_unkillable=lambda: None,
                marker=f"{self.marker}.stop",
            )
        except SpawnError as exc:
            self._explain(str(exc))
            return
        if status != 0:
            self._explain(f"it ended with {_status_in_words(status)}")
            return
        self._is_done = True
        await trio.sleep_forever()  # the backend needs its time to end

    def _keep(self, data: bytes) -> None:
        self._output += data[: _MAX_OUTPUT_BYTES - len(self._output)]

    def _explain(self, fault: str) -> None:
        output = " ".join(self._output.decode(errors="replace").split())[:_SHOWN_CHARACTERS]
        reason = f"{fault}: {output}" if output else fault
        log.warning("backend.stop_command_failed", model=self.model, reason=reason)
        self.model_log.note(f"the stop command failed, so the backend gets SIGTERM: {reason}")


def _status_in_words(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"
