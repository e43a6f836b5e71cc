"""What training costs: events, their epsilon, and the noise multiplier that a target asks for.

An event says what happened; the functions beside it say what it costs. The figure of record is the privacy
loss distribution (Koskela et al. 2020; Doroshenko et al. 2022) as computed by dp-accounting, pessimistic, for
the add-or-remove relation between patients. Renyi privacy at integer orders (Mironov et al. 2019) is a second
accountant: another method, always a little above the first. A central-limit approximation is never used: it
errs low.

dp-accounting takes seconds to import, so that happens inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from dp.errors import ImpossibleTarget

if TYPE_CHECKING:
    from dp_accounting import dp_event
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

DISCRETIZATION = 1e-4
"""Grid of the privacy loss, rounded pessimistically; dp-accounting's own default."""
SEARCH_DISCRETIZATIONS = (1e-2, 1e-3, DISCRETIZATION)
"""A search for noise begins on coarse grids, which are fast and err high; the last grid gives the answer."""
NOISE_UNITS = 10_000
"""A calibrated noise multiplier is a whole number of these parts of 1: it has four decimals."""
_FEWEST_UNITS = NOISE_UNITS // 16
_MOST_UNITS = 4096 * NOISE_UNITS
_RENYI_ORDERS = tuple(range(2, 256))


def local_event(sampling_rate: float, noise_multiplier: float, steps: int) -> dp_event.DpEvent:
    """`steps` Gaussian releases, each over patients drawn by independent coins.

    Args:
        sampling_rate: q, the chance of every patient to be drawn in a step, in (0, 1].
        noise_multiplier: sigma, the noise's standard deviation in units of the clipping norm.
        steps: number of noised gradient steps, at least 1.

    Raises:
        ValueError: an argument is outside its range.
    """
    from dp_accounting import dp_event

    _check_event(sampling_rate, noise_multiplier, steps)
    step: dp_event.DpEvent = dp_event.GaussianDpEvent(noise_multiplier)
    if sampling_rate < 1:
        step = dp_event.PoissonSampledDpEvent(sampling_rate, step)
    return dp_event.SelfComposedDpEvent(step, steps)


@lru_cache(maxsize=4096)
def epsilon(sampling_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The figure of record: epsilon at `delta` by the privacy loss distribution, add-or-remove one patient.

    Args and errors as `local_event`; delta in (0, 1).
    """
    return _pld_epsilon(sampling_rate, noise_multiplier, steps, delta, DISCRETIZATION)


@lru_cache(maxsize=1024)
def rdp_epsilon(sampling_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The cross-check: epsilon at `delta` by Renyi privacy at integer orders; lies above `epsilon`."""
    from dp_accounting import rdp

    _check_delta(delta)
    accountant = rdp.RdpAccountant(orders=_RENYI_ORDERS)
    accountant.compose(local_event(sampling_rate, noise_multiplier, steps))
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=256)
def calibrate(target_epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """The smallest noise multiplier with four decimals whose epsilon is at most the target.

    `epsilon(sampling_rate, calibrate(...), steps, delta) <= target_epsilon` holds exactly, not to within a
    tolerance: of the two neighbouring decimals around the root the upper one is taken.

    Raises:
        ValueError: an argument is outside its range.
        ImpossibleTarget: no noise multiplier between 1/16 and 4096 meets the target.
    """
    if not (target_epsilon > 0 and math.isfinite(target_epsilon)):
        raise ValueError(f"a target epsilon is positive and finite, not {target_epsilon}")
    _check_delta(delta)

    def meets(units: int, discretization: float) -> bool:
        noise_multiplier = units / NOISE_UNITS
        return _pld_epsilon(sampling_rate, noise_multiplier, steps, delta, discretization) <= target_epsilon

    units, stride = NOISE_UNITS, NOISE_UNITS // 2
    try:
        for grid in SEARCH_DISCRETIZATIONS:
            units = _smallest(partial(meets, discretization=grid), start=units, stride=stride)
            stride = 1
    except _OutOfBounds as error:
        raise ImpossibleTarget(
            f"epsilon {target_epsilon:g} at delta {delta:g} needs a noise multiplier {error}: "
            "change the number of steps, the sampling rate or epsilon"
        ) from None
    return units / NOISE_UNITS


def epsilon_curve(
    sampling_rate: float, noise_multiplier: float, steps_per_round: int, rounds: int, delta: float
) -> tuple[float, ...]:
    """Epsilon at `delta` after each of the rounds 1 .. `rounds`; never falls."""
    return tuple(
        epsilon(sampling_rate, noise_multiplier, steps_per_round * count, delta) for count in range(1, rounds + 1)
    )


class _OutOfBounds(Exception):
    pass


def _smallest(meets: Callable[[int], bool], start: int, stride: int) -> int:
    """The smallest number of units that meets a condition which holds from some number on.

    Gallops from `start` with doubling strides until the edge lies between two numbers, then halves.
    """
    low = high = start
    if meets(start):
        while meets(low := max(high - stride, _FEWEST_UNITS)):
            if low == _FEWEST_UNITS:
                raise _OutOfBounds("below 1/16, which is next to no noise")
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


def _pld_epsilon(
    sampling_rate: float, noise_multiplier: float, steps: int, delta: float, discretization: float
) -> float:
    _check_event(sampling_rate, noise_multiplier, steps)
    _check_delta(delta)
    one_step = _one_step_loss(sampling_rate, noise_multiplier, discretization)
    return float(one_step.self_compose(steps).get_epsilon_for_delta(delta))


@lru_cache(maxsize=8)
def _one_step_loss(sampling_rate: float, noise_multiplier: float, discretization: float) -> PrivacyLossDistribution:
    """One step's privacy loss. Building it takes most of the time, and all lengths of a run share it."""
    from dp_accounting.pld import privacy_loss_distribution
    from dp_accounting.privacy_accountant import NeighboringRelation

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sampling_rate,
        value_discretization_interval=discretization,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def _check_event(sampling_rate: float, noise_multiplier: float, steps: int) -> None:
    if not 0 < sampling_rate <= 1:
        raise ValueError(f"a sampling rate is above 0 and at most 1, not {sampling_rate}")
    if not (noise_multiplier > 0 and math.isfinite(noise_multiplier)):
        raise ValueError(f"a noise multiplier is positive and finite, not {noise_multiplier}")
    if steps < 1:
        raise ValueError(f"a number of steps is at least 1, not {steps}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"a delta is between 0 and 1, not {delta}")
