"""What the aggregator records about a round, for its journal, the summary and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from protocols.receipts import Statement
from secfed.rounds.faults import Claim
from secfed.study.manifest import Study


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round as the aggregator saw it. Node names, in roster order."""

    number: int
    void: bool
    reason: str
    cohort: tuple[str, ...]
    survivors: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]
    """The node's name, and the first stage at which it was absent."""
    quorum: int
    seconds: float
    bytes_up: Mapping[str, int]
    bytes_down: Mapping[str, int]
    sum_digest: str
    receipt_digest: str
    faults: tuple[Claim, ...]
    """What nodes and aggregator claim about nodes in this round, by roster index."""

    def finished_late(self, statement: Statement, study: Study) -> RoundRecord:
        """The same round, after it got its receipt late."""
        return replace(
            self,
            void=False,
            reason="finished later, from the signatures that the sites kept",
            cohort=tuple(study.roster[node].name for node in statement.cohort),
            survivors=tuple(study.roster[node].name for node in statement.survivors),
            quorum=statement.quorum,
            sum_digest=statement.sum_digest.hex(),
            receipt_digest=statement.digest().hex(),
        )


@dataclass
class Traffic:
    """Bytes of one round, by node index."""

    up: dict[int, int] = field(default_factory=dict)
    down: dict[int, int] = field(default_factory=dict)
