"""Lower bounds on epsilon: against published figures, exact enumeration, and scores from mechanisms that are known."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from audits.privacy.bounds import Guesses, Scores, error_rates, f_dp, f_dp_rejects, guesses, one_run, one_run_chance
from audits.privacy.curves import SampledGaussian

DELTA = 1e-5
THEORY = SampledGaussian(1.0, 1.0).epsilon(DELTA)


def scores(seed: int, canaries: int, mu: float, rate: float = 1.0) -> Scores:
    """Exactly what the theory is about: one coordinate a canary, drawn with this rate, and Gaussian noise of C/mu."""
    generator = np.random.default_rng(seed)
    present = generator.random(canaries) < 0.5
    drawn = present & (generator.random(canaries) < rate)
    return Scores(present, drawn + generator.normal(size=canaries) / mu)


def test_one_run_gives_the_papers_own_figures() -> None:
    # Steinke, Nasr and Jagielski 2023: appendix D's example, and one from their experiments.
    assert one_run(Guesses(1000, 100, 75), 1.0, 1e-4, 0.05, at=(1e-4,)) == pytest.approx(0.673, abs=1e-3)
    assert one_run(Guesses(100_000, 1510, 1439), 1.0, 1e-5, 0.05, at=(1e-5,)) == pytest.approx(2.675, abs=2e-3)


def test_one_runs_chance_is_what_adding_up_by_hand_gives() -> None:
    made, correct, canaries, epsilon, delta = 7, 5, 20, 1.3, 1e-3
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    chances = [math.comb(made, count) * right**count * (1 - right) ** (made - count) for count in range(made + 1)]
    widest = max(sum(chances[correct - width : correct]) / width for width in range(1, correct + 1))
    by_hand = sum(chances[correct:]) + 2 * canaries * delta * widest
    assert one_run_chance(Guesses(canaries, made, correct), epsilon, delta) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.7, 2.0])
def test_one_runs_chance_is_exact_for_randomised_response(epsilon: float) -> None:
    canaries = 6
    right = math.exp(epsilon) / (1 + math.exp(epsilon))
    for correct in range(canaries + 1):
        enumerated = sum(
            math.prod(right if each else 1 - right for each in outcome)
            for outcome in product((0, 1), repeat=canaries)
            if sum(outcome) >= correct
        )
        assert one_run_chance(Guesses(canaries, canaries, correct), epsilon, 0.0) == pytest.approx(enumerated)


@pytest.mark.parametrize("canaries", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_f_dp_never_rejects_the_curve_of_the_mechanism_that_made_the_guesses(canaries: int, mu: float) -> None:
    # Whoever cuts every score at C/2 is right about each with chance Phi(mu/2), independently.
    for correct in range(1, canaries + 1):
        chance = float(binom.sf(correct - 1, canaries, ndtr(mu / 2)))
        assert not f_dp_rejects(Guesses(canaries, canaries, correct), SampledGaussian(1.0, 1 / mu), chance)


def test_f_dp_is_exact_for_one_canary() -> None:
    chance = float(ndtr(0.5))
    assert f_dp_rejects(Guesses(1, 1, 1), SampledGaussian(1.0, 1.0), chance + 1e-4)
    assert not f_dp_rejects(Guesses(1, 1, 1), SampledGaussian(1.0, 1.0), chance - 1e-4)


def test_f_dp_agrees_with_the_papers_recursion_on_the_gaussian_curve_itself() -> None:
    for canaries, made, correct in [(1000, 100, 80), (1000, 1000, 720), (20_000, 1000, 900)]:
        low, high = 1e-3, 10.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if recursion_rejects(middle, canaries, made, correct, 0.01) else (low, middle)
        assert f_dp(Guesses(canaries, made, correct), 1.0, DELTA, 0.01) == pytest.approx(
            SampledGaussian(1.0, 1 / low).epsilon(DELTA), abs=2e-3
        )


def recursion_rejects(mu: float, canaries: int, made: int, correct: int, risk: float) -> bool:
    """The algorithm as printed by Mahloujifar, Melis and Chaudhuri, for two answers and f-bar of mu-GDP."""
    right, wrong = risk * correct / canaries, risk * (made - correct) / canaries
    for count in range(correct - 1, -1, -1):
        # Never less than before: a chance of `count` right guesses is not negative.
        next_wrong = max(float(ndtr(ndtri(right) - mu)), wrong)
        right += count / (made - count) * (next_wrong - wrong)
        wrong = next_wrong
        if right + wrong > made / canaries:
            return True
    return False


def test_bounds_on_the_true_mechanism_are_above_the_theory_no_more_often_than_they_may() -> None:
    runs, risk = 80, 0.3
    above = {"one_run": 0, "f_dp": 0, "error_rates": 0}
    for seed in range(runs):
        seen = scores(seed, 400, 1.0)
        guessed = guesses(seen, 60)
        above["one_run"] += one_run_chance(guessed, THEORY, DELTA) < risk
        above["f_dp"] += f_dp_rejects(guessed, SampledGaussian(1.0, 1.0), risk)
        above["error_rates"] += error_rates(seen, 1.0, DELTA, risk, thresholds=(0.5,)) > THEORY
    allowed = int(binom.isf(1e-6, runs, risk))
    assert all(count <= allowed for count in above.values())
    # Not for want of trying: at this risk the sharpest of the three is wrong now and then.
    assert above["error_rates"] > 0


def test_bounds_of_a_sampled_sum_stay_below_its_theory() -> None:
    theory = SampledGaussian(0.5, 1.0).epsilon(DELTA)
    for seed in range(5):
        seen = scores(seed, 4000, 1.0, rate=0.5)
        guessed = guesses(seen, 200)
        assert 0 < error_rates(seen, 0.5, DELTA, 0.05) < theory
        assert 0 < f_dp(guessed, 0.5, DELTA, 0.05) < theory
        assert 0 < one_run(guessed, 0.5, DELTA, 0.05) < theory


def test_halved_noise_escapes_one_run_and_not_the_others() -> None:
    # m = 10,000, sigma = 1, one sum, confidence 95 %: the mean over ten draws, with 200 guesses.
    found = []
    for seed in range(10):
        seen = scores(seed, 10_000, 2.0)
        guessed = guesses(seen, 200)
        found.append(
            (
                one_run(guessed, 1.0, DELTA, 0.05, at=(DELTA,)),
                f_dp(guessed, 1.0, DELTA, 0.05),
                error_rates(seen, 1.0, DELTA, 0.05),
            )
        )
    means = np.mean(found, axis=0)
    assert pytest.approx(4.377, abs=1e-3) == THEORY
    assert means == pytest.approx([3.84, 5.43, 9.41], abs=0.12)
    assert means[0] < THEORY < means[1] < means[2]


def test_at_a_risk_far_below_m_delta_one_run_needs_smaller_deltas() -> None:
    guessed = guesses(scores(1, 10_000, 2.0), 500)
    assert one_run(guessed, 1.0, DELTA, 1e-7, at=(DELTA,)) == 0
    assert one_run(guessed, 1.0, DELTA, 1e-7) > 1


@pytest.mark.parametrize("bound", [one_run, f_dp])
def test_more_right_guesses_prove_more_and_less_risk_proves_less(bound: object) -> None:
    assert callable(bound)
    by_correct = [bound(Guesses(2000, 100, correct), 1.0, DELTA, 0.05) for correct in (50, 70, 80, 90, 100)]
    assert by_correct == sorted(by_correct)
    assert by_correct[0] == 0 < by_correct[1] < by_correct[-1]
    by_risk = [bound(Guesses(2000, 100, 90), 1.0, DELTA, risk) for risk in (1e-7, 1e-3, 0.05, 0.3)]
    assert by_risk == sorted(by_risk)
    assert by_risk[0] < by_risk[-1]


def test_error_rates_prove_more_with_more_canaries_and_nothing_without_a_difference() -> None:
    few, many = (
        error_rates(scores(3, 1000, 1.0), 1.0, DELTA, 0.01),
        error_rates(scores(3, 50_000, 1.0), 1.0, DELTA, 0.01),
    )
    assert 0 < few < many < THEORY
    apart = scores(4, 5000, 1.0)
    assert error_rates(Scores(~apart.present, apart.values), 1.0, DELTA, 0.01) == 0


def test_error_rates_of_a_sum_over_everybody_bound_the_mu_of_gdp() -> None:
    seen = scores(5, 5000, 1.5)
    outside, inside = seen.values[~seen.present], seen.values[seen.present]
    accused, missed = np.count_nonzero(outside > 0.5), np.count_nonzero(inside <= 0.5)
    # Clopper and Pearson's ends by their definition: so few errors would have a chance of 1/40.
    most = [
        brentq(lambda rate, errors=errors, tries=tries: binom.cdf(errors, tries, rate) - 0.025, 1e-9, 1 - 1e-9)
        for errors, tries in ((accused, outside.size), (missed, inside.size))
    ]
    mu = -ndtri(most[0]) - ndtri(most[1])
    by_hand = SampledGaussian(1.0, 1 / mu).epsilon(DELTA)
    assert by_hand - 2e-3 < error_rates(seen, 1.0, DELTA, 0.05, thresholds=(0.5,)) <= by_hand + 1e-4


def test_scores_without_error_prove_a_finite_epsilon() -> None:
    present = np.arange(1000) % 2 == 0
    assert 5 < error_rates(Scores(present, present * 1.0), 1.0, DELTA, 0.01) < 50


def test_guesses_take_the_ends_and_leave_the_middle() -> None:
    present = np.array([True, False, False, True, False, True])
    seen = Scores(present, np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.4]))
    assert guesses(seen, 2) == Guesses(6, 2, 2)
    assert guesses(seen, 4) == Guesses(6, 4, 2)


def test_numbers_that_cannot_be_are_refused() -> None:
    seen = scores(1, 10, 1.0)
    for made in (3, 12):
        with pytest.raises(ValueError, match="even number"):
            guesses(seen, made)
    with pytest.raises(ValueError, match="cannot be"):
        Guesses(10, 5, 6)
    with pytest.raises(ValueError, match="one a canary"):
        Scores(np.zeros(3, bool), np.zeros(4))
