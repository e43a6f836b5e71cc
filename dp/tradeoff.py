"""What a training's privacy means in plain figures: the trade-off between the two errors of any test for taking part
(membership).

A single guarantee (epsilon, delta) bounds an attacker's success only loosely. The whole privacy curve delta(epsilon)
bounds it far better. At every epsilon, a test for taking part with false positive rate FPR has a true positive rate of
at most

    min(e^epsilon FPR + delta(epsilon), 1 - e^-epsilon (1 - delta(epsilon) - FPR))

(Wasserman and Zhou 2010; Kairouz, Oh and Viswanath 2015); the smallest of these over the curve is a bound. It covers
both adding and removing a patient, because at every epsilon the curve takes the worse of the two.

The running mechanism differs slightly from the analysed one, and the bound is for the running one. Let M be the
analysed mechanism with the curve delta(epsilon), and M~ the one that runs: with the sampler's error, padded batches
that may overflow, a sum of discrete Gaussians in place of a continuous one. `dp.delta_terms` shows, for *every* epsilon
>= 0 and both orders of the two data sets, that M~ is (epsilon, delta(epsilon) + terms(epsilon))-private. So every point
of the curve with its terms added is a true claim about M~, the two inequalities above follow from each point for every
test S of M~'s output (S itself gives the first, its complement with the data sets exchanged the second), and the
smallest of true bounds is one. The terms also apply at delta(0): with equal odds, the best guess is right with a chance
of (1 + TPR - FPR) / 2, and TPR - FPR <= delta(0) + terms(0) for every S. A running minimum over epsilon is allowed,
because the excess of M~ over e^epsilon can only fall as epsilon grows: a claim at a smaller epsilon also holds at a
larger one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from dp.accounting import privacy_loss
from dp.delta_terms import Noise
from dp.events import NoisedSums, Relation

_POINTS = 4000
_END_DELTA = 1e-9
"""The curve ends where delta is this small: beyond, it affects nothing that is plotted or printed."""
_EPSILON_MOST = 600.0
"""Up to here e^epsilon fits into a float."""


@dataclass(frozen=True, slots=True)
class PrivacyCurve:
    """delta(epsilon) of one training, at equally spaced epsilons from 0; between two of them it is at most that of the
    first."""

    epsilons: tuple[float, ...]
    deltas: tuple[float, ...]

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """The highest true positive rate of any test for taking part at this false positive rate."""
        return membership_bound(false_positive_rate, self.epsilons, self.deltas)

    @property
    def advantage(self) -> float:
        """delta(0): the largest difference between true and false positive rate of any test."""
        return min(self.deltas[0], 1.0)

    @property
    def accuracy(self) -> float:
        """The largest share of right answers of any test, for a person who takes part with a chance of one half."""
        return (1 + self.advantage) / 2

    def gaussian_mu(self, delta: float) -> float:
        """The smallest mu whose Gaussian trade-off curve (Dong, Roth and Su 2022) lies below this training's.

        A sum of subsampled Gaussians hides less and less in its far tail, where no useful mu lies below it. So the
        claim leaves out a delta: at any false positive rate, no test reveals more than one for a single draw from N(0,
        1) against N(mu, 1), plus `delta`. The mu of the central limit theorem is lower, and too low.

        Args:
            delta: as in the guarantee; the curve reaches down to 1e-9.

        Returns:
            mu, rounded up in the sixth digit; infinite where the curve ends above `delta`.
        """
        if self.deltas[-1] > delta:
            return math.inf
        # Up to the next point the curve is at most its value here, and the Gaussian one at least its value there.
        points = [
            (self.epsilons[index + 1], self.deltas[index])
            for index in range(len(self.epsilons) - 1)
            if self.deltas[index] > delta
        ]
        low, high = 0.0, 1.0
        while not _lies_below(high, points):
            low, high = high, 2 * high
        while high - low > 1e-6 * high:
            middle = (low + high) / 2
            low, high = (low, middle) if _lies_below(middle, points) else (middle, high)
        return high


def privacy_curve(event: NoisedSums, noise: Noise | None = None, relation: Relation | None = None) -> PrivacyCurve:
    """The curve of an event, pessimistic in both directions.

    Args:
        event: what is charged.
        noise: how the noise is made; its terms are added to every delta.
        relation: the event's own by default.
    """
    loss = privacy_loss(event, relation, None)  # the same arguments as in `event_epsilon`, so that it is computed once
    end = min(float(loss.get_epsilon_for_delta(_END_DELTA)), _EPSILON_MOST)
    epsilons = [index * end / _POINTS for index in range(_POINTS + 1)]
    deltas = [float(delta) for delta in loss.get_delta_for_epsilon(epsilons)]
    if noise is not None:
        reach = event.reach(relation)
        deltas = [
            delta + noise.delta_terms(event, event.noise_multiplier, epsilon, reach).total
            for epsilon, delta in zip(epsilons, deltas, strict=True)
        ]
        # The sampler's term grows with epsilon, but a mechanism's delta never does: an earlier bound still holds.
        deltas = list(accumulate(deltas, min))
    return PrivacyCurve(tuple(epsilons), tuple(deltas))


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


def gaussian_delta(mu: float, epsilon: float) -> float:
    """delta(epsilon) of one draw from N(0, 1) against N(mu, 1) (Balle and Wang 2018, theorem 8)."""
    return _normal(mu / 2 - epsilon / mu) - math.exp(epsilon) * _normal(-mu / 2 - epsilon / mu)


def _lies_below(mu: float, points: Sequence[tuple[float, float]]) -> bool:
    """Whether the Gaussian curve's delta is at least that of every point, so that its trade-off curve is below."""
    return all(gaussian_delta(mu, epsilon) >= delta for epsilon, delta in points)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))
