"""What a study costs each unit of privacy: its event, noise and epsilon, from the signed values alone.

The noise multiplier is signed. Before a site reserves anything, it checks here with its own accountant that this noise
keeps the promised epsilon.
"""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from dp import accounting
from dp.delta_terms import Noise
from dp.errors import DPError
from dp.events import NoisedSums
from secfed.errors import UserError
from secfed.files.figures import amount
from secfed.study.manifest import Study

ACCOUNTANTS_DIFFER = 1e-4
"""Two versions of an accountant, or two processors, may differ by this fraction of an epsilon."""
_SURELY_BELOW = 0.99
"""Less than this part of the noise that an estimate asks for is refused without an account, which takes seconds, or all
memory where there is next to no noise. The estimate is good to a third of a hundredth."""
_TO_BE_SURE = 1.005
"""An estimate is raised by this factor before an error recommends it."""
_NEVER_ENOUGH = 4095.0
"""Estimates stop at 4096: with so much noise nothing learns."""
_HUNDREDTH = Decimal("0.01")
_CURVE_POINTS = 40
"""More rounds than this are accounted for at so many of them, and those between show the figure of the next."""


def event_of(study: Study) -> NoisedSums:
    """The whole study's event, at its nominal noise and for all planned steps."""
    return study.mechanism.event


def noise_of(study: Study) -> Noise:
    """How noise is made."""
    return study.mechanism.noise


def smallest_noise(study: Study) -> float:
    """The smallest noise multiplier with four decimals that keeps the study's epsilon.

    If the unit is a node, the sampling rate is 1, and then zeroing out costs the same as removing.

    Raises:
        DPError: no noise keeps it, or the noise takes too much of delta.
    """
    privacy = study.privacy
    return accounting.calibrate(privacy.epsilon, privacy.delta, privacy.sampling_rate, study.steps, noise_of(study))


def figure_of_record(study: Study) -> float:
    """The study's epsilon at its delta: nominal noise, all planned steps, whoever takes part.

    Raises:
        UserError: the noise is clearly too small for the promise, or takes too much of delta.
    """
    if study.privacy.noise_multiplier < _SURELY_BELOW * _about(study):
        raise _too_little(study, "is too little for that")
    try:
        return accounting.event_epsilon(event_of(study), study.privacy.delta, noise_of(study))
    except DPError as error:
        raise UserError(str(error), "Fix it in the study file; nothing was started") from error


def check_noise(study: Study) -> float:
    """The study's epsilon by the figure of record; at most what the study promises.

    Raises:
        UserError: the study's noise does not keep its promise, takes too much of delta, or cannot be accounted for.
    """
    found = figure_of_record(study)
    if found > study.privacy.epsilon:
        raise _too_little(study, f"gives {found:.3f}")
    return found


def _about(study: Study) -> float:
    """About the noise multiplier that the study's epsilon takes, in milliseconds: what the noise's own terms take off
    delta is left to them."""
    from dp.noise_estimate import estimated_noise  # loads numpy

    privacy = study.privacy
    about = estimated_noise(privacy.epsilon, privacy.delta, privacy.sampling_rate, study.steps)
    event = replace(event_of(study), noise_multiplier=about)
    left = privacy.delta - noise_of(study).delta_terms(event, about, privacy.epsilon).total
    return about if left <= 0 else estimated_noise(privacy.epsilon, left, privacy.sampling_rate, study.steps)


def _too_little(study: Study, what: str) -> UserError:
    """The error that recommends a sufficient noise: the estimate, slightly raised."""
    privacy, about = study.privacy, _about(study)
    promise = f"the study promises epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    over = f"over {study.steps} steps at a sampling rate of {privacy.sampling_rate:g}"
    if about > _NEVER_ENOUGH:
        return UserError(
            f"{promise}, but {over} no noise multiplier up to 4096 is enough",
            "Use fewer rounds, a smaller sampling rate, or a larger epsilon; nothing was started",
        )
    enough = math.ceil(about * _TO_BE_SURE * 1000) / 1000
    if enough <= privacy.noise_multiplier:
        enough = smallest_noise(study)
    return UserError(
        f"{promise}, and a noise multiplier of {privacy.noise_multiplier:g} {what}: {over} it takes about {about:.3f}",
        f"Set privacy.noise_multiplier to {enough:g} or more, or take fewer rounds; nothing was started",
    )


def price(study: Study, figure: float) -> Decimal:
    """What a ledger reserves for the study: exactly what its rounds can spend.

    That is the figure of record, rounded up to a hundredth. Neither the figure (`check_noise`) nor this price is above
    what the study promises.
    """
    return min(Decimal(repr(figure)).quantize(_HUNDREDTH, ROUND_CEILING), Decimal(repr(study.privacy.epsilon)))


def least_price(study: Study, figure: float) -> Decimal:
    """The least that a node may have reserved: its accountant may differ in the last digits before it rounds up."""
    return price(study, figure * (1 - ACCOUNTANTS_DIFFER))


def epsilon_to_spare(study: Study, figure: float) -> str:
    """A text if the study promises more than it can spend: the smallest epsilon that it could promise, and the noise
    that would spend all it promises. Empty if the two agree. Takes seconds if they do not."""
    cost, promised = amount(price(study, figure)), amount(Decimal(repr(study.privacy.epsilon)))
    if cost == promised:
        return ""
    start = f"the study promises {promised} and can spend {cost}: that is what is reserved. privacy.epsilon = {cost}"
    try:
        return f"{start} would do, or privacy.noise_multiplier = {smallest_noise(study):g} would spend all of it"
    except DPError:
        return f"{start} would do"


def epsilon_by_round(study: Study) -> tuple[float, ...]:
    """Nominal epsilon after each round; never falls. The last value is the figure of record. Earlier values are
    slightly too high, because a coarser grid is enough to follow a run."""
    rounds, event, delta, noise = study.algorithm.rounds, event_of(study), study.privacy.delta, noise_of(study)
    whole = accounting.event_epsilon(event, delta, noise)
    stride = -(-rounds // _CURVE_POINTS)

    def after(count: int) -> float:
        so_far = replace(event, steps=study.steps_per_round * count)
        found = accounting.event_epsilon(so_far, delta, noise, discretization=accounting.TABLE_DISCRETIZATION)
        return min(found, whole)

    counted = (min(rounds, stride * -(-number // stride)) for number in range(1, rounds + 1))
    return tuple(whole if count == rounds else after(count) for count in counted)
