"""A placement policy that the product does not have: it shows what the seam allows."""

from __future__ import annotations

from typing import ClassVar

import attrs

from llama_router.core.config.names import ModelId
from llama_router.core.config.specs import ModelSpec
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.core.scheduling.placement import Occupancy, Verdict, is_idle


@attrs.frozen(kw_only=True)
class AtMost:
    """At most *limit* models run, those with ``keep_loaded`` included; the longest idle one leaves.

    Attributes:
        limit: Number of models that may run.
        guard_s: Seconds for which a ready model is not stopped, even if it is idle.
    """

    lookahead: ClassVar[None] = None

    limit: int
    guard_s: float = 0.0

    def dwell_key(self, spec: ModelSpec) -> str:  # noqa: ARG002 -- the protocol asks for it
        """Return one key: all models share one place."""
        return "all"

    def may_start(
        self,
        spec: ModelSpec,  # noqa: ARG002 -- the protocol asks for it
        occupancy: Occupancy,
    ) -> Verdict:
        """Allow it while fewer than *limit* models are resident."""
        running = len(occupancy.residents)
        if running < self.limit:
            return Verdict()
        others = [each for each in occupancy.residents if not each.spec.keep_loaded]
        guarded_s = (each.ready_since_s + self.guard_s for each in others)
        return Verdict(
            blockers=tuple(each.model for each in others),
            reason=f"{running} models run, and no more than {self.limit} may",
            look_again_s=min((t for t in guarded_s if t > occupancy.now_s), default=float("inf")),
        )

    def victims(
        self,
        spec: ModelSpec,  # noqa: ARG002 -- the protocol asks for it
        occupancy: Occupancy,
        closed: frozenset[ModelId],
    ) -> tuple[ModelId, ...]:
        """Return as many idle models as are too many, the longest idle ones first."""
        staying = [each for each in occupancy.residents if not each.leaving]
        too_many = len(staying) - self.limit + 1
        idle = [
            each
            for each in staying
            if is_idle(each, closed)
            and not each.spec.keep_loaded
            and (each.phase is not Phase.READY or self._is_over(each.ready_since_s, occupancy))
        ]
        idle.sort(key=lambda each: (each.idle_since_s, each.model))
        return tuple(each.model for each in idle[: max(0, too_many)])

    def _is_over(self, ready_since_s: float, occupancy: Occupancy) -> bool:
        return ready_since_s + self.guard_s <= occupancy.now_s
