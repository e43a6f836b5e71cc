"""How long an aggregator waits for its nodes. Nothing but liveness depends on it."""

from __future__ import annotations

from pydantic import Field

from secfed.study.sections import Section


class Deadlines(Section):
    """How long the aggregator waits. Nothing but liveness depends on it: whoever is late is absent."""

    stage_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """For any answer that needs no training."""
    training_seconds: float = Field(default=3600.0, gt=0, le=7 * 86_400)
    """For the masked input: more than a round's training takes at the slowest site, and more than its fixed moment."""
    gathering_seconds: float = Field(default=30.0, ge=0, le=86_400)
    """Before a round, for a site that took part before and does not answer now. It goes on without it then, and waits
    without end only while too few are there for any round."""
    handover_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """At the end, for the ledgers of all sites."""
