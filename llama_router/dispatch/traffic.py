"""Traffic: requests and tokens per minute, of the last hours.

Requests are counted in batches, when it is read, or before the activity log loses the first of
them: a request itself pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from .activity_log import ActivityLog
from .request_log import Outcome, RequestLog

#: Length of a part, in seconds.
MINUTE_S: Final = 60

#: Parts that are kept.
KEPT_MINUTES: Final = 180


@attrs.define
class Minute:
    """What ended in one minute.

    Attributes:
        requests: Requests of any outcome.
        refused: Those that the router itself answered, with an error.
        failed: Those that were cut.
        prompt_tokens: Tokens of their prompts, as far as backends report them.
        completion_tokens: Tokens of their answers.
    """

    requests: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Traffic:
    """Counts what *activity* records.

    Args:
        activity: The requests.
        now: Returns the time, in seconds since 1970.
    """

    def __init__(self, activity: ActivityLog, now: Callable[[], float]) -> None:
        self._activity = activity
        self._now = now
        self._counted = 0
        self._minutes: dict[int, Minute] = {}
        activity.listen(self._count)

    def since(self, since_s: float) -> list[tuple[int, Minute]]:
        """Return the minutes of the last *since_s* seconds, oldest first; each with its begin.

        The first and the last of them are not whole.
        """
        self._count()
        now = int(self._now())
        first = (now - int(since_s)) // MINUTE_S
        nothing = Minute()
        return [
            (minute * MINUTE_S, self._minutes.get(minute, nothing))
            for minute in range(first, now // MINUTE_S + 1)
        ]

    def _count(self) -> None:
        activity = self._activity
        for record in activity.ended_after(self._counted):
            self._add(record)
        self._counted = activity.ended_count
        if len(self._minutes) > 2 * KEPT_MINUTES:
            oldest = int(self._now()) // MINUTE_S - KEPT_MINUTES
            self._minutes = {at: each for at, each in self._minutes.items() if at >= oldest}

    def _add(self, record: RequestLog) -> None:
        ended_at = record.began_at + (record.ended_s or record.began_s) - record.began_s
        number = int(ended_at) // MINUTE_S
        minute = self._minutes.get(number)
        if minute is None:
            minute = self._minutes[number] = Minute()
        minute.requests += 1
        minute.refused += record.outcome is Outcome.REFUSED
        minute.failed += record.outcome is Outcome.CUT
        minute.prompt_tokens += record.usage.prompt_tokens or 0
        minute.completion_tokens += record.usage.completion_tokens or 0
