"""The clipping norm of the next step, where it adapts: computed by every node from the published sum alone.

Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1, with two differences. A
gradient's element says +kappa where it was left as it is and -kappa where it was shortened, instead of 1 and 0: the sum
then has half as much noise in it for the same length. And that length comes off the gradient's own, so that one clip
and one noise cover both, and no noise is set aside.

What changes from step to step is what C means, never the mechanism: in steps of the grid, every step has the same
largest norm and the same noise. A C that was chosen from earlier sums is therefore within the account that is made
before the first (docs/decisions, 0012).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal

from secfed.study.manifest import Study

FARTHEST = 1000.0
"""C stays within this factor of the study's, so that no run of noise carries it out of what numbers can hold."""
_DIGITS = Context(prec=50)


def first_clip(study: Study) -> float | None:
    """C of the first step where it adapts; None where it does not."""
    return None if study.mechanism.adaptive_clip is None else study.privacy.clip


def next_clip(study: Study, clip: float, indicators: int, survivors: Sequence[int]) -> float:
    """C' = C exp(eta_C (gamma - b)), b being the noised fraction of gradients that were not shortened.

    Args:
        study: with an adaptive clip.
        clip: C of the step behind the sum.
        indicators: the last element of the published sum, in steps of the grid.
        survivors: U3; with them the denominator is the public q N.

    Raises:
        ValueError: the study's clip does not adapt.
    """
    first, settings = study.privacy.clip, study.mechanism.adaptive_clip
    if settings is None:
        raise ValueError("the study's clipping norm does not adapt")
    whole = float(study.mechanism.indicator) * study.expected_units(survivors)
    kept = min(max((float(indicators) / whole + 1.0) / 2.0, 0.0), 1.0)
    moved = clip * _exponential(settings.learning_rate * (settings.quantile - kept))
    return min(max(moved, first / FARTHEST), first * FARTHEST)


def _exponential(value: float) -> float:
    """exp(value), the same on every machine: that of the C library may differ in its last bit, and `decimal`'s is
    correctly rounded."""
    return float(_DIGITS.exp(Decimal(value)))
