"""The build that is shipped, and builds with one known defect each.

A defect is one line of the real code replaced by another, here and nowhere else. Each of them is a mistake that was
made in some system for private learning, leaves the training working, and shows in no accuracy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from crypto.randomness import NoiseSecret
from dp import distributed
from dp.distributed import draw_noise
from dp.patients import Drawn, draw_patients, patient_vectors

Defect = AbstractContextManager[object]


@dataclass(frozen=True, slots=True)
class Build:
    """A way to make a node's contribution."""

    name: str
    what: str
    """What it does, as one sentence."""
    replace: Callable[[], Defect] = nullcontext
    """While this is active, a node has the defect."""
    at_one_node: bool = False
    """Only one of the honest nodes has it."""

    def defect(self, first: bool) -> Defect:
        """While this is active, the node that computes is one of this build.

        Args:
            first: whether it is the first of the honest nodes.
        """
        return self.replace() if first or not self.at_one_node else nullcontext()


def _half_the_noise() -> Defect:
    def halved(secret: NoiseSecret, round_number: int, count: int, variance: Fraction) -> NDArray[np.int64]:
        return draw_noise(secret, round_number, count, variance / 4)

    return patch.object(distributed, "draw_noise", halved)


def _no_noise() -> Defect:
    return patch.object(distributed, "draw_noise", lambda secret, number, count, variance: np.zeros(count, np.int64))


def _twice_the_clip() -> Defect:
    def twice(drawn: Any, batches: Any, dimension: int, clip: float, grid: int, *arguments: Any) -> Any:
        return patient_vectors(drawn, batches, dimension, 2 * clip, 2 * grid, *arguments)

    return patch.object(distributed, "patient_vectors", twice)


def _records_clipped_singly() -> Defect:
    def singly(drawn: Iterable[Drawn], *arguments: Any) -> Any:
        return patient_vectors([Drawn(entry.patient, (row,)) for entry in drawn for row in entry.rows], *arguments)

    return patch.object(distributed, "patient_vectors", singly)


def _everybody_drawn() -> Defect:
    def everybody(rows: Any, sampling_rate: float, *arguments: Any) -> list[Drawn]:
        return draw_patients(rows, 1.0, *arguments)

    return patch.object(distributed, "draw_patients", everybody)


REAL = Build("real", "the code as it is shipped")
WEAKENED = (
    Build("halved noise", "every share of noise has half the standard deviation", _half_the_noise),
    Build("doubled sensitivity", "patients are clipped to twice the norm that is accounted for", _twice_the_clip),
    Build("record-level clipping", "records are clipped and then added up by patient", _records_clipped_singly),
    Build("missing noise share", "one more node than may collude adds no noise", _no_noise, at_one_node=True),
)
UNSAMPLED = Build("nobody left out", "every patient takes part in every step", _everybody_drawn)
"""A defect that shows only where q < 1."""
