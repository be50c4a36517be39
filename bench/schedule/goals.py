"""The goals, and the verdicts on them over all seeds. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from .figures import Figures

SUBJECT: Final = "llama-router"

#: Most swaps, as a share of those of the peer with the fewest.
SWAPS_SHARE: Final = 0.5

#: Least index of fairness.
JAIN: Final = 0.95

#: Waits are compared in tenths of a second, as they are shown: the scheduler reads the devices
#: before each start, which takes the simulation 20 ms, and the rules of peers read nothing.
_WAIT_DIGITS: Final = 1

#: Figures that are 0 in every simulation, and their titles.
ZEROS: Final = {
    "failed": "failed requests",
    "overcommit_s": "seconds of overcommit",
    "evicted_busy": "models evicted with requests",
}

Runs = Mapping[str, Sequence[Figures]]
"""The figures of each rule, one for each seed."""


@attrs.frozen
class Verdict:
    """The verdict on one goal.

    Attributes:
        goal: The goal.
        met: Whether it is met.
        detail: The figures that say so.
    """

    goal: str
    met: bool
    detail: str


def mean(runs: Sequence[Figures], figure: str) -> float:
    """Return the mean of a figure over the seeds."""
    return sum(float(getattr(each, figure)) for each in runs) / len(runs)


def best_peer(runs: Runs) -> str:
    """Return the peer with the fewest swaps; of several, the one with the shortest waits."""
    peers = [name for name in runs if name != SUBJECT]
    return min(peers, key=lambda n: (mean(runs[n], "swaps"), mean(runs[n], "wait_p99_s")))


def judge(runs: Runs, *, has_goal: bool) -> list[Verdict]:
    """Return the verdicts on one workload.

    Args:
        runs: The figures of llama-router and of at least one peer.
        has_goal: The goals for swaps, waits and fairness count.
    """
    own = runs[SUBJECT]
    verdicts = [
        Verdict(title, mean(own, figure) == 0, f"{sum(getattr(each, figure) for each in own):g}")
        for figure, title in ZEROS.items()
    ]
    if not has_goal:
        return verdicts
    swaps, jain, wait_s = (mean(own, name) for name in ("swaps", "jain", "wait_p99_s"))
    verdicts.append(Verdict(f"Jain's index at least {JAIN}", jain >= JAIN, f"{jain:.3f}"))
    if len(runs) > 1:
        peer = best_peer(runs)
        theirs, their_wait_s = mean(runs[peer], "swaps"), mean(runs[peer], "wait_p99_s")
        verdicts += [
            Verdict(
                "at most half the swaps of the best peer",
                swaps <= SWAPS_SHARE * theirs,
                f"{swaps:.1f}, {peer} {theirs:.1f}",
            ),
            Verdict(
                "its p99 wait is no longer than that peer's",
                round(wait_s, _WAIT_DIGITS) <= round(their_wait_s, _WAIT_DIGITS),
                f"{wait_s:.1f} s, {peer} {their_wait_s:.1f} s",
            ),
        ]
    return verdicts
