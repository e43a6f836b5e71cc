"""What the accounting means for one patient: how well anybody could tell who took part, and other plain figures.

A guarantee (epsilon, delta) alone bounds very loosely what an attacker achieves. The whole privacy curve
delta(epsilon) of the training, as dp-accounting computes it, bounds the same thing far better. At every epsilon, a
test for taking part with false positive rate FPR has a true positive rate of at most

    min(e^epsilon FPR + delta(epsilon), 1 - e^-epsilon (1 - delta(epsilon) - FPR))

(Wasserman and Zhou 2010; Kairouz, Oh and Viswanath 2015); the smallest of these over the curve holds. Adding and
removing a patient are both covered, because the curve is that of the worse one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from dp.accounting import epsilon as accounted_epsilon
from dp.accounting import rdp_epsilon
from dp.events import local_event

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
HOSPITALS_OF_ONE_PATIENT = (1, 2, 3)
_CURVE_POINTS = 200
_CURVE_END_MAX = 20.0


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
    epsilon_at_hospitals: tuple[tuple[int, float], ...]
    """(k, epsilon) for a patient whose records lie at k hospitals of the study."""


@lru_cache(maxsize=32)
def assess(training: Training) -> Risk:
    """Compute the figures; takes a few seconds, most of them for the privacy curve."""
    from dp_accounting import NeighboringRelation, pld

    event = local_event(training.sampling_rate, training.noise_multiplier, training.steps)
    accountant = pld.PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(event)
    replace = pld.PLDAccountant(NeighboringRelation.REPLACE_ONE)
    replace.compose(event)
    record = accounted_epsilon(training.sampling_rate, training.noise_multiplier, training.steps, training.delta)
    # Beyond a little more than the figure of record the curve cannot improve a bound at these rates.
    highest = min(_CURVE_END_MAX, 2 * record + 2)
    epsilons = [index * highest / _CURVE_POINTS for index in range(_CURVE_POINTS + 1)]
    deltas = [float(accountant.get_delta(value)) for value in epsilons]
    return Risk(
        epsilon=record,
        epsilon_replace_one=float(replace.get_epsilon(training.delta)),
        epsilon_second_accountant=rdp_epsilon(
            training.sampling_rate, training.noise_multiplier, training.steps, training.delta
        ),
        membership=tuple(
            MembershipBound(
                rate,
                membership_bound(rate, epsilons, deltas),
                membership_bound(rate, [record], [training.delta]),
            )
            for rate in FALSE_POSITIVE_RATES
        ),
        membership_advantage=deltas[0],
        epsilon_at_hospitals=tuple(
            (
                count,
                accounted_epsilon(
                    training.sampling_rate, training.noise_multiplier, count * training.steps, training.delta
                ),
            )
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


def membership_bound(false_positive_rate: float, epsilons: Sequence[float], deltas: Sequence[float]) -> float:
    """The largest true positive rate that every point (epsilon, delta) of the curve allows."""
    bound = 1.0
    for epsilon, delta in zip(epsilons, deltas, strict=True):
        bound = min(
            bound,
            math.exp(epsilon) * false_positive_rate + delta,
            1 - math.exp(-epsilon) * (1 - delta - false_positive_rate),
        )
    return bound
