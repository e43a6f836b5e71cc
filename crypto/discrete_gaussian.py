"""The discrete Gaussian: fast draws, each within 2^-128 of the exact distribution.

The discrete Gaussian of variance v gives the integer x with probability proportional to exp(-x^2 / (2 v)) (Canonne,
Kamath and Steinke 2020). Only integers decide a draw. Floating-point samplers reveal their noise through the floats
that they cannot produce (Mironov 2012); this one has no such gaps, and its distance from the exact distribution is
proved.

**How a draw is made.** Magnitudes fall into 1024 buckets [j 2^k, (j + 1) 2^k). Bucket j is chosen with probability
proportional to exp(-(j 2^k)^2 / (2 v)), the weight of its left edge, from an alias table (Walker 1977, Vose 1991); the
place in the bucket is uniform. Magnitude x is then accepted with probability exp(-z), z = (x^2 - (j 2^k)^2) / (2 v) >=
0, and gets a uniform sign; minus zero is rejected, so that zero does not count twice. So the accepted integers have
probabilities in proportion to exp(-x^2 / (2 v)) among |x| < 2^(k + 10). For large v about one proposal in a hundred is
rejected; for small v up to one in two, all of them minus zeros.

**What decides.** Comparisons of uniform bits with a probability are lazy: the first bits decide unless they tie; then
more bits are drawn. Choosing a bucket compares 53 bits, then 128 more: its probability is a multiple of 2^-191.
Accepting compares 32 bits with bounds on 1 - exp(-z) that integer arithmetic proves. Where these do not decide (some
fifty times in a million), it uses as many more bits, and as much more precision, as needed: that decision is exact.

**Error.** `SAMPLER_ERROR` bounds the total variation distance eta between a draw, assuming that its words are uniform,
and the discrete Gaussian, for every allowed variance. It has two parts.

1. *The support is cut* at R = 2^(k + 10), where k is the smallest with R^2 >= 180 v. For every t, E exp(t X) is
   exp(t^2 v / 2) times the ratio of the sums over all integers of exp(-(x - t v)^2 / (2 v)) and exp(-x^2 / (2 v)). The
   ratio is at most 1: by Poisson summation both are cosine series with the same positive coefficients. So
   (Chernoff, t = R / v) P(|X| >= R) <= 2 exp(-R^2 / (2 v)) <= 2 exp(-90) < 2^-128.8, and conditioning on |X| < R moves
   a distribution by just that.
2. *The bucket probabilities are rounded.* Weights are integers, each at most 2 away from 2^224 times the exact weight,
   and add up to at least 2^224: normalised, they are within 2^-212 of the exact ones. Scaled to a sum of 2^191 they are
   rounded down, and the rest, below 1024, goes to bucket 0: another 2^-181. So the proposals are within d = 2^-180 of
   the exact ones. Each is accepted with a probability a(x) that is exact. Two proposal distributions f, g at distance d
   have products f a, g a that differ by at most 2 d in L1 norm and d in sum, so the accepted distributions are at most
   3 d / (2 A) apart, where A is the probability of acceptance. And A >= 1/2: let S be the sum of exp(-x^2 / (2 v)) over
   0 <= x < R. A is 2 S - 1 over twice the weight of all places in all buckets. With k = 0 that weight is S, and S >= 1.
   With k > 0 it is at most S + 2^k, because a bucket's left edge has at most the weight of any place in the bucket
   before it; k is the smallest, so sqrt(v) > 38 x 2^k, and S > sqrt(v) exp(-1/2) > 22 x 2^k. This part is below 2^-178.

Together eta < 2^-128.8 + 2^-178 < 2^-128. For T rounds of D draws at each of n nodes, this costs (1 + exp(epsilon)) T n
D eta of delta. That the words are uniform is the same assumption on AES-256-CTR on which every mask relies.

**Time.** A call's duration depends on the number of rejected proposals, which reveals nothing about the returned draws.
It also depends on the number of lazy comparisons that need more bits, and table look-ups leave traces in the
processor's caches. An attacker who can measure these on the machine itself learns a little about the noise: that is not
protected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

SAMPLER_ERROR: Final = 2.0**-128
"""eta: the largest total variation distance of a draw from the discrete Gaussian. Proved above."""

SMALLEST_VARIANCE: Final = Fraction(1, 16)
LARGEST_VARIANCE: Final = 2**64

Words: TypeAlias = Callable[[int], NDArray[np.uint64]]
"""Returns this many uniform 64-bit words, never returned before."""

_CHUNK = 8192  # draws at a time: few enough that their arrays stay in a core's second-level cache
_INDEX_BITS = 10
_BUCKETS = 1 << _INDEX_BITS
_SQUARED_REACH = 180  # the support ends at sqrt(180) standard deviations or later
_WEIGHT_BITS = 224
# One word chooses a bucket: column of the alias table, threshold, sign.
_FIRST_BITS = 53
_LATER_BITS = 128
# The other word places and accepts: upper bits give the place in the bucket, lower bits the uniform number.
_ACCEPT_BITS = 32


@dataclass(frozen=True, slots=True)
class _Table:
    """The tables for drawing with one variance. Arrays have one entry for each bucket, and are read-only.

    A column of the alias table gives its own bucket if a uniform number of 181 bits is below its threshold (`first` is
    its upper 53 bits, `later` the rest), and otherwise `alias`. `certain` is the smallest 32-bit number that accepts
    every place in the bucket. `cut` and `slope` give z: see `_bounds_of_rejection`.
    """

    variance: Fraction
    place_bits: int
    first: NDArray[np.uint64]
    later: tuple[int, ...]
    alias: NDArray[np.int64]
    certain: NDArray[np.uint64]
    cut: int
    slope: int


def draw(words: Words, count: int, variance: int | Fraction) -> NDArray[np.int64]:
    """`count` independent draws from the discrete Gaussian with parameter `variance`, as int64.

    The parameter is a rational variance, not a standard deviation, because a node's share of the noise has variance
    sigma^2 C^2 / (t - c) in squared grid steps: it is rational, but its root is usually not. (From 1 up, the true
    variance differs from this parameter by less than one in 10^6; below, it is smaller.) Floats are refused:
    `Fraction(0.9)` states the number exactly.

    Args:
        words: the entropy; two words for a proposal, and more where a comparison needs them.
        count: the number of draws, from 0.
        variance: 1/16 to 2^64.

    Raises:
        TypeError: the variance is not an int or a Fraction.
        ValueError: the variance is out of range, or the count is negative.
    """
    if not isinstance(variance, int | Fraction):
        raise TypeError(f"a variance is an int or a Fraction, so that it is exact, not a {type(variance).__name__}")
    if not SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE:
        raise ValueError(f"a variance is between {SMALLEST_VARIANCE} and 2^64, not {float(variance):g}")
    if count < 0:
        raise ValueError(f"a count is not negative: {count}")
    table = _table(Fraction(variance))
    values = np.empty(count, dtype=np.int64)
    filled = 0
    while filled < count:
        wanted = count - filled
        # Propose a little more than needed, so that rejections seldom need another call. The surplus is dropped unused.
        accepted = _proposals(table, words, min(_CHUNK, wanted + wanted // 16 + 64))[:wanted]
        values[filled : filled + accepted.size] = accepted
        filled += accepted.size
    return values


def _proposals(table: _Table, words: Words, count: int) -> NDArray[np.int64]:
    """Make `count` proposals, and return the accepted ones."""
    entropy = words(2 * count)
    choice, place = entropy[:count], entropy[count:]
    bucket = _choose_buckets(table, choice, words)
    offset = (place >> np.uint64(_ACCEPT_BITS)) & np.uint64((1 << table.place_bits) - 1)
    uniform = place & np.uint64((1 << _ACCEPT_BITS) - 1)
    accepted = uniform >= table.certain.take(bucket)
    # Nothing to compute where every place of the bucket is accepted: all but one or two proposals in a hundred.
    undecided = np.flatnonzero(~accepted)
    if undecided.size:
        accepted[undecided] = _accept(table, bucket[undecided], offset[undecided], uniform[undecided], words)
    magnitude = (bucket << table.place_bits) | offset.view(np.int64)
    negative = (choice & np.uint64(1)).view(np.int64)
    accepted &= magnitude >= negative  # not minus zero
    value = (magnitude ^ -negative) + negative
    return value[accepted]


def _choose_buckets(table: _Table, choice: NDArray[np.uint64], words: Words) -> NDArray[np.int64]:
    """The bucket that each word chooses."""
    column = (choice >> np.uint64(64 - _INDEX_BITS)).view(np.int64)
    uniform = (choice >> np.uint64(64 - _INDEX_BITS - _FIRST_BITS)) & np.uint64((1 << _FIRST_BITS) - 1)
    threshold = table.first.take(column)
    keeps = uniform < threshold
    for tie in np.flatnonzero(uniform == threshold).tolist():
        keeps[tie] = _number(words, _LATER_BITS) < table.later[column[tie]]
    return np.where(keeps, column, table.alias.take(column))


def _accept(
    table: _Table,
    bucket: NDArray[np.int64],
    offset: NDArray[np.uint64],
    uniform: NDArray[np.uint64],
    words: Words,
) -> NDArray[np.bool_]:
    """Accept each place with probability exp(-z): reject it if its uniform number is below 1 - exp(-z)."""
    # x^2 - (j 2^k)^2 for x = j 2^k + offset: below 2^(2k + 11) <= 2^63.
    excess = ((bucket.view(np.uint64) << np.uint64(table.place_bits + 1)) + offset) * offset
    low, high = _bounds_of_rejection(table, excess)
    # The uniform number lies in [uniform, uniform + 1) / 2^32.
    accepted = uniform >= high
    rejected = uniform.view(np.int64) < low
    for index in np.flatnonzero(~(accepted | rejected)).tolist():
        z = int(excess[index]) / (2 * table.variance)
        accepted[index] = _accept_exactly(z, int(uniform[index]), words)
    return accepted


def _bounds_of_rejection(table: _Table, excess: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Integers `low` and `high` with low / 2^32 <= 1 - exp(-z) <= high / 2^32, for z = excess / (2 v) and k > 0.

    From z - z^2 / 2 <= 1 - exp(-z) <= z. With m = excess >> cut and the slope g = floor(2^(63 + cut) / (2 v)), m g /
    2^31 <= 2^32 z < (m + 1) (g + 1) / 2^31. Nothing overflows: k > 0 is the smallest allowed, so 1 / (2 v) < 360 /
    2^(2k + 20); m + 1 <= 2^(2k + 11 - cut) <= 2^32; so (m + 1) (g + 1) <= 360 x 2^54 + 2^32 < 2^63. Hence high < 2^32,
    and its square fits. (With k = 0 every proposal is accepted, and this function is not called.)
    """
    reduced = excess >> np.uint64(table.cut)
    shift = np.uint64(_ACCEPT_BITS - 1)
    one = np.uint64(1)
    low = reduced * np.uint64(table.slope) >> shift
    high = ((reduced + one) * np.uint64(table.slope + 1) >> shift) + one
    half_square = (high * high >> np.uint64(_ACCEPT_BITS + 1)) + one
    return low.view(np.int64) - half_square.view(np.int64), high


def _accept_exactly(z: Fraction, uniform: int, words: Words) -> bool:
    """Whether a uniform number with these first 32 bits is at least 1 - exp(-z)."""
    bits = _ACCEPT_BITS
    while True:
        low, high = _exp_bounds(z, bits)
        if uniform >= (1 << bits) - low:
            return True
        if uniform < (1 << bits) - high:
            return False
        uniform = uniform << 64 | _number(words, 64)
        bits += 64


def _number(words: Words, bits: int) -> int:
    """A uniform number of this many bits, a multiple of 64."""
    return int.from_bytes(words(bits // 64).astype(">u8").tobytes(), "big")


@lru_cache(maxsize=16)
def _table(variance: Fraction) -> _Table:
    """The table of one variance: about 1000 exponentials. It contains no secret."""
    place_bits = 0
    while variance * _SQUARED_REACH > 1 << 2 * (place_bits + _INDEX_BITS):
        place_bits += 1
    rate = 1 / (2 * variance)
    edges = [bucket << place_bits for bucket in range(_BUCKETS)]
    thresholds, alias = _alias_table(_shares([_exp_bounds(edge * edge * rate, _WEIGHT_BITS)[0] for edge in edges]))
    last = (1 << place_bits) - 1
    certain = [ceil((2 * edge + last) * last * rate * (1 << _ACCEPT_BITS)) for edge in edges]
    cut = max(0, 2 * place_bits + _INDEX_BITS + 1 - _ACCEPT_BITS)
    return _Table(
        variance=variance,
        place_bits=place_bits,
        first=_read_only([threshold >> _LATER_BITS for threshold in thresholds]),
        later=tuple(threshold & ((1 << _LATER_BITS) - 1) for threshold in thresholds),
        alias=_read_only(alias).view(np.int64),
        certain=_read_only(certain),
        cut=cut,
        slope=floor(rate * (1 << 2 * _ACCEPT_BITS - 1 + cut)),
    )


def _shares(weights: list[int]) -> list[int]:
    """Integers in proportion to the weights, with the exact sum of the alias table's 1024 columns of 2^181."""
    total = sum(weights)
    whole = _BUCKETS << _FIRST_BITS + _LATER_BITS
    shares = [weight * whole // total for weight in weights]
    shares[0] += whole - sum(shares)
    return shares


def _alias_table(shares: list[int]) -> tuple[list[int], list[int]]:
    """Vose 1991, in integers: thresholds and aliases of columns of 2^181 each, together exactly the shares."""
    column = 1 << _FIRST_BITS + _LATER_BITS
    thresholds = list(shares)
    alias = list(range(len(shares)))
    small = [bucket for bucket, share in enumerate(shares) if share < column]
    large = [bucket for bucket, share in enumerate(shares) if share >= column]
    while small:
        filled, giver = small.pop(), large[-1]
        alias[filled] = giver
        thresholds[giver] -= column - thresholds[filled]
        if thresholds[giver] < column:
            small.append(large.pop())
    return thresholds, alias


def _exp_bounds(z: Fraction, bits: int) -> tuple[int, int]:
    """Integers low <= 2^bits exp(-z) <= high, for z >= 0. For bits < 256, high - low <= 2.

    exp(z) is the 2^h-th power of exp(y), y = z / 2^h < 2^-8, whose series has positive terms only: rounded down it is a
    lower bound, rounded up, with one unit for what follows the last term, an upper bound. Width: below 2^8 units of
    2^-(bits + 64) in the series; each of at most 16 squarings doubles the relative width, and adds 2 units or less.
    2^26 units are far below 2^-bits, so only the last rounding counts.
    """
    if z >= bits:
        return 0, 1
    if z == 0:
        return 1 << bits, 1 << bits
    halvings = floor(z).bit_length() + 8
    working = bits + 64
    scaled = (z.numerator << working) // (z.denominator << halvings)
    low = high = term_low = term_high = 1 << working
    index = 0
    while term_high > 1:
        index += 1
        term_low = (term_low * scaled >> working) // index
        term_high = -(-term_high * (scaled + 1) >> working)
        term_high = -(-term_high // index)
        low += term_low
        high += term_high
    high += 1
    for _ in range(halvings):
        low = low * low >> working
        high = -(-high * high >> working)
    one = 1 << working + bits
    return one // high, -(-one // low)


def _read_only(numbers: list[int]) -> NDArray[np.uint64]:
    array = np.array(numbers, dtype=np.uint64)
    array.flags.writeable = False
    return array
