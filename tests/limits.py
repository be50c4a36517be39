"""How long a test may take: deadlines that hold on a busy machine, too."""

import os

#: No test may take longer, in seconds. A net for what would never end, and not a measurement:
#: every core may be taken several times over.
LIMIT_S = 180.0


def stretched_s(idle_s: float) -> float:
    """Return the seconds that *idle_s* of an idle machine may become on this one as it is now.

    On a machine with nothing else to do these are *idle_s*.
    """
    runnable = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return idle_s * max(1.0, 2.0 * runnable)
