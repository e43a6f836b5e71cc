"""How long an aggregator waits for its nodes. Only liveness depends on it."""

from __future__ import annotations

from pydantic import Field

from secfed.study.sections import Section


class Deadlines(Section):
    """How long the aggregator waits. Only liveness depends on it: a node that is late is absent."""

    stage_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """For any answer that needs no training."""
    training_seconds: float = Field(default=3600.0, gt=0, le=7 * 86_400)
    """For the masked input. It must be longer than a round's training at the slowest site, and longer than the wait for
    a fixed moment of upload."""
    gathering_seconds: float = Field(default=30.0, ge=0, le=86_400)
    """Before a round, for a site that took part before and does not answer now. Then the aggregator goes on without it.
    It waits without end only while too few sites are there for any round."""
    handover_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """At the end, for the ledgers of all sites."""
