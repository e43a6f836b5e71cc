"""The public figures of a step: what every site computes. They follow from the signed study alone.

`StepPlan` is for a distributed step over patients or records, `NodePlan` for nodes that are each a unit of privacy,
`LocalPlan` for a round of a site's own private steps.

This module does not import torch, so that a verifier can derive the width of the ring. The number K of physical batches
decides how long a step takes and, in distributed mode, how large its sum can get. It comes from a bound on the binomial
tail: a draw beyond K batches, whose last patients contribute zero, has a probability below 2^-40. `dp.delta_terms`
charges for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction
from typing import Literal

OVERFLOW_BITS = 40
"""A step draws more patients than K batches hold with a probability of at most 2^-40."""
_DIGITS = Context(prec=50)
_TAIL_BITS = 40
"""Any element of any sum of a study exceeds the noise's tail bound with a probability of at most 2^-40."""


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What every site does in one step. All of it follows from the signed study."""

    sampling_rate: float
    """q, in (0, 1]."""
    clip: float
    """C: the largest L2 norm of one patient's gradient."""
    grid: int
    """The largest norm of one patient's vector, in steps of the grid; without an indicator, steps per C."""
    most_records: int
    """G: the most records of one patient in a step."""
    physical_batch: int
    """Records in a batch, always exactly this many. Where records go through the model singly, each is one forward
    pass."""
    batches: int
    """K: physical batches per step, always exactly this many; see `batches_needed`."""
    noise_variance: Fraction
    """Variance of this node's share of the noise, in steps of the grid: sigma^2 grid^2 / (t - c)."""
    indicator: int = 0
    """The size, in steps of the grid, of the element that says whether a gradient was shortened; 0 for no such
    element."""

    def __post_init__(self) -> None:
        for name in ("grid", "most_records", "physical_batch", "batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if not 0 < self.sampling_rate <= 1:
            raise ValueError(f"a sampling rate is above 0 and at most 1, not {self.sampling_rate}")
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"a clipping norm is positive and finite, not {self.clip}")
        if self.noise_variance <= 0:
            raise ValueError("a share of noise has a positive variance")
        if not 0 <= self.indicator < self.grid:
            raise ValueError(
                f"an indicator must be below {self.grid} steps, to leave some for the gradient: not {self.indicator}"
            )

    @property
    def most_patients(self) -> int:
        """Patients that K batches hold even if each has G records."""
        return self.physical_batch * self.batches // self.most_records


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What every node does in one round if the unit of privacy is a node with all its data. All of it follows from the
    signed study."""

    steps: int
    """Local steps. They have no noise: the vector that leaves the node is bounded as a whole, whatever the steps
    were."""
    optimizer: Literal["adam", "sgd"]
    """The local optimiser; it starts afresh in every round."""
    learning_rate: float
    """Its step length."""
    physical_batch: int
    """Records of a local step, always exactly this many."""
    clip: float
    """C: the largest L2 norm of one node's update."""
    grid: int
    """The largest norm of one node's vector, in steps of the grid; without an indicator, steps per C."""
    noise_variance: Fraction
    """Variance of this node's share of the noise, in steps of the grid: sigma^2 grid^2 / (t - c)."""
    indicator: int = 0
    """The size, in steps of the grid, of the element that says whether the update was shortened; 0 for no such
    element."""
    proximal_mu: float = 0.0
    """mu: weight of FedProx's proximal term; there is none at 0."""

    def __post_init__(self) -> None:
        for name in ("steps", "physical_batch", "grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("clip", "learning_rate", "noise_variance"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is positive and finite, not {value}")
        if not 0 <= self.indicator < self.grid:
            raise ValueError(f"an indicator leaves something of {self.grid} steps to the update: not {self.indicator}")
        if not (self.proximal_mu >= 0 and math.isfinite(self.proximal_mu)):
            raise ValueError(f"proximal_mu is at least 0 and finite, not {self.proximal_mu}")


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What a site does in one round in local mode. All of it follows from the signed study."""

    steps: int
    """Noised gradient steps in the round."""
    sampling_rate: float
    """q: the chance of every patient to be drawn in a step, in (0, 1]."""
    nominal_patients: int
    """N: the rounded number of the site's patients; q * N divides every step."""
    clip: float
    """C: the largest L2 norm of one patient's gradient."""
    noise_multiplier: float
    """sigma: the noise's standard deviation in units of C."""
    learning_rate: float
    """The local optimiser's step length."""
    optimizer: Literal["adam", "sgd"]
    """The local optimiser; it starts afresh in every round."""
    physical_batch: int
    """Records per forward pass, always exactly this many."""
    batches: int
    """K: physical batches per step, always exactly this many; see `batches_needed`."""
    proximal_mu: float = 0.0
    """mu: weight of FedProx's proximal term; there is none at 0."""

    def __post_init__(self) -> None:
        for name in ("steps", "nominal_patients", "physical_batch", "batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("clip", "noise_multiplier", "learning_rate", "sampling_rate"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} is positive and finite, not {value}")
        if self.sampling_rate > 1:
            raise ValueError(f"sampling_rate is at most 1, not {self.sampling_rate}")
        if not (self.proximal_mu >= 0 and math.isfinite(self.proximal_mu)):
            raise ValueError(f"proximal_mu is at least 0 and finite, not {self.proximal_mu}")


def gradient_grid(grid: int, indicator: int) -> int:
    """Steps of the grid that an indicator leaves for a gradient of norm C: sqrt(grid^2 - indicator^2)."""
    return math.isqrt(grid * grid - indicator * indicator)


def noise_share(noise_multiplier: Fraction, grid: int, quorum: int, colluders: int) -> Fraction:
    """The variance of one node's noise in steps of the grid: sigma^2 grid^2 / (t - c).

    Raises:
        ValueError: t is not above c: nobody would be left to add the noise.
    """
    if quorum <= colluders:
        raise ValueError(f"a quorum of {quorum} with {colluders} colluders leaves nobody to add noise")
    return noise_multiplier**2 * grid**2 / (quorum - colluders)


def most_drawn(patients: int, sampling_rate: float) -> int:
    """The most patients that a step draws, except with a probability of 2^-40.

    One more than the smallest k with N KL(k / N, q) >= 40 ln 2, by the Chernoff bound (Hoeffding 1963, theorem 1),
    P[Binomial(N, q) >= k] <= exp(-N KL(k / N, q)). The extra one leaves room for the patient by whom two neighbouring
    data sets differ (`dp.delta_terms`).

    Args:
        patients: N, the most patients that a site may have under the study.
        sampling_rate: q.
    """
    low, high = math.ceil(Fraction(sampling_rate) * patients), patients
    needed = _DIGITS.multiply(OVERFLOW_BITS, _DIGITS.ln(Decimal(2)))
    while low < high:
        middle = (low + high) // 2
        if _exponent(middle, patients, sampling_rate) >= needed:
            high = middle
        else:
            low = middle + 1
    return min(low + 1, patients)


def batches_needed(patients: int, sampling_rate: float, most_records: int, physical_batch: int) -> int:
    """K: enough batches for all draws of a step, except with probability 2^-40.

    Args:
        patients: the most patients that a site may have under the study.
        sampling_rate: q.
        most_records: G.
        physical_batch: records per batch.
    """
    return max(1, -(-most_drawn(patients, sampling_rate) * most_records // physical_batch))


def noise_tail(variance: Fraction, count: int) -> int:
    """The bound that no element of `count` draws of the discrete Gaussian exceeds, except with a probability of 2^-40
    in all.

    P[|X| >= z] <= 2 exp(-z^2 / (2 s^2)) (Canonne, Kamath and Steinke 2020, corollary 25, with parameter s^2 =
    `variance`), so z^2 = 2 ln 2 s^2 (41 + log2 count) is enough; in whole numbers, with 2 ln 2 < 7/5.
    """
    bits = 1 + _TAIL_BITS + count.bit_length()
    return math.isqrt(math.ceil(variance * bits * 7 / 5)) + 1


def _exponent(drawn: int, patients: int, rate: float) -> Decimal:
    """N KL(k / N, q) = k ln(k / (N q)) + (N - k) ln((N - k) / (N (1 - q))), in nats.

    All parties must get the same K, but the last bit of the C library's logarithm may differ between machines. The
    logarithm of `decimal` is correctly rounded.
    """
    total, heads = Decimal(0), Decimal(rate)
    for count, chance in ((drawn, heads), (patients - drawn, _DIGITS.subtract(Decimal(1), heads))):
        if count:
            odds = _DIGITS.divide(Decimal(count), _DIGITS.multiply(Decimal(patients), chance))
            total = _DIGITS.add(total, _DIGITS.multiply(Decimal(count), _DIGITS.ln(odds)))
    return total
