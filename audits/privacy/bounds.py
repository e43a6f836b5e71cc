"""Lower bounds on epsilon from guesses about canaries, and the theorems behind them.

m canaries are in or out by fair coins. A score per canary says how likely it seems to be in. `guesses` calls the
largest scores in, the same number of the smallest out, and makes no guess on the rest; `one_run` and `f_dp` count the
right guesses, `error_rates` compares all scores with a few thresholds.

What a bound means. Each method tests a whole privacy curve: "the mechanism is at least as private as one Gaussian sum
with the noise multiplier sigma" (`audits.privacy.curves`, at the sampling rate of the claim). It rejects the curve if
scores as revealing as these have a chance below `risk` under it. The bound is epsilon at delta of the smallest curve of
that family that is not rejected, and 0 if none is. So a bound above the theory says, with confidence 1 - risk, that the
theory's curve is not true, whatever the mechanism is. It is a bound on the mechanism's own epsilon if the mechanism has
a curve of the family, as it does with too little noise or too long a clip. It does not if patients are not sampled as
claimed: a sum over everybody at sigma = 1 has epsilon 4.38 at delta 1e-5, and no curve of sums over half of the
patients allows its error rates at C/2 before epsilon 11.

Several independent sums, each over canaries of its own, count as one: a canary affects only one sum, and the mechanism
that releases all of them is as private towards it as that one (parallel composition).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom

from audits.privacy.curves import SampledGaussian

SMALL_DELTAS = tuple(10.0**-power for power in range(4, 17))
"""The deltas at which `one_run` tests a curve: at small risks it says something only where delta is far below
risk/m."""
THRESHOLDS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""The thresholds of `error_rates`, in units of C. Half of C is best for a correct build, and more if patients count for
more than C."""
_NOISE_FROM, _NOISE_TO = 2.0**-4, 2.0**8
_HALVINGS = 22


@dataclass(frozen=True, slots=True)
class Scores:
    """An auditor's knowledge of m canaries."""

    present: NDArray[np.bool_]
    """Whether each was in the data, by fair and independent coins; of shape (m,)."""
    values: NDArray[np.float64]
    """How likely each seems to be in, in units of C; of shape (m,)."""

    def __post_init__(self) -> None:
        if self.present.shape != self.values.shape or self.present.ndim != 1:
            raise ValueError(f"{self.present.shape} coins and {self.values.shape} scores are not one a canary")


@dataclass(frozen=True, slots=True)
class Guesses:
    """The result of guessing."""

    canaries: int
    """m: the number of canaries, with or without a guess."""
    made: int
    """The number of guesses, fixed beforehand: a number chosen after seeing the scores would need a correction."""
    correct: int
    """The number of right guesses."""

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries:
            raise ValueError(f"{self.correct} right of {self.made} guesses at {self.canaries} canaries cannot be")


def guesses(scores: Scores, made: int) -> Guesses:
    """Guess that the made/2 canaries with the largest scores were in, and the made/2 with the smallest were out.

    Args:
        scores: of all canaries.
        made: how many guesses, even.

    Raises:
        ValueError: the number is odd, or there are fewer canaries.
    """
    if made % 2 or made > scores.values.size:
        raise ValueError(f"{made} guesses at {scores.values.size} canaries: an even number of at most all is needed")
    order = np.argsort(scores.values, kind="stable")
    lowest, highest = order[: made // 2], order[scores.values.size - made // 2 :]
    correct = int(np.count_nonzero(scores.present[highest]) + np.count_nonzero(~scores.present[lowest]))
    return Guesses(scores.values.size, made, correct)


def one_run(
    guessed: Guesses, sampling_rate: float, delta: float, risk: float, at: Sequence[float] = SMALL_DELTAS
) -> float:
    """The bound of Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run".

    Args:
        guessed: how guessing went.
        sampling_rate: q of the family.
        delta: at which the bound is given.
        risk: the chance that the bound is above the truth.
        at: the deltas at which a curve is tested. The theorem bounds the same chance at every delta, so the smallest of
            its bounds holds. With only `delta` the bound is the paper's own, which assumes no family.
    """

    def rejected(curve: SampledGaussian) -> bool:
        return any(one_run_chance(guessed, curve.epsilon(each), each) < risk for each in at)

    return _smallest_not_rejected(rejected, sampling_rate, delta)


def one_run_chance(guessed: Guesses, epsilon: float, delta: float) -> float:
    """A bound on the chance of this many right guesses, or more, for an (epsilon, delta)-private mechanism.

    Theorem 5.2 and corollary 5.4 of Steinke, Nasr and Jagielski 2023 for adding or removing a canary: with W from
    Binomial(r, e^epsilon / (1 + e^epsilon)), r guesses and v of them right,

        P[W >= v] + 2 m delta max_{1 <= i <= v} P[v - i <= W < v] / i.
    """
    right = 1 / (1 + math.exp(-epsilon))
    above = float(binom.sf(guessed.correct - 1, guessed.made, right))
    if guessed.correct == 0 or delta == 0:
        return min(above, 1.0)
    widths = np.arange(1, guessed.correct + 1)
    within = np.cumsum(binom.pmf(guessed.correct - widths, guessed.made, right))
    return min(above + 2 * guessed.canaries * delta * float((within / widths).max()), 1.0)


def f_dp(guessed: Guesses, sampling_rate: float, delta: float, risk: float) -> float:
    """The bound of Mahloujifar, Melis and Chaudhuri 2024, "Auditing f-Differential Privacy in One Run".

    Args:
        guessed: how guessing went.
        sampling_rate: q of the family.
        delta: at which the bound is given.
        risk: the chance that the bound is above the truth.
    """
    return _smallest_not_rejected(partial(f_dp_rejects, guessed, risk=risk), sampling_rate, delta)


def f_dp_rejects(guessed: Guesses, curve: SampledGaussian, risk: float) -> bool:
    """Whether this many right guesses, or more, have a chance below `risk` for a mechanism with this privacy curve.

    Their theorem on guessing games and the algorithm that evaluates it, for two answers (in, out) and an exact number k
    of guesses at m canaries. Let p_j be the chance of exactly j right guesses, and

        P_i = sum_{j >= i} p_j,   r_i = sum_{j >= i} j/m p_j,   h_i = sum_{j >= i} (k - j)/m p_j.

    For a canary and an answer let E be the event that the canary is guessed at with this answer and at least i of the
    *other* guesses are right. A curve f bounds how much likelier E is where the answer is right than where it is wrong:
    the one chance is at most f-bar = 1 - f of the other. In the first case i + 1 guesses are right at least, in the
    second i. Averaged over canaries and answers, f-bar being concave, this is r_{i+1} <= f-bar(h_i), or
    h_i >= g(r_{i+1}) with g the inverse of f-bar, increasing. By summation in parts this becomes

        (k - i) P_i >= sum_{j > i} P_j + m g(r_{i+1}),   m r_{i+1} = (i + 1) P_{i+1} + sum_{j > i+1} P_j,

    whose right side grows in every P_j. So with P_c at least `risk` and nothing known beyond, each P_i down from c - 1
    is at least what equality gives, and at least P_{i+1}. Where that makes P_0 larger than 1, P_c was below `risk`.

    g is taken from points of the curve: at an (epsilon, delta) an event of chance r has at least the chances
    (r - delta) e^-epsilon and 1 - delta - e^epsilon (1 - r) at a neighbour.
    """
    epsilons, deltas = curve.points()
    down, up = np.exp(-epsilons), np.exp(epsilons)
    canaries, made = guessed.canaries, guessed.made
    tail = risk  # P_{i+1}
    right = guessed.correct * risk / canaries  # r_{i+1}
    for count in range(guessed.correct - 1, -1, -1):
        wrong = max(0.0, float(((right - deltas) * down).max()), float((1 - deltas - up * (1 - right)).max()))
        beyond = canaries * right - (count + 1) * tail  # sum of P_j over j > count + 1
        wider = max(tail, (tail + beyond + canaries * wrong) / (made - count))
        right += count / canaries * (wider - tail)
        tail = wider
        if tail > 1:
            return True
    return False


def error_rates(
    scores: Scores, sampling_rate: float, delta: float, risk: float, thresholds: Sequence[float] = THRESHOLDS
) -> float:
    """The bound from the two error rates at several thresholds, for one sum. With q = 1 it is one on GDP's mu.

    A test that says "in" above a threshold errs for a share of the canaries that are out and for a share of those that
    are in. A curve is rejected if it does not allow both error rates together (Wasserman and Zhou 2010). For q = 1,
    where curves are those of mu-GDP (Dong, Roth and Su 2022), the bound is mu = Phi^-1(1 - a) - Phi^-1(b) for error
    rates a and b. For both it uses the upper ends of Clopper and Pearson (1934), each at an equal part of `risk`
    (Bonferroni over thresholds and sides), as in Nasr et al. 2023, "Tight Auditing of Differentially Private Machine
    Learning".

    Unlike the other two it assumes that the canaries' scores are independent of each other, given who was in. They are
    if every canary has a coin of its own, and a coordinate with noise of its own. The audit tests this, too.

    Args:
        scores: of all canaries, in units of C.
        sampling_rate: q of the family.
        delta: at which the bound is given.
        risk: the chance that the bound is above the truth.
        thresholds: in units of C; fixed beforehand.
    """
    outside, inside = scores.values[~scores.present], scores.values[scores.present]
    part = risk / (2 * len(thresholds))
    most = [
        (
            _most(int(np.count_nonzero(outside > each)), outside.size, part),
            _most(int(np.count_nonzero(inside <= each)), inside.size, part),
        )
        for each in thresholds
    ]

    def rejected(curve: SampledGaussian) -> bool:
        epsilons, deltas = curve.points()
        down, up = np.exp(-epsilons), np.exp(epsilons)
        return any(
            missed < max(float((1 - deltas - up * accused).max()), float(((1 - deltas - accused) * down).max()))
            for accused, missed in most
        )

    return _smallest_not_rejected(rejected, sampling_rate, delta)


def _most(errors: int, tries: int, risk: float) -> float:
    """Clopper and Pearson's upper end of an error rate: wrong with a chance of at most `risk`."""
    return float(beta.isf(risk, errors + 1, tries - errors)) if errors < tries else 1.0


def _smallest_not_rejected(rejected: Callable[[SampledGaussian], bool], sampling_rate: float, delta: float) -> float:
    """Epsilon at `delta` at the edge between rejected and other curves, from the rejected side.

    A curve with more noise claims more, and a test that rejects a curve also rejects those with more noise.
    """
    if not rejected(SampledGaussian(sampling_rate, _NOISE_TO)):
        return 0.0
    low, high = math.log(_NOISE_FROM), math.log(_NOISE_TO)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(SampledGaussian(sampling_rate, math.exp(middle))) else (middle, high)
    return SampledGaussian(sampling_rate, math.exp(high)).epsilon(delta)
