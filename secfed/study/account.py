"""What a study costs each unit of privacy: its event, its noise, and its epsilon, from the signed figures alone.

The noise multiplier is signed; every hospital checks here, before it reserves anything, that it keeps the promised
epsilon, with its own accountant.
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
"""Two versions of an accountant, or two processors, may differ by this part of an epsilon."""
_SURELY_BELOW = 0.99
"""Less than this part of the noise that an estimate asks for is refused without an account, which takes seconds, or all
memory where there is next to no noise. The estimate is good to a third of a hundredth."""
_TO_BE_SURE = 1.005
"""What an estimate is raised by before somebody is told to take it."""
_NEVER_ENOUGH = 4095.0
"""An estimate ends at 4096, from which nothing learns."""
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

    Where the unit is a node the sampling rate is 1, at which zeroing out costs the same as removing.

    Raises:
        DPError: none does, or the noise takes too much of delta.
    """
    privacy = study.privacy
    return accounting.calibrate(privacy.epsilon, privacy.delta, privacy.sampling_rate, study.steps, noise_of(study))


def figure_of_record(study: Study) -> float:
    """The study's epsilon at its delta: nominal noise, all planned steps, whoever takes part.

    Raises:
        UserError: the noise is surely below what the study promises, or takes too much of delta.
    """
    if study.privacy.noise_multiplier < _SURELY_BELOW * _about(study):
        raise _too_little(study, "is too little for that")
    try:
        return accounting.event_epsilon(event_of(study), study.privacy.delta, noise_of(study))
    except DPError as error:
        raise UserError(str(error), "Mend it in the study file; nothing was started") from error


def check_noise(study: Study) -> float:
    """The study's epsilon by the figure of record, which what it promises is not below.

    Raises:
        UserError: the study's noise does not keep what the study promises, takes too much of delta, or no account of
            it can be made.
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
    """The error that names enough noise: that of the estimate, a little raised."""
    privacy, about = study.privacy, _about(study)
    promise = f"the study promises epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"
    over = f"over {study.steps} steps at a sampling rate of {privacy.sampling_rate:g}"
    if about > _NEVER_ENOUGH:
        return UserError(
            f"{promise}, and {over} no noise multiplier up to 4096 is enough for that",
            "Take fewer rounds, a smaller sampling rate, or a larger epsilon; nothing was started",
        )
    enough = math.ceil(about * _TO_BE_SURE * 1000) / 1000
    if enough <= privacy.noise_multiplier:
        enough = smallest_noise(study)
    return UserError(
        f"{promise}, and a noise multiplier of {privacy.noise_multiplier:g} {what}: {over} it takes about {about:.3f}",
        f"Set privacy.noise_multiplier to {enough:g} or more, or take fewer rounds; nothing was started",
    )


def price(study: Study, figure: float) -> Decimal:
    """What a ledger sets aside for the study: all that its rounds can spend, and no more.

    That is the figure of record, rounded up to a hundredth. What the study promises stays a ceiling, which the figure
    is not above (`check_noise`) and the price is not either.
    """
    return min(Decimal(repr(figure)).quantize(_HUNDREDTH, ROUND_CEILING), Decimal(repr(study.privacy.epsilon)))


def least_price(study: Study, figure: float) -> Decimal:
    """The least that a node may have set aside: its accountant may differ in the last digits before it rounds up."""
    return price(study, figure * (1 - ACCOUNTANTS_DIFFER))


def epsilon_to_spare(study: Study, figure: float) -> str:
    """In words, where a study promises more than it can spend: the smallest epsilon that it could promise, and the
    noise that would spend all it promises. Empty where the two agree; takes seconds where they do not."""
    cost, promised = amount(price(study, figure)), amount(Decimal(repr(study.privacy.epsilon)))
    if cost == promised:
        return ""
    start = f"the study promises {promised} and can spend {cost}: that is what is reserved. privacy.epsilon = {cost}"
    try:
        return f"{start} would do, or privacy.noise_multiplier = {smallest_noise(study):g} would spend all of it"
    except DPError:
        return f"{start} would do"


def epsilon_by_round(study: Study) -> tuple[float, ...]:
    """Nominal epsilon after each round; never falls. The last is the figure of record; those before it err high by a
    little, because a coarser grid is enough to follow a run."""
    rounds, event, delta, noise = study.algorithm.rounds, event_of(study), study.privacy.delta, noise_of(study)
    whole = accounting.event_epsilon(event, delta, noise)
    stride = -(-rounds // _CURVE_POINTS)

    def after(count: int) -> float:
        so_far = replace(event, steps=study.steps_per_round * count)
        found = accounting.event_epsilon(so_far, delta, noise, discretization=accounting.TABLE_DISCRETIZATION)
        return min(found, whole)

    counted = (min(rounds, stride * -(-number // stride)) for number in range(1, rounds + 1))
    return tuple(whole if count == rounds else after(count) for count in counted)
