"""Model evolution: every node computes the next state from the published sum alone.

The aggregator never sends weights. Each node derives the direction D from the sum and moves its own state, moments
included. All nodes must get the same bits on every processor, or there is no receipt. So this module uses only what
IEEE 754 fixes to the last bit: + - * / and square roots in float64, element by element, and comparisons for signs.
NumPy does one operation at a time over whole arrays and stores its result, so no multiply-add is fused; its vector
instructions round each element as scalar ones do. Powers, exponentials, BLAS and sums over an array differ between
processors, and do not occur here. The adapter is rounded to float32 in one place.

FedAvg is McMahan et al. 2017, algorithm 1, on updates. FedProx (Li et al. 2020) averages in the same way. FedOpt is
Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2, which also has no bias correction; with momentum and
no second moment it is FedAvgM (Hsu et al. 2019). Adam without the noise in its second moment is Tang et al. 2024,
"DP-AdamBC". All of this works on a sum that is already public, so it costs no privacy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crypto.kdf import digest
from protocols.wire import canonical
from secfed.rounds.adaptive_clip import first_clip, next_clip
from secfed.study.algorithms import (
    Algorithm,
    FedAvg,
    FedOptAdagrad,
    FedOptAdam,
    FedOptAdamBC,
    FedOptSgd,
    FedOptYogi,
    FedProx,
)
from secfed.study.manifest import Study

Layout: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of the trained parameters, in the order of the flat vector."""
Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModelState:
    """The start of a round: the trained parameters, and what the strategy remembers from earlier rounds."""

    adapter: NDArray[np.float32]
    """Flat, D elements."""
    moments: tuple[Vector, ...] = ()
    """The first moment m, then the second moment v, of D elements each, if the strategy has them: FedAvg and FedProx
    have none, SGD with momentum has m."""
    clip: float | None = None
    """C of the next step if it adapts; None if the study fixes it."""

    def digest(self, layout: Layout) -> bytes:
        """32 bytes over the layout and every bit of the state, moments included (SPEC, section 4)."""
        names = [[name, list(shape)] for name, shape in layout]
        adapter = self.adapter.astype("<f4", copy=False).tobytes()
        moments = (moment.astype("<f8", copy=False).tobytes() for moment in self.moments)
        clip = () if self.clip is None else (struct.pack("<d", self.clip),)
        return digest("state", canonical(names), adapter, *moments, *clip)


def first_state(study: Study, adapter: NDArray[np.float32]) -> ModelState:
    """The state before any round. Its moments follow from the study (m is zero, v is tau^2), and so does an adaptive C.

    Args:
        study: gives the strategy.
        adapter: the first adapter, of shape (D,).
    """
    return ModelState(adapter, _first_moments(study.algorithm, adapter.size), first_clip(study))


def _first_moments(algorithm: Algorithm, dimension: int) -> tuple[Vector, ...]:
    match algorithm:
        case FedAvg() | FedProx():
            return ()
        case FedOptSgd():
            return (np.zeros(dimension),)
        case FedOptAdamBC():
            return (np.zeros(dimension), np.zeros(dimension))
        case FedOptAdam(tau=tau) | FedOptYogi(tau=tau) | FedOptAdagrad(tau=tau):
            return (np.zeros(dimension), np.full(dimension, tau * tau))


def next_state(study: Study, state: ModelState, total: NDArray[np.int64], survivors: Sequence[int]) -> ModelState:
    """The state that a published sum leads to.

    Args:
        study: gives the strategy, the nominal weights and the encoding.
        state: the state that the round started from.
        total: the published sum, centred integers of shape (D,). In local mode it is the sum of w_u d_u in fixed point.
            In distributed mode it is the sum of clipped gradients, or of nodes' clipped updates, and of noise, in steps
            of the grid. If the clipping norm adapts, there is one more element: the sum of the indicators.
        survivors: U3; the denominator follows from it, so nobody sends weights.
    """
    dimension = state.adapter.size
    change = study.mechanism.mean_change(total[:dimension], survivors, state.clip)
    moved = move(study.algorithm, state, change, study.mechanism.noise_variance(survivors, state.clip))
    if state.clip is None:
        return moved
    return replace(moved, clip=next_clip(study, state.clip, int(total[dimension]), survivors))


def move(algorithm: Algorithm, state: ModelState, change: Vector, noise: float = 0.0) -> ModelState:
    """One step of the strategy. Does not change `state`.

    Args:
        algorithm: of the study, with its figures.
        state: with the moments of this strategy.
        change: D of the formulas, shape (D,): the direction in which the sites want to go.
        noise: the variance of the noise in each element of D, for the strategy that subtracts it.

    Raises:
        ValueError: the state has other moments than this strategy.
    """
    match algorithm:
        case FedAvg() | FedProx():
            return average(state, change)
        case FedOptSgd():
            return sgd_with_momentum(algorithm, state, change)
        case FedOptAdam():
            return adam(algorithm, state, change)
        case FedOptAdamBC():
            return adam_without_noise(algorithm, state, change, noise)
        case FedOptYogi():
            return yogi(algorithm, state, change)
        case FedOptAdagrad():
            return adagrad(algorithm, state, change)


def average(state: ModelState, change: Vector) -> ModelState:
    """FedAvg: x + D."""
    () = state.moments
    return ModelState(_moved(state, change))


def sgd_with_momentum(algorithm: FedOptSgd, state: ModelState, change: Vector) -> ModelState:
    """m = beta1 m + D; x + eta m."""
    (m,) = state.moments
    m = algorithm.beta1 * m + change
    return ModelState(_moved(state, algorithm.server_learning_rate * m), (m,))


def adam(algorithm: FedOptAdam, state: ModelState, change: Vector) -> ModelState:
    """v = beta2 v + (1 - beta2) D^2, with the step of `_adapted`."""
    m, v = state.moments
    v = algorithm.beta2 * v + (1.0 - algorithm.beta2) * (change * change)
    return _adapted(algorithm, state, m, v, change)


def adam_without_noise(algorithm: FedOptAdamBC, state: ModelState, change: Vector, noise: float) -> ModelState:
    """v = beta2 v + (1 - beta2) (D^2 - Phi); m = beta1 m + (1 - beta1) D; x + eta m / sqrt(max(v, floor)).

    The variance of the noise is subtracted in each step, because it depends on the survivors. So v may be negative.
    There is no correction for moments that start at zero, as everywhere here.
    """
    m, v = state.moments
    m = algorithm.beta1 * m + (1.0 - algorithm.beta1) * change
    v = algorithm.beta2 * v + (1.0 - algorithm.beta2) * (change * change - noise)
    step = algorithm.server_learning_rate * m / np.sqrt(np.maximum(v, algorithm.floor))
    return ModelState(_moved(state, step), (m, v))


def yogi(algorithm: FedOptYogi, state: ModelState, change: Vector) -> ModelState:
    """v = v - (1 - beta2) D^2 sign(v - D^2), with the step of `_adapted`. What it subtracts is less than v."""
    m, v = state.moments
    square = change * change
    by = (1.0 - algorithm.beta2) * square
    v = np.where(v > square, v - by, np.where(v < square, v + by, v))
    return _adapted(algorithm, state, m, v, change)


def adagrad(algorithm: FedOptAdagrad, state: ModelState, change: Vector) -> ModelState:
    """v = v + D^2, with the step of `_adapted`."""
    m, v = state.moments
    return _adapted(algorithm, state, m, v + change * change, change)


def _adapted(
    algorithm: FedOptAdam | FedOptYogi | FedOptAdagrad, state: ModelState, m: Vector, v: Vector, change: Vector
) -> ModelState:
    """m = beta1 m + (1 - beta1) D; x + eta m / (sqrt(v) + tau), with the new v."""
    m = algorithm.beta1 * m + (1.0 - algorithm.beta1) * change
    step = algorithm.server_learning_rate * m / (np.sqrt(v) + algorithm.tau)
    return ModelState(_moved(state, step), (m, v))


def _moved(state: ModelState, step: Vector) -> NDArray[np.float32]:
    """The adapter after a step: added in float64, and rounded to float32 only here."""
    return (state.adapter.astype(np.float64) + step).astype(np.float32)
