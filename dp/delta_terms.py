"""How the machine differs from the analysis, as terms of delta.

The accountant analyses T sums with continuous Gaussian noise over independent draws. The running mechanism is close to
that, and each difference has a price that is added to delta. Local mode has only `overflow`: we assume that its
real-number Gaussian is exact.

`sampler`. A sampler draws from a distribution at most eta in total variation from the discrete Gaussian. T rounds of n
nodes with d coordinates each lie within gamma = T n d eta of the exact mechanism M, whatever the data. If M is
(epsilon, delta)-private, then P[M~(D) in S] <= P[M(D) in S] + gamma <= e^epsilon (P[M~(D') in S] + gamma) + delta +
gamma: the term is (1 + e^epsilon) T n d eta.

`overflow`. A step computes a fixed number of padded batches, and with a small chance more patients are drawn than fit.
Let E be the event that the *other* patients fill the batches alone. E does not depend on the one patient, so that it
has the same chance p with and without that patient. Outside E all who are drawn fit, with and without: the step is the
analysed one, for every draw of the others. So a step is dominated by a mixture of the analysed pair with weight 1 - p
and of a pair that hides nothing with weight p, and T steps by T of those: the term is T p, with no factor e^epsilon. It
needs p >= P[Binomial(N - 1, q) >= capacity], one patient less than full; this software plans for 2^-40.

`convolution`. The sum of n independent discrete Gaussians with the parameter s each is not quite a discrete Gaussian.
Every probability of one is within a factor e^(+-tau/2) of the other's, tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2
k/(k+1)), for s >= 1/2 grid steps (Kairouz, Liu and Steinke 2021, "The Distributed Discrete Gaussian Mechanism for
Federated Learning with Secure Aggregation"; their tau). For x = d T tau and both data sets, P~ <= e^(x/2) P and
Q <= e^(x/2) Q~, so that P~(S) <= e^(epsilon + x) Q~(S) + e^(x/2) delta. As P~(S) <= 1, this gives P~(S) - e^epsilon
Q~(S) <= 1 - e^-x + e^(-x/2) delta <= x + delta: the term is d T tau, again with no factor e^epsilon.

`discretisation`. A discrete Gaussian stands for a continuous one (Canonne, Kamath and Steinke 2020, "The Discrete
Gaussian for Differential Privacy": its concentrated privacy is the same, its delta(epsilon) almost). For a shift of
length D in grid steps, delta(epsilon) of one step is the sum over the lattice, instead of the integral, of
max(0, p - e^epsilon p'). That function is smooth but for a kink, where its slope along the shift jumps by at most
(D/s^2) max p. By Poisson's summation formula the kink costs at most 1/12 of the jump (terms 1/(2 pi m)^2 over all
m but 0; more dimensions add nothing), and all else is of the order exp(-2 pi^2 s^2). With D = grid and s = sigma grid
that is D/(12 sqrt(2 pi) s^3) <= 0.034 / (sigma (sigma grid)^2) a step. Delta(epsilon) of T steps is an average of one
step's over what the others lose, so that T steps cost at most T times as much. For sigma >= 0.34 this is below
T 0.1 / (sigma grid)^2, which is charged; with less noise the sharper constant is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from dp.errors import BatchesTooSmall, GridTooCoarse, OutOfRange, SamplerTooCoarse
from dp.events import NoisedSums, NoiseShares
from dp.step_plan import OVERFLOW_BITS

SHARE_OF_DELTA = 0.01
"""The sampler, the padded batches and the sum of discrete Gaussians may each use up to this share of delta."""
GRID = 2**20
"""Steps of the grid in one clipping norm, unless a study sets another number."""
OVERFLOW_PROBABILITY = 2.0**-OVERFLOW_BITS
"""The planned bound on the chance that a step's padded batches overflow."""
_DISCRETISATION = 0.1
_DISCRETISATION_OF_LITTLE_NOISE = 0.034
_SMALLEST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class DeltaTerms:
    """What each difference adds to delta, over all steps."""

    sampler: float
    """(1 + e^epsilon) T n d eta."""
    overflow: float
    """T p."""
    convolution: float
    """d T tau."""
    discretisation: float
    """T 0.1 / (sigma grid)^2."""

    @property
    def total(self) -> float:
        """Their sum: the part of delta that is not left for the analysed mechanism."""
        return math.fsum((self.sampler, self.overflow, self.convolution, self.discretisation))


@dataclass(frozen=True, slots=True)
class LocalNoise:
    """How the noise of a site's own sums is made: with real numbers, and over padded batches.

    Raises:
        OutOfRange: the chance is not in [0, 1).
    """

    overflow_probability: float = OVERFLOW_PROBABILITY
    """p: the chance, in each step, that the other patients fill the site's padded batches."""

    def __post_init__(self) -> None:
        _check_chance(self.overflow_probability)

    def delta_terms(self, seen: NoisedSums, nominal: float, epsilon: float, reach: int = 1) -> DeltaTerms:
        """The terms of a training; as `DistributedNoise.delta_terms`, but only the number of steps matters here."""
        return DeltaTerms(
            sampler=0.0,
            overflow=seen.steps * seen.draws * self.overflow_probability,
            convolution=0.0,
            discretisation=0.0,
        )

    def refuse(self, terms: DeltaTerms, delta: float) -> None:
        """Raise an error if the term takes more of delta than allowed.

        Raises:
            BatchesTooSmall: the text says what to change.
        """
        _refuse_overflow(terms, delta, self.overflow_probability)


@dataclass(frozen=True, slots=True)
class DistributedNoise:
    """How the noise of a distributed sum is made.

    Raises:
        OutOfRange: a field is outside its range.
    """

    shares: NoiseShares
    nodes: int
    """n: the most nodes that can take part in a round."""
    dimension: int
    """d: coordinates of a vector."""
    grid: int = GRID
    """Steps of the grid in one clipping norm C."""
    sampler_error: float = 0.0
    """eta: the total-variation distance of one drawn number from the exact discrete Gaussian."""
    overflow_probability: float = OVERFLOW_PROBABILITY
    """p: the chance, in each step, that the other patients fill a node's padded batches."""

    def __post_init__(self) -> None:
        if self.nodes < self.shares.quorum:
            raise OutOfRange(f"a quorum of {self.shares.quorum} needs as many nodes, not {self.nodes}")
        if self.dimension < 1 or self.grid < 1:
            raise OutOfRange(f"dimension and grid are at least 1, not {self.dimension} and {self.grid}")
        for chance in (self.sampler_error, self.overflow_probability):
            _check_chance(chance)

    def delta_terms(self, seen: NoisedSums, nominal: float, epsilon: float, reach: int = 1) -> DeltaTerms:
        """The terms of a training, for a claim about this epsilon.

        Args:
            seen: the training, with the noise multiplier that remains for the parties who know the most.
            nominal: the noise multiplier for which the shares are sized; equal to that of `seen`, unless nodes fail.
            epsilon: of the claim, at least 0; the sampler's term grows with it.
            reach: how far apart two neighbouring sums can lie, in units of C: 2 where a unit is replaced, k for a
                patient at k sites.
        """
        sigma, steps = seen.noise_multiplier, seen.steps
        constant = max(_DISCRETISATION, _DISCRETISATION_OF_LITTLE_NOISE * reach / sigma)
        # Floats end near e^700, and delta is used up long before.
        odds = 1 + math.exp(min(epsilon, 700.0))
        tau = convolution_distance(self.shares.share(nominal) * self.grid, self.nodes)
        return DeltaTerms(
            sampler=steps * self.nodes * self.dimension * self.sampler_error * odds,
            overflow=steps * seen.draws * self.overflow_probability,
            convolution=self.dimension * steps * tau,
            discretisation=steps * constant / (sigma * self.grid) ** 2,
        )

    def refuse(self, terms: DeltaTerms, delta: float) -> None:
        """Raise an error if a term takes more of delta than allowed.

        Raises:
            SamplerTooCoarse, BatchesTooSmall, GridTooCoarse: the text says what to change.
        """
        most = SHARE_OF_DELTA * delta
        if terms.sampler > most:
            raise SamplerTooCoarse(
                f"the noise sampler's error of {self.sampler_error:.2g} a number adds {terms.sampler:.2g} to delta, "
                f"more than 1 % of {delta:g}: use a sampler with an error of at most "
                f"{self.sampler_error * most / terms.sampler:.2g}, or fewer steps"
            )
        _refuse_overflow(terms, delta, self.overflow_probability)
        if terms.convolution > most or terms.total >= delta:
            raise GridTooCoarse(
                f"a grid of {self.grid} steps in one clipping norm is too coarse for this noise: it adds "
                f"{terms.convolution + terms.discretisation:.2g} to a delta of {delta:g}. Use a finer grid"
            )


Noise: TypeAlias = DistributedNoise | LocalNoise
"""How a mode makes its noise."""


def convolution_distance(share: float, nodes: int) -> float:
    """tau: how far the sum of `nodes` discrete Gaussians with the parameter `share` is from a discrete Gaussian.

    Infinite below half a grid step, where the theorem does not hold.
    """
    if share < _SMALLEST_SHARE:
        return math.inf
    return 10 * math.fsum(math.exp(-2 * (math.pi * share) ** 2 * k / (k + 1)) for k in range(1, nodes))


def _check_chance(chance: float) -> None:
    if not 0 <= chance < 1:
        raise OutOfRange(f"a sampler's error and an overflow's chance are in [0, 1), not {chance}")


def _refuse_overflow(terms: DeltaTerms, delta: float, chance: float) -> None:
    if terms.overflow > SHARE_OF_DELTA * delta:
        raise BatchesTooSmall(
            f"padded batches that overflow with a chance of {chance:.2g} a step add {terms.overflow:.2g} to delta, "
            f"more than 1 % of {delta:g}: take fewer steps, or a larger delta"
        )
