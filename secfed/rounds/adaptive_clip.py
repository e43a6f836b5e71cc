"""The clipping norm of the next step, if it adapts: every node computes it from the published sum alone.

Andrew et al. 2021, "Differentially Private Learning with Adaptive Clipping", algorithm 1, with two differences. A
gradient's last element is +kappa if the gradient was not shortened and -kappa if it was, instead of 1 and 0: the sum
then has half as much noise in it for the same length. And the gradient itself is shortened by that length, so that one
clip and one noise cover both, and no extra noise is needed.

From step to step only the meaning of C changes, never the mechanism: in steps of the grid, every step has the same
largest norm and the same noise. So the account that is made before the first step also covers a C that was chosen from
earlier sums (docs/decisions, 0012).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Context, Decimal

from secfed.study.manifest import Study

FARTHEST = 1000.0
"""C stays within this factor of the study's C, so that noise cannot carry it out of the range of numbers."""
_DIGITS = Context(prec=50)


def first_clip(study: Study) -> float | None:
    """C of the first step if it adapts, else None."""
    return None if study.mechanism.adaptive_clip is None else study.privacy.clip


def next_clip(study: Study, clip: float, indicators: int, survivors: Sequence[int]) -> float:
    """C' = C exp(eta_C (gamma - b)), b being the noised fraction of gradients that were not shortened.

    Args:
        study: with an adaptive clip.
        clip: C of the step that gave the sum.
        indicators: the last element of the published sum, in steps of the grid.
        survivors: U3; the denominator q N follows from them.

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
    """exp(value), the same on every machine: the C library's may differ in the last bit, but `decimal`'s is correctly
    rounded."""
    return float(_DIGITS.exp(Decimal(value)))
