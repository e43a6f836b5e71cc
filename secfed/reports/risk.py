"""What the accounting means for one patient, record or node: how well anybody could tell who took part, and more.

The figures are those of `dp.accounting` and `dp.tradeoff`, gathered for the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from dp.accounting import FailingNodes, epsilon_by_failing_nodes, event_epsilon, rdp_epsilon
from dp.delta_terms import DistributedNoise, Noise
from dp.events import NoisedSums, Relation, Unit
from dp.tradeoff import membership_bound, privacy_curve

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
    """The figure of record at the training's delta, for adding or removing a patient; for a node, whose contribution is
    its data's or zero."""
    epsilon_replace_one: float
    """The same for exchanging one patient's records for other records, such as a changed diagnosis."""
    epsilon_renyi: float
    """By Renyi differential privacy at integer orders, which errs high. What the machine does otherwise than the
    analysis assumes is left out of it."""
    membership: tuple[MembershipBound, ...]
    membership_advantage: float
    """delta(0): the largest difference between true and false positive rate of any test."""
    gaussian_mu: float
    """No test tells more than one for N(0, 1) against N(mu, 1) does, up to the training's delta."""
    epsilon_at_hospitals: tuple[tuple[int, float], ...]
    """(k, epsilon) for a patient whose records lie at k hospitals of the study; empty where the unit is the node."""
    failing: tuple[FailingNodes, ...]
    """Epsilon against nodes of the smallest round that leak their noise or add none; empty in local mode, where it does
    not depend on them."""


@lru_cache(maxsize=32)
def assess(training: Training) -> Risk:
    """Compute the figures; takes a few seconds, most of them for the privacy loss."""
    event, delta, noise = training.event, training.delta, training.noise
    record = event_epsilon(event, delta, noise)
    curve = privacy_curve(event)
    shared = noise if isinstance(noise, DistributedNoise) else None
    at_hospitals = event.at_summed_hospitals if shared else event.at_separate_hospitals
    hospitals = () if event.unit is Unit.NODE else HOSPITALS_OF_ONE_PATIENT
    figures = (event.sampling_rate, event.noise_multiplier, event.steps, delta)
    return Risk(
        epsilon=record,
        epsilon_replace_one=event_epsilon(event, delta, noise, Relation.REPLACE),
        epsilon_renyi=rdp_epsilon(*figures),
        membership=tuple(
            MembershipBound(rate, curve.true_positive_rate(rate), membership_bound(rate, [record], [delta]))
            for rate in FALSE_POSITIVE_RATES
        ),
        membership_advantage=curve.advantage,
        gaussian_mu=curve.gaussian_mu(delta),
        epsilon_at_hospitals=tuple((count, event_epsilon(at_hospitals(count), delta, noise)) for count in hospitals),
        failing=epsilon_by_failing_nodes(event, delta, shared, shared.shares.quorum) if shared else (),
    )
