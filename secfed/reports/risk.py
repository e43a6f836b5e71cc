"""What the accounting means for one patient: how well anybody could tell who took part, and other plain figures.

The figures are those of `dp.accounting` and `dp.tradeoff`, gathered for the report, with how people write numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from dp.accounting import event_epsilon, rdp_epsilon
from dp.events import NoisedSums, Relation
from dp.tradeoff import membership_bound, privacy_curve

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
HOSPITALS_OF_ONE_PATIENT = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Training:
    """What the accountant needs to know of one hospital's training."""

    sampling_rate: float
    """q."""
    noise_multiplier: float
    """sigma."""
    steps: int
    """T: private steps over the whole study."""
    delta: float


@dataclass(frozen=True, slots=True)
class MembershipBound:
    """The best any test for taking part can do at one false positive rate."""

    false_positive_rate: float
    true_positive_rate: float
    """At most, from the whole privacy curve."""
    true_positive_rate_from_epsilon: float
    """At most, from (epsilon, delta) alone."""


@dataclass(frozen=True, slots=True)
class Risk:
    """The plain figures of one training."""

    epsilon: float
    """The figure of record at the training's delta, for adding or removing a patient."""
    epsilon_replace_one: float
    """The same for exchanging one patient's records for other records, such as a changed diagnosis."""
    epsilon_second_accountant: float
    """By Renyi differential privacy at integer orders, which errs high."""
    membership: tuple[MembershipBound, ...]
    membership_advantage: float
    """delta(0): the largest difference between true and false positive rate of any test."""
    gaussian_mu: float
    """No test tells more than one for N(0, 1) against N(mu, 1) does, up to the training's delta."""
    epsilon_at_hospitals: tuple[tuple[int, float], ...]
    """(k, epsilon) for a patient whose records lie at k hospitals of the study."""


@lru_cache(maxsize=32)
def assess(training: Training) -> Risk:
    """Compute the figures; takes a few seconds, most of them for the privacy loss."""
    event = NoisedSums(training.sampling_rate, training.noise_multiplier, training.steps)
    record = event_epsilon(event, training.delta)
    curve = privacy_curve(event)
    return Risk(
        epsilon=record,
        epsilon_replace_one=event_epsilon(event, training.delta, relation=Relation.REPLACE),
        epsilon_second_accountant=rdp_epsilon(
            training.sampling_rate, training.noise_multiplier, training.steps, training.delta
        ),
        membership=tuple(
            MembershipBound(rate, curve.true_positive_rate(rate), membership_bound(rate, [record], [training.delta]))
            for rate in FALSE_POSITIVE_RATES
        ),
        membership_advantage=curve.advantage,
        gaussian_mu=curve.gaussian_mu(training.delta),
        epsilon_at_hospitals=tuple(
            (count, event_epsilon(event.at_separate_hospitals(count), training.delta))
            for count in HOSPITALS_OF_ONE_PATIENT
        ),
    )


def rounded_up(value: float, decimals: int) -> str:
    """A figure with so many decimals, never below the true one: for what was spent or can be lost."""
    scale = 10**decimals
    # The tolerance keeps 8.0 from becoming 8.01 when its product is off by a last binary digit.
    return f"{math.ceil(value * scale - 1e-9) / scale:.{decimals}f}"


def scientific(value: float) -> str:
    """A number as people write it: 1e-5, not 1e-05; 8, not 8.0."""
    return f"{value:.10g}".replace("e-0", "e-")
