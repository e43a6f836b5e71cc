"""What a training does with the data of one patient, separate from what it costs.

An event says what happened: how often a sum was released, who was drawn for it, and how much Gaussian noise remains for
the parties who know the most. It is plain data, equal and hashable by value, and computes nothing;
`NoisedSums.dp_event` gives the same as a dp-accounting event, for any accountant that takes one. `dp.accounting` says
what an event costs.

In local mode a site adds all the noise of its own sums. In distributed mode the sum runs over all sites, and each adds
a share: for a quorum t and c colluders, variance sigma^2 C^2 / (t - c). Each participant knows its own noise, so t
survivors less c colluders leave exactly sigma^2 C^2, the nominal noise. More survivors leave more. The aggregator
chooses who takes part, so the nominal event is the one to account for.

dp-accounting takes seconds to import, so the functions import it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from dp.errors import OutOfRange

if TYPE_CHECKING:
    from dp_accounting import dp_event


class Unit(Enum):
    """Whose presence is hidden."""

    PATIENT = "patient"
    """One patient with all records."""
    RECORD = "record"
    """One record, for data without patients."""
    NODE = "node"
    """All data of one node, such as a household (DP-FedAvg, McMahan et al. 2018)."""


class Relation(Enum):
    """Which two data sets nobody can tell apart."""

    ADD_OR_REMOVE = "add or remove"
    """One of them has one unit more."""
    ZERO_OUT = "zero out"
    """In one of them one unit contributes zero; everybody still knows that it takes part."""
    REPLACE = "replace"
    """One unit has other records: a changed diagnosis."""


@dataclass(frozen=True, slots=True)
class NoisedSums:
    """`steps` Gaussian releases, each a sum over units drawn by independent coins and clipped once each.

    Raises:
        OutOfRange: a field is outside its range.
    """

    sampling_rate: float
    """q, the chance of every unit to be drawn in a step, in (0, 1]; 1 where the unit is a node."""
    noise_multiplier: float
    """sigma, the noise's standard deviation in units of the clipping norm C, as it remains for the parties who know the
    most."""
    steps: int
    """T, how many sums are released, at least 1."""
    draws: int = 1
    """How many independent coins one unit has in every step, each for a contribution of its own, up to C: k for a
    patient at k sites whose sums are added up, 1 otherwise."""
    unit: Unit = Unit.PATIENT
    """Whose presence is hidden."""

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise OutOfRange(f"a sampling rate is above 0 and at most 1, not {self.sampling_rate}")
        if not (self.noise_multiplier > 0 and math.isfinite(self.noise_multiplier)):
            raise OutOfRange(f"a noise multiplier is positive and finite, not {self.noise_multiplier}")
        if self.steps < 1:
            raise OutOfRange(f"a number of steps is at least 1, not {self.steps}")
        if self.draws < 1:
            raise OutOfRange(f"a unit has at least 1 coin a step, not {self.draws}")
        if self.unit is Unit.NODE and (self.sampling_rate != 1 or self.draws != 1):
            raise OutOfRange(
                "a unit that is a node takes part in every step: its presence in a cohort is no secret and "
                f"amplifies nothing, so the sampling rate is 1, not {self.sampling_rate}"
            )

    @property
    def relation(self) -> Relation:
        """The relation of the figure of record: a node cannot hide that it takes part, only what it contributes."""
        return Relation.ZERO_OUT if self.unit is Unit.NODE else Relation.ADD_OR_REMOVE

    def reach(self, relation: Relation | None = None) -> int:
        """How far apart two neighbouring sums can lie, in units of C."""
        return self.draws * (2 if relation is Relation.REPLACE else 1)

    def at_summed_hospitals(self, count: int) -> NoisedSums:
        """The event of a patient at `count` sites whose sums are added up (distributed mode)."""
        return replace(self, draws=self.draws * count)

    def at_separate_hospitals(self, count: int) -> NoisedSums:
        """The event of a patient at `count` sites that each noise and release sums of their own (local mode)."""
        return replace(self, steps=self.steps * count)

    def dp_event(self) -> dp_event.DpEvent:
        """The same as a dp-accounting event."""
        from dp_accounting import dp_event

        step: dp_event.DpEvent = dp_event.GaussianDpEvent(self.noise_multiplier)
        if self.draws > 1:
            step = dp_event.MixtureOfGaussiansDpEvent(
                self.noise_multiplier, tuple(map(float, range(self.draws + 1))), self.draw_chances()
            )
        elif self.sampling_rate < 1:
            step = dp_event.PoissonSampledDpEvent(self.sampling_rate, step)
        return dp_event.SelfComposedDpEvent(step, self.steps)

    def draw_chances(self) -> tuple[float, ...]:
        """The chances that 0, 1, ..., `draws` of a unit's coins come up heads: Binomial(draws, q)."""
        rate, coins = self.sampling_rate, self.draws
        return tuple(
            math.comb(coins, heads) * rate**heads * (1 - rate) ** (coins - heads) for heads in range(coins + 1)
        )


@dataclass(frozen=True, slots=True)
class NoiseShares:
    """How the noise of a sum is divided: every node that takes part adds variance sigma^2 C^2 / (t - c).

    Raises:
        OutOfRange: there are no colluders, or not at least two honest nodes in a quorum.
    """

    quorum: int
    """t: the least number of nodes that take part."""
    colluders: int
    """c: how many nodes may collude, leak their noise, or fail to add it; at least 1, because every node sees the sum
    and knows its own noise."""

    def __post_init__(self) -> None:
        if self.colluders < 1:
            raise OutOfRange(
                f"shared noise needs at least 1 colluder in the account, not {self.colluders}: every node sees the "
                "sum and knows its own noise. Set colluders to 1 or more, or use local mode"
            )
        if self.honest < 2:
            raise OutOfRange(
                f"a quorum of {self.quorum} with {self.colluders} colluders leaves {self.honest} honest nodes, and "
                "their sum is that of one at best: raise the number of sites or lower colluders or dropouts"
            )

    @property
    def honest(self) -> int:
        """t - c: the number of shares that make up the nominal noise."""
        return self.quorum - self.colluders

    def share(self, noise_multiplier: float) -> float:
        """The standard deviation of one node's noise, in units of C, for a nominal noise multiplier sigma."""
        return noise_multiplier / math.sqrt(self.honest)

    def seen(self, noise_multiplier: float, survivors: int, failing: int) -> float:
        """The noise multiplier that is left if `failing` of the survivors leak their noise or add none.

        Args:
            noise_multiplier: sigma, the nominal one.
            survivors: |U3|.
            failing: between 0 and `survivors`.

        Returns:
            sigma sqrt((|U3| - failing) / (t - c)); 0 where all fail. With `failing` = c it is the noise of a round that
            ran with these survivors. A verdict never uses that: it is known only after the fact, and it holds only if
            attendance did not depend on sums released before.
        """
        if not 0 <= failing <= survivors:
            raise OutOfRange(f"of {survivors} survivors between 0 and {survivors} can fail, not {failing}")
        return noise_multiplier * math.sqrt((survivors - failing) / self.honest)
