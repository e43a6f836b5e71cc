"""What the accounting means for one patient, record or node: how well anybody could tell who took part, and more.

The figures are those of `dp.accounting` and `dp.tradeoff`, gathered for the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from dp.accounting import (
    FailingNodes,
    analysed_delta,
    epsilon_by_failing_nodes,
    epsilon_of_seen,
    event_epsilon,
    side_epsilon,
)
from dp.delta_terms import DistributedNoise, Noise
from dp.events import NoisedSums, Relation, Unit
from dp.tradeoff import privacy_curve

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
HOSPITALS_OF_ONE_PATIENT = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Training:
    """What the accountant needs to know of a study."""

    event: NoisedSums
    """At the nominal noise, for all planned steps."""
    delta: float
    noise: Noise | None = None
    """How the noise is made; without it all of delta goes to the analysed mechanism."""


@dataclass(frozen=True, slots=True)
class MembershipBound:
    """The best that any test of who took part can do, at one false positive rate."""

    false_positive_rate: float
    true_positive_rate: float
    """At most, from the whole privacy curve."""


@dataclass(frozen=True, slots=True)
class Risk:
    """The plain figures of one training. All of them are for what runs, including the terms of its noise."""

    epsilon: float
    """The figure of record at the training's delta, for adding or removing a patient. If the unit is the node: for
    replacing its contribution by zero."""
    epsilon_replace_one: float
    """The same for exchanging one patient's records for other records, such as a changed diagnosis; infinite where the
    noise's terms take all of delta."""
    epsilon_at_tenth: float
    """The figure at a tenth of delta; infinite where the noise's terms take all of that."""
    analysed_delta: float
    """The part of delta that is left for the analysed mechanism; the cross-checks use it."""
    membership: tuple[MembershipBound, ...]
    membership_advantage: float
    """delta(0): the largest difference between true and false positive rate of any test."""
    best_test: float
    """The best test is right for at most this part of a group, of which half took part."""
    best_test_at_two: float
    """The same for a patient at two sites of the study; as `best_test` where the unit is the node."""
    gaussian_mu: float
    """No test is better than the best one of N(0, 1) against N(mu, 1), up to the training's delta; infinite if no mu is
    large enough."""
    epsilon_at_hospitals: tuple[tuple[int, float], ...]
    """(k, epsilon) for a patient whose records lie at k sites of the study, infinite likewise; empty where the unit
    is the node."""
    failing: tuple[FailingNodes, ...]
    """Epsilon against nodes of the smallest round that leak their noise or add none; empty in local mode, where it does
    not depend on them."""
    epsilon_at_two_one_more_failing: float | None
    """For a patient at two sites, against one failing node more than the study allows for; None where either does
    not apply."""

    def epsilon_of_failing(self, count: int) -> float:
        """Epsilon against so many failing nodes of the smallest round; infinite where that is all of them."""
        return self.failing[count].epsilon if count < len(self.failing) else math.inf


@lru_cache(maxsize=32)
def assess(training: Training) -> Risk:
    """Compute the figures; takes a few seconds, most of them for the privacy loss."""
    event, delta, noise = training.event, training.delta, training.noise
    record = event_epsilon(event, delta, noise)
    curve = privacy_curve(event, noise)
    shared = noise if isinstance(noise, DistributedNoise) else None
    at_hospitals = event.at_summed_hospitals if shared else event.at_separate_hospitals
    hospitals = () if event.unit is Unit.NODE else HOSPITALS_OF_ONE_PATIENT
    return Risk(
        epsilon=record,
        epsilon_replace_one=side_epsilon(event, delta, noise, Relation.REPLACE),
        epsilon_at_tenth=_at_tenth(training),
        analysed_delta=analysed_delta(event, delta, noise, record),
        membership=tuple(MembershipBound(rate, curve.true_positive_rate(rate)) for rate in FALSE_POSITIVE_RATES),
        membership_advantage=curve.advantage,
        best_test=curve.accuracy,
        best_test_at_two=privacy_curve(at_hospitals(2), noise).accuracy if hospitals else curve.accuracy,
        gaussian_mu=curve.gaussian_mu(delta),
        epsilon_at_hospitals=tuple((count, side_epsilon(at_hospitals(count), delta, noise)) for count in hospitals),
        failing=epsilon_by_failing_nodes(event, delta, shared, shared.shares.quorum) if shared else (),
        epsilon_at_two_one_more_failing=_at_two_one_more_failing(event, delta, shared)
        if hospitals and shared
        else None,
    )


def _at_tenth(training: Training) -> float:
    event, delta, noise = training.event, training.delta / 10, training.noise
    if noise is None:
        return event_epsilon(event, delta)
    return epsilon_of_seen(event, event.noise_multiplier, delta, noise)


def _at_two_one_more_failing(event: NoisedSums, delta: float, noise: DistributedNoise) -> float:
    shares = noise.shares
    seen = shares.seen(event.noise_multiplier, shares.quorum, shares.colluders + 1)
    return epsilon_of_seen(event.at_summed_hospitals(2), seen, delta, noise)
