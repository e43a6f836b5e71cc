"""The list of explorations: rosters with real nodes, and the same with one check removed.

A roster is large enough if a split of it would succeed with a quorum from the cohort alone: from N = 4 on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from audits.adversaries import weakened
from audits.exploration.chain_promises import StudyPromises
from audits.exploration.hospitals import StudyNode, explored_entropy
from audits.exploration.pool import Pool
from audits.exploration.promises import SessionPromises
from audits.exploration.search import Facts, Found, search
from audits.exploration.sessions import SessionNode
from audits.exploration.studies import Studies
from audits.exploration.symbols import symbolic
from protocols.derivations import SEED_LABEL
from protocols.messages import Agree
from protocols.parameters import CohortRules


@dataclass(frozen=True, slots=True)
class Exploration:
    """One roster, for one session or for several rounds."""

    rules: CohortRules
    rounds: int = 0
    """Rounds of the study; 0 for one session, message by message."""
    without: str = ""
    """The removed check; empty for real nodes."""
    weakening: Callable[[], AbstractContextManager[object]] = nullcontext

    @property
    def name(self) -> str:
        """In words, such as `one session, N = 4, c = 1, f = 1`."""
        what = f"{self.rounds} rounds" if self.rounds else "one session"
        rules = self.rules
        return f"{what}, N = {rules.roster_size}, c = {rules.colluders}, f = {rules.tolerated_dropouts}"


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration found."""

    exploration: Exploration
    found: Found
    local_states: int
    """States of single nodes, summed over all nodes."""
    refused: int
    """Messages that a node really received and refused."""

    @property
    def as_it_should_be(self) -> bool:
        """Whether there is no violation with real nodes, or one with a check removed."""
        return (self.found.violation is not None) == bool(self.exploration.without)


_THREE = CohortRules(roster_size=3, colluders=0, tolerated_dropouts=1, minimum=2)
_THREE_ONE_CORRUPT = CohortRules(roster_size=3, colluders=1, tolerated_dropouts=0, minimum=3)
_FOUR = CohortRules(roster_size=4, colluders=0, tolerated_dropouts=1, minimum=2)
_FOUR_ONE_CORRUPT = CohortRules(roster_size=4, colluders=1, tolerated_dropouts=1, minimum=3)
_FIVE_ONE_CORRUPT = CohortRules(roster_size=5, colluders=1, tolerated_dropouts=1, minimum=3)
_FIVE_TWO_CORRUPT = CohortRules(roster_size=5, colluders=2, tolerated_dropouts=1, minimum=4)

REAL: tuple[Exploration, ...] = (
    Exploration(_FOUR_ONE_CORRUPT, rounds=2),
    Exploration(_THREE, rounds=2),
    Exploration(_FIVE_TWO_CORRUPT),
    Exploration(_FIVE_ONE_CORRUPT),
    Exploration(_THREE_ONE_CORRUPT, rounds=3),
    Exploration(_FOUR),
    Exploration(_FOUR_ONE_CORRUPT),
    Exploration(_THREE),
    Exploration(_THREE_ONE_CORRUPT),
)
"""Real nodes; the longest first."""
REMOVALS: tuple[Exploration, ...] = (
    Exploration(_FOUR, 0, "the roster's majority in the quorum", weakened.quorum_not_from_the_roster),
    Exploration(_FOUR, 0, "one signer of the quorum", weakened.quorum_one_too_low),
    Exploration(_FOUR_ONE_CORRUPT, 0, "signatures on the sets", lambda: weakened.unchecked_signatures(Agree.TYPE)),
    Exploration(_FOUR_ONE_CORRUPT, 0, "the self mask", weakened.no_self_mask),
    Exploration(_THREE, 0, "the checksum's constant", weakened.checksum_without_constant),
    Exploration(_THREE, 0, "wiping of secrets", weakened.secrets_not_wiped),
    Exploration(_THREE, 0, "signatures on pair seeds", lambda: weakened.unchecked_signatures(SEED_LABEL)),
    Exploration(_FOUR_ONE_CORRUPT, 0, "the view in the masks", weakened.masks_not_bound_to_the_view),
    Exploration(_THREE, 2, "the lock", weakened.no_lock),
    Exploration(_THREE, 2, "the floor of round numbers", weakened.floor_forgotten),
    Exploration(_THREE, 2, "ending a session at adoption", weakened.sessions_outlive_adoption),
    Exploration(_THREE_ONE_CORRUPT, 2, "counting an echo's signers", lambda: weakened.echoes_not_counted(2)),
    Exploration(_THREE_ONE_CORRUPT, 2, "counting a receipt's signers", lambda: weakened.signers_not_counted(3)),
    Exploration(_THREE_ONE_CORRUPT, 2, "the sum behind a receipt", weakened.sums_not_held_against_receipts),
)


def explore(exploration: Exploration, progress: Callable[[int], None] = lambda states: None) -> Explored:
    """Explore all of it, or up to the first violation.

    Args:
        exploration: which.
        progress: called now and then with the number of states.
    """
    with symbolic() as streams, exploration.weakening():
        facts = Facts()
        if not exploration.rounds:
            pool = Pool(exploration.rules, streams)
            sessions = [SessionNode(pool, facts, node) for node in pool.honest]
            cohorts = {session: members for node in sessions for session, members in node.cohorts.items()}
            found = search(sessions, SessionPromises(pool, facts, cohorts), progress)
            return _explored(exploration, found, sessions)
        studies = Studies(exploration.rules, exploration.rounds)
        with explored_entropy(studies):
            hospitals = [StudyNode(studies, facts, node) for node in studies.honest]
            found = search(hospitals, StudyPromises(studies, facts), progress)
        return _explored(exploration, found, hospitals)


def _explored(exploration: Exploration, found: Found, nodes: Sequence[SessionNode | StudyNode]) -> Explored:
    refused: Counter[str] = Counter()
    for node in nodes:
        refused += node.refused
    return Explored(exploration, found, sum(node.states for node in nodes), refused.total())
