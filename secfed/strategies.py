"""Model evolution: the next state, computed by every node from the published sum alone.

The aggregator sends no weights, ever. Each node adds the weighted mean of the updates to the state it has, in float64
with elementwise + - * / only, and rounds to float32 at one fixed place, so that every processor gets the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from crypto.kdf import digest
from protocols.encoding import FixedPoint
from protocols.wire import canonical
from secfed.study import Study

Layout: TypeAlias = Sequence[tuple[str, tuple[int, ...]]]
"""Names and shapes of the trained parameters, in the order of the flat vector."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a round starts from: the trained parameters. (Moments of an adaptive strategy belong here, too.)"""

    adapter: NDArray[np.float32]
    """Flat, D elements."""

    def digest(self, layout: Layout) -> bytes:
        """32 bytes over the layout and every bit of the state."""
        names = [[name, list(shape)] for name, shape in layout]
        return digest("state", canonical(names), self.adapter.astype("<f4", copy=False).tobytes())


def fixed_point(study: Study) -> FixedPoint:
    """The study's encoding of updates."""
    return FixedPoint(study.encoding.fraction_bits, study.element_limit)


def federated_average(
    study: Study, state: ModelState, total: NDArray[np.int64], survivors: Sequence[int]
) -> ModelState:
    """FedAvg (McMahan et al. 2017, algorithm 1) on updates: x + sum_u w_u d_u / sum_u w_u.

    Args:
        study: gives the nominal weights and the encoding.
        state: the state that the round started from.
        total: the published sum of w_u d_u in fixed point, centred integers of shape (D,).
        survivors: U3; the sum of weights follows from it, and nothing about weights is sent.
    """
    weight = sum(study.weights[node] for node in survivors)
    mean = fixed_point(study).decode(total, weight)
    return ModelState((state.adapter.astype(np.float64) + mean).astype(np.float32))
