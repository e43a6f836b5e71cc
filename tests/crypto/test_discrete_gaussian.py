"""Discrete Gaussian noise looks as it should, at every size; and these tests see when it does not.

Everything runs on a fixed secret. Each tolerance is one that the right distribution would miss with a probability of
about 1e-9 (the inequality is named): a failure means a wrong sampler. What no statistic can see, such as an error of
2^-100, is in `test_discrete_gaussian_exactness`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from fractions import Fraction
from random import Random

import numpy as np
import pytest

from crypto import discrete_gaussian
from crypto.randomness import NoiseSecret, NoiseStream
from tests.crypto import canonne_kamath_steinke, gaussian_masses
from tests.crypto.gaussian_masses import LOG, excess_over_fit, excess_over_sameness

DRAWS = 1 << 23
VARIANCES = {
    "1/4": Fraction(1, 16),
    "1/2": Fraction(1, 4),
    "1": Fraction(1),
    "sqrt(10)": Fraction(10),
    "100/sqrt(3)": Fraction(10_000, 3),
    "100": Fraction(10_000),
    "2^12": Fraction(2**24),
    "2^20 sigma/sqrt(3)": Fraction(105, 100) ** 2 * 2**40 / 3,
    "2^30": Fraction(2**60),
    "2^32": Fraction(2**64),
}
SHARE = VARIANCES["2^20 sigma/sqrt(3)"]
"""The share of one node at noise multiplier 1.05, on the grid of 2^20 steps, with t - c = 3: wide buckets, 38.8 to a
standard deviation, so that what goes wrong within a bucket shows."""

by_deviation = pytest.mark.parametrize("variance", VARIANCES.values(), ids=VARIANCES)


@pytest.fixture
def secret() -> NoiseSecret:
    return NoiseSecret(lambda count: bytes(range(count)))


def drawn(variance: Fraction, count: int = DRAWS) -> np.ndarray:
    secret = NoiseSecret(lambda count: bytes(range(count)))
    return secret.stream("discrete", str(variance)).discrete_gaussian(count, variance)


@by_deviation
def test_noise_has_the_discrete_gaussian_distribution(variance: Fraction) -> None:
    assert excess_over_fit(drawn(variance), variance) < 1


def _too_wide(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    return drawn(SHARE * Fraction(1005, 1000) ** 2)


def _without_rejection(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(discrete_gaussian, "_accept", lambda table, bucket, *_: np.ones(bucket.size, dtype=np.bool_))
    return drawn(SHARE)


def _with_a_skewed_table(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    def skewed(weights: list[int]) -> list[int]:
        weights[40] -= weights[40] // 10
        return shares(weights)

    shares = discrete_gaussian._shares
    monkeypatch.setattr(discrete_gaussian, "_shares", skewed)
    discrete_gaussian._table.cache_clear()
    values = drawn(SHARE)
    discrete_gaussian._table.cache_clear()
    return values


def _shifted(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    return drawn(SHARE) + math.isqrt(int(SHARE)) // 100


def _with_a_coarse_place(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    # As if the upper four bits of the place were always zero: a sixteenth of each bucket is used.
    values = drawn(SHARE)
    place = 1 << discrete_gaussian._table(SHARE).place_bits
    return np.sign(values) * (np.abs(values) // place * place + np.abs(values) % place // 16)


@pytest.mark.parametrize("wrong", [_too_wide, _without_rejection, _with_a_skewed_table, _shifted, _with_a_coarse_place])
def test_the_test_of_the_distribution_sees_a_wrong_sampler(
    wrong: Callable[[pytest.MonkeyPatch], np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half a per cent too wide; no rejection; one bucket of 1024 a tenth too light; one per cent off centre; and
    # places in a sixteenth of each bucket only.
    assert excess_over_fit(wrong(monkeypatch), SHARE) > 1


def test_the_test_of_the_distribution_sees_a_zero_that_counts_twice() -> None:
    variance = VARIANCES["100"]
    values = drawn(variance)
    values = np.concatenate([values, np.zeros(np.count_nonzero(values == 0), dtype=np.int64)])
    assert excess_over_fit(values, variance) > 1


@pytest.mark.parametrize("variance", [Fraction(1, 4), Fraction(10), Fraction(10_000, 3), SHARE], ids=str)
def test_noise_is_distributed_as_that_of_the_exact_sampler(variance: Fraction) -> None:
    random = Random(2020)
    count = 20_000
    exact = np.array([canonne_kamath_steinke.discrete_gaussian(variance, random) for _ in range(count)])
    assert excess_over_fit(exact, variance) < 1
    assert excess_over_sameness(drawn(variance, count), exact, variance) < 1
    assert excess_over_sameness(drawn(variance * Fraction(5, 4), count), exact, variance) > 1


def binomial_deviation(count: int, probability: float) -> float:
    """Bernstein 1946: a binomial count is further than this from its mean with probability at most 1e-9."""
    return LOG / 3 + math.sqrt((LOG / 3) ** 2 + 2 * LOG * count * probability * (1 - probability))


@pytest.mark.parametrize("variance", [Fraction(10_000), SHARE], ids=["100", "share"])
def test_noise_has_the_tails_it_should_have(variance: Fraction) -> None:
    # 2^26 draws: about 181,000 beyond 3 standard deviations, 4,250 beyond 4, 38 beyond 5, and none beyond 9.
    batches, batch = 32, 1 << 21
    multiples = (3, 4, 5, 9)
    limits = [math.ceil(multiple * math.sqrt(variance)) for multiple in multiples]
    stream = NoiseSecret(bytes).stream("tails", str(variance))
    beyond = np.zeros(len(multiples))
    for _ in range(batches):
        magnitudes = np.abs(stream.discrete_gaussian(batch, variance))
        magnitudes = magnitudes[magnitudes >= limits[0]]
        beyond += [np.count_nonzero(magnitudes >= limit) for limit in limits]
    expected = 2 * gaussian_masses.mass_below(variance, 1 - np.array(limits))
    for count, probability in zip(beyond.tolist(), expected.tolist(), strict=True):
        assert abs(count - batches * batch * probability) < binomial_deviation(batches * batch, probability)
    # Tails that end at 5 would show (38 expected, none found), and so would a ninth too much or too little beyond 4.
    assert beyond[2] > 0
    assert binomial_deviation(batches * batch, float(expected[1])) < batches * batch * expected[1] / 9
    assert beyond[3] == 0


@by_deviation
def test_noise_is_symmetric(variance: Fraction) -> None:
    # For each bin of magnitudes, given its count, the positive ones are binomial(1/2): chi-square of the differences.
    values = drawn(variance, 1 << 22)
    assert _excess_over_symmetry(values, variance) < 1
    assert _excess_over_symmetry(values + max(1, math.isqrt(int(variance)) // 100), variance) > 1


def _excess_over_symmetry(values: np.ndarray, variance: Fraction) -> float:
    edges, _ = gaussian_masses.bins(variance, values.size)
    edges = edges[edges > 0]
    positive = gaussian_masses.counts_in_bins(values, edges)[1:]
    negative = gaussian_masses.counts_in_bins(-values, edges)[1:]
    statistic = float(((positive - negative) ** 2 / np.maximum(positive + negative, 1)).sum())
    return statistic / gaussian_masses.chi_square_limit(edges.size)


@by_deviation
def test_noise_has_the_mean_and_the_variance_of_the_distribution(variance: Fraction) -> None:
    # The mean of subgaussian draws: P(|mean| > e) <= 2 exp(-n e^2 / (2 v)). The variance: 6.2 standard errors.
    values = drawn(variance).astype(np.float64)
    assert abs(values.mean()) < math.sqrt(2 * LOG * variance / DRAWS)
    true_variance, spread = moments(variance)
    assert abs(np.mean(values**2) - true_variance) < 6.2 * spread / math.sqrt(DRAWS)


def moments(variance: Fraction) -> tuple[float, float]:
    """Mean and standard deviation of x^2: a Gaussian's (Poisson summation) for all but small variances."""
    if variance > 100:
        return float(variance), math.sqrt(2) * float(variance)
    x = np.arange(-200, 201, dtype=np.float64)
    masses = np.exp(-(x**2) / (2 * float(variance)))
    masses /= masses.sum()
    mean = float((x**2 * masses).sum())
    return mean, math.sqrt((x**4 * masses).sum() - mean**2)


@pytest.mark.parametrize("variance", [Fraction(1), Fraction(3, 2), Fraction(10)], ids=str)
def test_the_parameter_is_the_variance_from_one_up(variance: Fraction) -> None:
    assert moments(variance)[0] == pytest.approx(float(variance), rel=1e-6)
    assert moments(Fraction(1, 4))[0] < 0.24


def _excess_over_independence(values: np.ndarray, lag: int) -> float:
    """Chi-square of pairs `lag` apart, by sixteenths of the distribution, against independence."""
    cuts = np.quantile(values, np.arange(1, 16) / 16)
    cells = np.searchsorted(cuts, values, side="right")
    pairs = np.bincount(16 * cells[:-lag] + cells[lag:], minlength=256).reshape(16, 16)
    expected = np.outer(pairs.sum(axis=1), pairs.sum(axis=0)) / pairs.sum()
    return float(((pairs - expected) ** 2 / expected).sum()) / gaussian_masses.chi_square_limit(225)


@pytest.mark.parametrize("lag", [1, 2, 3, 64, 8192])
def test_draws_are_independent_of_the_draws_before(lag: int) -> None:
    values = drawn(SHARE, 1 << 20)
    assert _excess_over_independence(values, lag) < 1
    repeating = values.copy()
    repeating[lag::100] = repeating[: repeating.size - lag : 100]  # one in a hundred is its neighbour again
    assert _excess_over_independence(repeating, lag) > 1


def test_neighbouring_draws_are_not_correlated() -> None:
    # For subgaussian draws the sum of products is a quadratic form: Laurent and Massart's bound for Gaussians.
    values = drawn(SHARE) / math.sqrt(SHARE)
    for lag in (1, 2, 8191, 8192):
        products = values[:-lag] * values[lag:]
        assert abs(products.mean()) < math.sqrt(2 * LOG / DRAWS) + 2 * LOG / DRAWS


def test_the_same_name_gives_the_same_noise_and_another_name_or_secret_other_noise(secret: NoiseSecret) -> None:
    def first(secret: NoiseSecret, *name: str | int) -> bytes:
        return secret.stream(*name).discrete_gaussian(1000, SHARE).tobytes()

    assert first(secret, "noise", 1) == first(secret, "noise", 1)
    others = {first(secret, "noise", 2), first(secret, "noise"), first(NoiseSecret(bytes), "noise", 1)}
    assert len(others | {first(secret, "noise", 1)}) == 4


def test_a_stream_gives_other_noise_each_time_it_is_asked(secret: NoiseSecret) -> None:
    stream = secret.stream("noise")
    one, other = stream.discrete_gaussian(1000, SHARE), stream.discrete_gaussian(1000, SHARE)
    assert np.count_nonzero(one == other) < 5


def test_no_word_is_used_twice(secret: NoiseSecret) -> None:
    # Every word a draw sees comes from `uniform_words`; 2^17 of them coincide with a chance of 2^-31.
    seen: list[np.ndarray] = []
    stream = secret.stream("noise")

    def words(count: int) -> np.ndarray:
        seen.append(stream.uniform_words(count))
        return seen[-1]

    count = 50_000
    for _ in range(2):
        discrete_gaussian.draw(words, count, SHARE)
    used = np.concatenate(seen)
    assert used.size >= 4 * count
    assert np.unique(used).size == used.size


VECTOR = "64db74b2035375b4cfb46face20d4c22eb85ac324f2f999bde243de5b4d5a6de"
VECTOR_STARTS = [43408, -1322750, 42150, -151577]


def test_noise_for_a_seed_stays_what_it_is(secret: NoiseSecret) -> None:
    # A frozen vector: the words' order is part of what makes a run reproducible.
    values = secret.stream("vector").discrete_gaussian(20_000, SHARE)
    assert hashlib.sha256(values.astype("<i8").tobytes()).hexdigest() == VECTOR
    assert values[:4].tolist() == VECTOR_STARTS


@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 8191, 8192, 8193, 20_000])
def test_any_number_of_draws_can_be_asked_for(secret: NoiseSecret, count: int) -> None:
    for variance in (Fraction(1, 16), SHARE):
        noise = secret.stream("few").discrete_gaussian(count, variance)
        assert noise.shape == (count,)
        assert noise.dtype == np.int64


def test_a_whole_number_is_a_variance_too(secret: NoiseSecret) -> None:
    one, other = (secret.stream("whole").discrete_gaussian(100, variance) for variance in (9, Fraction(9)))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("variance", [9.0, np.float64(9), np.int64(9), "9", None])
def test_a_variance_that_is_not_exact_is_refused(secret: NoiseSecret, variance: object) -> None:
    with pytest.raises(TypeError, match="an int or a Fraction"):
        secret.stream("noise").discrete_gaussian(10, variance)  # type: ignore[arg-type]


@pytest.mark.parametrize("variance", [0, -1, Fraction(1, 17), 2**64 + 1, Fraction(2**65 + 1, 2)])
def test_a_variance_out_of_range_is_refused(secret: NoiseSecret, variance: int | Fraction) -> None:
    with pytest.raises(ValueError, match="between 1/16 and 2\\^64"):
        secret.stream("noise").discrete_gaussian(10, variance)


def test_a_negative_count_is_refused(secret: NoiseSecret) -> None:
    with pytest.raises(ValueError, match="not negative"):
        secret.stream("noise").discrete_gaussian(-1, 9)


def test_noise_comes_from_the_streams_own_words(monkeypatch: pytest.MonkeyPatch, secret: NoiseSecret) -> None:
    asked = []
    words = NoiseStream.uniform_words
    monkeypatch.setattr(NoiseStream, "uniform_words", lambda self, count: asked.append(count) or words(self, count))
    secret.stream("noise").discrete_gaussian(1000, SHARE)
    assert sum(asked) >= 2000
