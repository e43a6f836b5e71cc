"""The audited settings: a study for each way in which secfed trains, and the coalition that looks for canaries.

Each is a real study with a round for every session, and its nodes are `secfed.node.node.Node`s with the trainers of
`secfed.models.training`. A canary is in the data of at most one session, so its cost is that of one round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audits.simulator.studies import cohort_of, roster_of, study_from, study_values
from crypto.identity import Identity
from crypto.kdf import digest
from dp.accounting import event_epsilon
from dp.events import NoisedSums
from protocols.parameters import CohortRules
from secfed.study.account import event_of, noise_of
from secfed.study.manifest import Study

FIVE = CohortRules(roster_size=5, colluders=1, tolerated_dropouts=1, minimum=4)
"""N = 5, c = 1, f = 1: the quorum is 4, of whom 3 are honest."""
BASE_MODEL = "sha256:" + digest("canary model").hex()
_UNMOVED = 1e-6
"""The server's learning rate: the model hardly moves, so that the same canaries fit every round."""


class Mode(Enum):
    """The three trainers."""

    STEP = "distributed"
    """A step over all sites' patients, with shared noise."""
    UPDATE = "distributed, a node as the unit"
    """An average of updates, each a node's whole contribution, with shared noise."""
    LOCAL = "local"
    """Steps with all the noise at each site, then a sum of updates."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One study, and how many canaries look at it."""

    mode: Mode = Mode.STEP
    rules: CohortRules = FIVE
    noise_multiplier: float = 1.0
    """sigma, nominal, of one step."""
    sampling_rate: float = 1.0
    """q."""
    steps: int = 1
    """T: noised sums in a round; in local mode one of them may be several."""
    clip: float = 1.0
    """C."""
    canaries: int = 2000
    """The number in one session. If a node is the unit, it has only the canary, and there are as many as honest
    nodes."""
    sessions: int = 16
    """Rounds of the study, each with canaries of its own."""
    most_records: int = 4
    """G. Every canary has two records more."""
    physical_batch: int = 64
    delta: float = 1e-5

    @property
    def quorum(self) -> int:
        """t of a full cohort."""
        return self.rules.quorum(self.rules.roster_size)

    @property
    def leaving(self) -> frozenset[int]:
        """The nodes that drop out before they upload: the first ones, as many as allowed, so that exactly t are left
        and the noise is the nominal one, on which the theory relies."""
        return frozenset(range(self.rules.roster_size - self.quorum))

    @property
    def honest(self) -> tuple[int, ...]:
        """The survivors that have the canaries; only their noise hides them. In local mode there is one: the promise
        holds against all others together."""
        size = self.rules.roster_size
        several = range(len(self.leaving), size - self.rules.colluders)
        return (several[0],) if self.mode is Mode.LOCAL else tuple(several)

    @property
    def colluding(self) -> frozenset[int]:
        """The coalition's nodes: all other survivors."""
        return frozenset(range(self.rules.roster_size)) - self.leaving - set(self.honest)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The node of each canary, of shape (canaries,)."""
        return np.resize(self.honest, self.canaries)

    @property
    def seen_by(self) -> str:
        """The coalition, in words."""
        if self.mode is Mode.LOCAL:
            return "the aggregator and all other sites"
        return f"the aggregator and {self.rules.colluders} of {self.rules.roster_size} nodes"

    @property
    def gaussian(self) -> bool:
        """Whether a canary's coordinate is Gaussian noise around in or out, so that a bound on GDP's mu makes sense:
        true without sampling. Several steps then add up to one with sigma / sqrt(T)."""
        return self.sampling_rate == 1

    @property
    def study(self) -> Study:
        """The study that the nodes run."""
        return _study(self)

    @property
    def event(self) -> NoisedSums:
        """The event that the accountant counts for one canary: one round."""
        return replace(event_of(self.study), steps=self.study.steps_per_round)

    @property
    def epsilon(self) -> float:
        """The theory: epsilon at delta against the coalition, by the deployed accountant."""
        return event_epsilon(self.event, self.delta, noise_of(self.study))

    @property
    def canary_step(self) -> float:
        """How far one canary's clipped gradient moves its coordinate of what a node uploads, as a whole number with a
        sign: the unit of scores."""
        if self.mode is Mode.LOCAL:
            (node,), study = self.honest, self.study
            moved = _RATES[Mode.LOCAL] * self.steps * self.clip / study.expected_units([node])
            return -moved * study.weights[node] * 2.0**_FRACTION_BITS
        # A sum of gradients, or an update, which goes the other way.
        return float(_GRID if self.mode is Mode.STEP else -_GRID)


def identity_of(node: int) -> Identity:
    """The key of the node at this place."""
    return Identity(digest("privacy audit", bytes([node])))


@lru_cache
def _study(setting: Setting) -> Study:
    rules, mode = setting.rules, setting.mode
    own = {node: int(np.count_nonzero(setting.owners == node)) for node in setting.honest}
    roster = roster_of(
        (identity_of(node).public.raw for node in range(rules.roster_size)),
        (1 if mode is Mode.UPDATE else 1 + own.get(node, 9) for node in range(rules.roster_size)),
    )
    algorithm: dict[str, Any] = {
        "strategy": "fedopt-sgd",
        "rounds": setting.sessions,
        "server_learning_rate": _UNMOVED,
        "physical_batch": setting.physical_batch,
    }
    if mode is not Mode.STEP:
        steps = {Mode.LOCAL: setting.steps, Mode.UPDATE: 2}[mode]
        algorithm["local"] = {"steps": steps, "optimizer": "sgd", "learning_rate": _RATES[mode]}
    privacy = {
        "epsilon": 100.0,
        "delta": setting.delta,
        "noise_multiplier": setting.noise_multiplier,
        "clip": setting.clip,
        **_PRIVACY[mode],
    }
    if mode is not Mode.UPDATE:
        privacy["sampling_rate"] = setting.sampling_rate
    if mode is Mode.STEP:
        privacy["records_per_patient"] = setting.most_records
    values = study_values(
        roster,
        name="privacy-audit",
        purpose="To be audited",
        model={"base": "canaries", "digest": BASE_MODEL, "max_length": 4},
        task={"labels": ["in", "out"]},
        lora={"rank": 1, "alpha": 1, "targets": ["layer"]},
        cohort=cohort_of(rules),
    )
    return study_from({**values, "algorithm": algorithm, "privacy": privacy})


_GRID = 1 << 20
_FRACTION_BITS = 30
_PRIVACY: dict[Mode, dict[str, Any]] = {
    Mode.STEP: {"mode": "distributed", "grid": _GRID},
    Mode.UPDATE: {"mode": "distributed", "unit": "node", "grid": _GRID},
    Mode.LOCAL: {"mode": "local", "fraction_bits": _FRACTION_BITS},
}
_RATES = {Mode.UPDATE: 10.0, Mode.LOCAL: 1.0}
"""Local learning rates. In local mode the model must not move far in a round, or a canary's gradient would get shorter
than C; a node's update has to get longer than C, or clipping it would do nothing."""
RECORD_SIZES = {Mode.STEP: 2 * (1 + math.ldexp(1, -10)), Mode.UPDATE: 0.2, Mode.LOCAL: 8.0}
"""Features of a canary's records, in units of C: at weight zero a record's gradient is half of that. A little over C in
a step, so that records clipped singly come to G C; four times C in local mode, so that it stays above C as the model
moves; for a node, so that two steps come to 1.9 C."""
