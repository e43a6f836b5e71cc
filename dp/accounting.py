"""What a training costs: its epsilon at a delta, and the noise multiplier that a target needs.

The figure of record is the privacy loss distribution (Koskela et al. 2020; Doroshenko et al. 2022) as computed by
dp-accounting, pessimistic, for the add-or-remove relation between patients (for nodes, zeroing out one of them), at the
nominal noise and for all planned steps. Two other methods check it. Renyi privacy at integer orders (Mironov et al.
2019) gives a higher epsilon. Privacy random variables (Gopi et al. 2021), in Opacus, are as sharp: their epsilon is
higher by their own tolerance of 0.01, to within `PRV_AGREEMENT`. This holds for deltas down to `SMALLEST_CROSS_CHECK`:
below, their floating-point numbers fail, and their epsilon can be lower than the figure of record. Neither is ever the
figure of record. We never use a central-limit approximation: it gives too low an epsilon.

Where the machine differs from the analysis, the differences use up some of delta (`dp.delta_terms`); the figure is the
epsilon at the rest of delta.

dp-accounting and Opacus take seconds to import, so the functions import them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from dp.delta_terms import DeltaTerms, DistributedNoise, Noise
from dp.errors import ImpossibleTarget, OutOfRange
from dp.events import NoisedSums, Relation

if TYPE_CHECKING:
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

DISCRETIZATION = 1e-4
"""Grid of the privacy loss, rounded pessimistically; dp-accounting's own default."""
MIXTURE_DISCRETIZATION = 1e-3
"""The same for mixtures of Gaussians, which take twenty times as long; too high by a few ten-thousandths."""
TABLE_DISCRETIZATION = 1e-3
"""The same for rows of a table with less than the nominal noise."""
NOISE_UNITS = 10_000
"""A calibrated noise multiplier is a whole number of ten-thousandths: it has four decimals."""
_FEWEST_UNITS = NOISE_UNITS // 16
_MOST_UNITS = 4096 * NOISE_UNITS
PRV_AGREEMENT = 0.02
"""Privacy random variables and the figure of record may differ by this much: twice the former's own tolerance."""
SMALLEST_CROSS_CHECK = 1e-11
"""Below this delta the floating-point numbers of privacy random variables fail: their figure can then lie below the
figure of record (by 0.03 at 1e-12), or does not exist. `prv_epsilon` refuses such a delta."""
_RENYI_ORDERS = tuple(range(2, 256))
_LITTLE_NOISE = 1 / 8
"""With less noise left a table shows a simple bound: the exact figure would take long, and also promises almost
nothing."""
_FIXED_POINT_STEPS = 50


def epsilon(
    sampling_rate: float, noise_multiplier: float, steps: int, delta: float, noise: Noise | None = None
) -> float:
    """The figure of record: epsilon at `delta` by the privacy loss distribution, add-or-remove one patient.

    Args:
        sampling_rate: q, the chance of every patient to be drawn in a step, in (0, 1].
        noise_multiplier: sigma, the noise's standard deviation in units of the clipping norm; nominal.
        steps: number of noised gradient steps, at least 1.
        delta: in (0, 1).
        noise: how the noise is made; without it all of delta goes to the analysed mechanism.

    Raises:
        OutOfRange: an argument is outside its range.
        SamplerTooCoarse, BatchesTooSmall, GridTooCoarse: the noise takes too much of delta.
    """
    return event_epsilon(NoisedSums(sampling_rate, noise_multiplier, steps), delta, noise)


@lru_cache(maxsize=4096)
def event_epsilon(
    event: NoisedSums,
    delta: float,
    noise: Noise | None = None,
    relation: Relation | None = None,
    discretization: float | None = None,
) -> float:
    """Epsilon at `delta` by the privacy loss distribution, for any event and relation.

    Args:
        event: what is charged.
        delta: in (0, 1).
        noise: how the noise is made; without it all of delta goes to the analysed mechanism.
        relation: the event's own by default. `Relation.REPLACE` is the figure for a changed diagnosis.
        discretization: grid of the privacy loss; by default that of the figure of record. A coarser one is faster and
            gives a higher epsilon.

    Raises:
        OutOfRange: delta is outside its range, or the relation is not defined for this event.
        SamplerTooCoarse, BatchesTooSmall, GridTooCoarse: the noise takes too much of delta.
    """
    found = side_epsilon(event, delta, noise, relation, discretization)
    if noise is not None:
        claim = found
        if math.isinf(found):
            claim = privacy_loss(event, relation, discretization).get_epsilon_for_delta(delta)
        noise.refuse(noise.delta_terms(event, event.noise_multiplier, claim, event.reach(relation)), delta)
    return found


@lru_cache(maxsize=1024)
def side_epsilon(
    event: NoisedSums,
    delta: float,
    noise: Noise | None = None,
    relation: Relation | None = None,
    discretization: float | None = None,
) -> float:
    """As `event_epsilon`, for figures shown beside the promise, such as that of a patient at two sites.

    It refuses nothing: a figure that is not promised must not stop an accepted training, or leave it without a report.
    If the noise's terms take all of delta the figure is infinite.

    Raises:
        OutOfRange: delta is outside its range, or the relation is not defined for this event.
    """
    check_delta(delta)
    figure: Callable[[float], float] = privacy_loss(event, relation, discretization).get_epsilon_for_delta
    if noise is None:
        return float(figure(delta))
    reach = event.reach(relation)
    return _epsilon_beside(figure, delta, lambda claim: noise.delta_terms(event, event.noise_multiplier, claim, reach))


@lru_cache(maxsize=1024)
def rdp_epsilon(sampling_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """A cross-check: epsilon at `delta` by Renyi privacy at integer orders; above `epsilon` for every delta from
    `SMALLEST_CROSS_CHECK` on."""
    from dp_accounting import rdp

    check_delta(delta)
    accountant = rdp.RdpAccountant(orders=_RENYI_ORDERS)
    accountant.compose(NoisedSums(sampling_rate, noise_multiplier, steps).dp_event())
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def prv_epsilon(sampling_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """A cross-check: epsilon at `delta` by privacy random variables; within `PRV_AGREEMENT` of `epsilon`.

    It aims at 0.01 above, its own tolerance. That is not a bound, and does not prove that `epsilon` is high enough.

    Raises:
        OutOfRange: an argument is outside its range, or delta is below `SMALLEST_CROSS_CHECK`.
    """
    import numpy as np
    from opacus.accountants import PRVAccountant

    check_delta(delta)
    if delta < SMALLEST_CROSS_CHECK:
        raise OutOfRange(f"privacy random variables have no figure for a delta of {delta:g}, below 1e-11")
    event = NoisedSums(sampling_rate, noise_multiplier, steps)
    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sampling_rate, event.steps)]
    # At the ends of its grid it takes logarithms of 0, and masks the results; a wider grid than needed does no harm.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is")
        return float(accountant.get_epsilon(delta))


@dataclass(frozen=True, slots=True)
class FailingNodes:
    """One row of the table of epsilon against failing nodes."""

    failing: int
    """The number of nodes that leak their noise, or add none."""
    noise_multiplier: float
    """The noise that is left, in units of C."""
    epsilon: float
    """At the training's delta; infinite where no noise is left."""


def epsilon_by_failing_nodes(
    event: NoisedSums, delta: float, noise: DistributedNoise, survivors: int
) -> tuple[FailingNodes, ...]:
    """Epsilon at `delta` against the number of nodes, from none to all survivors, that leak or add no noise.

    Args:
        event: the training with its nominal noise multiplier.
        delta: in (0, 1).
        noise: how its noise is made.
        survivors: |U3|; the quorum for the nominal table.
    """
    rows = []
    for failing in range(survivors + 1):
        seen = noise.shares.seen(event.noise_multiplier, survivors, failing)
        rows.append(FailingNodes(failing, seen, epsilon_of_seen(event, seen, delta, noise)))
    return tuple(rows)


@lru_cache(maxsize=512)
def epsilon_of_seen(event: NoisedSums, seen: float, delta: float, noise: Noise) -> float:
    """Epsilon at `delta` with respect to parties for whom less noise remains, or at another delta than the noise was
    planned for.

    As `event_epsilon`, but it refuses nothing: if the noise's terms take all of delta it is infinite.

    Args:
        event: the training with its nominal noise multiplier.
        seen: the noise multiplier that is left (`NoiseShares.seen`).
        delta: in (0, 1).
        noise: how the noise is made.
    """
    check_delta(delta)
    if seen == 0:
        return math.inf
    left = replace(event, noise_multiplier=seen)
    if seen >= _LITTLE_NOISE:
        # Only a verdict's figures need the fine grid, which is slow with little noise.
        grid = None if seen >= event.noise_multiplier else TABLE_DISCRETIZATION
        figure = privacy_loss(left, discretization=grid).get_epsilon_for_delta
    else:
        figure = partial(_concentrated_epsilon, left)
    reach = event.reach()
    return _epsilon_beside(figure, delta, lambda claim: noise.delta_terms(left, event.noise_multiplier, claim, reach))


def analysed_delta(event: NoisedSums, delta: float, noise: Noise | None, claim: float) -> float:
    """The part of delta left for the analysed mechanism, in a claim of this epsilon. Give it to other accountants,
    which do not know the noise's terms."""
    return delta if noise is None else delta - noise.delta_terms(event, event.noise_multiplier, claim).total


def _concentrated_epsilon(event: NoisedSums, delta: float) -> float:
    """Epsilon by concentrated privacy, as if all took part (Bun and Steinke 2016, proposition 1.3): far above the exact
    one."""
    rho = event.steps * (event.draws / event.noise_multiplier) ** 2 / 2
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@lru_cache(maxsize=256)
def calibrate(
    target_epsilon: float, delta: float, sampling_rate: float, steps: int, noise: Noise | None = None
) -> float:
    """The smallest noise multiplier with four decimals whose epsilon is at most the target.

    `epsilon(sampling_rate, calibrate(...), steps, delta, noise) <= target_epsilon` holds exactly, not to within a
    tolerance: the result is the upper of the two neighbouring decimals around the root.

    Raises:
        OutOfRange: an argument is outside its range.
        ImpossibleTarget: no noise multiplier between 1/16 and 4096 meets the target.
        SamplerTooCoarse, BatchesTooSmall, GridTooCoarse: the noise takes too much of delta.
    """
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise OutOfRange(f"a target epsilon is positive and finite, not {target_epsilon}")
    check_delta(delta)

    def meets(units: int, discretization: float) -> bool:
        event = NoisedSums(sampling_rate, units / NOISE_UNITS, steps)
        left = delta
        if noise is not None:
            left -= noise.delta_terms(event, event.noise_multiplier, target_epsilon).total
        loss = _one_step_loss(replace(event, steps=1), event.relation, discretization).self_compose(steps)
        return left > 0 and bool(loss.get_epsilon_for_delta(left) <= target_epsilon)

    try:
        if noise is None:
            from dp.noise_estimate import estimated_noise  # loads numpy

            about = estimated_noise(target_epsilon, delta, sampling_rate, steps)
            start = min(max(round(about * NOISE_UNITS), _FEWEST_UNITS), _MOST_UNITS)
            # A coarser grid gives a higher epsilon: noise that meets the target on it also does on the fine one, which
            # takes minutes.
            if start == _FEWEST_UNITS and meets(start, TABLE_DISCRETIZATION):
                raise _OutOfBounds(_NEXT_TO_NONE)
            units = _smallest(partial(meets, discretization=DISCRETIZATION), start=start, stride=max(1, start // 4000))
        else:
            # All terms shrink as the noise grows: refuse here, rather than add noise until a grid that is too coarse
            # passes.
            alone = NoisedSums(sampling_rate, calibrate(target_epsilon, delta, sampling_rate, steps), steps)
            noise.refuse(noise.delta_terms(alone, alone.noise_multiplier, target_epsilon), delta)
            start = round(alone.noise_multiplier * NOISE_UNITS)
            units = _smallest(partial(meets, discretization=DISCRETIZATION), start=start, stride=1)
    except _OutOfBounds as error:
        raise ImpossibleTarget(
            f"epsilon {target_epsilon:g} at delta {delta:g} needs a noise multiplier {error}: "
            "change the number of steps, the sampling rate or epsilon"
        ) from None
    return units / NOISE_UNITS


class _OutOfBounds(Exception):
    pass


_NEXT_TO_NONE = "below 1/16, which is next to no noise"


def _smallest(meets: Callable[[int], bool], start: int, stride: int) -> int:
    """The smallest number of units that meets a condition; every larger number must meet it, too.

    Goes from `start` in doubling strides until the edge lies between two numbers, then bisects.
    """
    low = high = start
    if meets(start):
        while meets(low := max(high - stride, _FEWEST_UNITS)):
            if low == _FEWEST_UNITS:
                raise _OutOfBounds(_NEXT_TO_NONE)
            high, stride = low, 2 * stride
    else:
        while not meets(high := low + stride):
            if high > _MOST_UNITS:
                raise _OutOfBounds("above 4096, from which nothing learns")
            low, stride = high, 2 * stride
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _epsilon_beside(figure: Callable[[float], float], delta: float, terms: Callable[[float], DeltaTerms]) -> float:
    """The epsilon that holds at `delta` after subtracting terms that grow with epsilon.

    Goes up from the figure without terms until it is at least the figure at the rest of delta; infinite if it never is.
    """
    found = float(figure(delta))
    for _ in range(_FIXED_POINT_STEPS):
        left = delta - terms(found).total
        above = float(figure(left)) if left > 0 else math.inf
        if above <= found or math.isinf(above):
            return max(above, found)
        found = above
    return math.inf


@lru_cache(maxsize=4)
def privacy_loss(
    event: NoisedSums, relation: Relation | None = None, discretization: float | None = None
) -> PrivacyLossDistribution:
    """The whole event's privacy loss distribution, rounded pessimistically.

    Args:
        event: what is charged.
        relation: the event's own by default.
        discretization: grid of the privacy loss; by default that of the figure of record.
    """
    if discretization is None:
        discretization = DISCRETIZATION if event.draws == 1 else MIXTURE_DISCRETIZATION
    one_step = _one_step_loss(replace(event, steps=1), relation or event.relation, discretization)
    return one_step.self_compose(event.steps)


@lru_cache(maxsize=8)
def _one_step_loss(event: NoisedSums, relation: Relation, discretization: float) -> PrivacyLossDistribution:
    """One step's privacy loss. Building it takes most of the time, so runs of all lengths share it."""
    from dp_accounting.pld import privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    if event.draws > 1:
        if relation is not Relation.ADD_OR_REMOVE:
            raise OutOfRange("a patient at several sites is accounted for as added or removed, not as replaced")
        from dp.mixtures import mixture_loss

        return mixture_loss(event.noise_multiplier, range(event.draws + 1), event.draw_chances(), discretization)
    relations = {
        Relation.ADD_OR_REMOVE: NeighboringRelation.ADD_OR_REMOVE_ONE,
        Relation.ZERO_OUT: NeighboringRelation.REPLACE_SPECIAL,
        Relation.REPLACE: NeighboringRelation.REPLACE_ONE,
    }
    return privacy_loss_distribution.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sampling_rate,
        value_discretization_interval=discretization,
        neighboring_relation=relations[relation],
    )


def check_delta(delta: float) -> None:
    """Refuse a delta that is not a probability. `dp.delta_limit` limits how large it may be.

    Raises:
        OutOfRange: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise OutOfRange(f"a delta is between 0 and 1, not {delta}")
