"""The shipped build, and builds with one known defect each.

A defect replaces one line of the real code, only here. Each is a mistake that some system for private learning has
made; training still works, and the accuracy does not show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

import dp.training
from crypto.randomness import NoiseSecret
from dp import distributed, node_update
from dp.distributed import draw_noise
from dp.patients import Drawn, draw_patients, patient_vectors
from dp.sampling import draw
from dp.step_plan import LocalPlan
from dp.training import NoisyOptimizer, train_locally
from secfed.models import training

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
    """Whether only one of the honest nodes has it."""

    def defect(self, first: bool) -> Defect:
        """While this is active, the node that computes is one of this build.

        Args:
            first: whether it is the first of the honest nodes.
        """
        return self.replace() if first or not self.at_one_node else nullcontext()


def _half_the_noise() -> Defect:
    def halved(secret: NoiseSecret, round_number: int, count: int, variance: Fraction) -> NDArray[np.int64]:
        return draw_noise(secret, round_number, count, variance / 4)

    return _noise_drawn_by(halved)


def _no_noise() -> Defect:
    return _noise_drawn_by(lambda secret, number, count, variance: np.zeros(count, np.int64))


@contextmanager
def _noise_drawn_by(other: Callable[..., NDArray[np.int64]]) -> Iterator[None]:
    """In both kinds of distributed training."""
    with patch.object(distributed, "draw_noise", other), patch.object(node_update, "draw_noise", other):
        yield


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


def _update_as_it_is() -> Defect:
    def rounded(update: NDArray[np.float64], clip: float, grid: int, indicator: int = 0) -> NDArray[np.int64]:
        return np.trunc(update * (grid / clip)).astype(np.int64)

    return patch.object(node_update, "clipped_integers", rounded)


def _local_plan(**figures: Callable[[LocalPlan], float]) -> Defect:
    """Local training gets figures that differ from the study's."""

    def otherwise(model: Any, patients: Any, plan: LocalPlan, *arguments: Any) -> None:
        bent: dict[str, Any] = {name: figure(plan) for name, figure in figures.items()}
        train_locally(model, patients, replace(plan, **bent), *arguments)

    return patch.object(training, "train_locally", otherwise)


def _half_the_sigma() -> Defect:
    return _local_plan(noise_multiplier=lambda plan: plan.noise_multiplier / 2)


def _twice_the_local_clip() -> Defect:
    return _local_plan(clip=lambda plan: 2 * plan.clip, noise_multiplier=lambda plan: plan.noise_multiplier / 2)


def _a_step_without_noise() -> Defect:
    noisy = NoisyOptimizer.add_noise

    def add_noise(self: NoisyOptimizer) -> None:
        if self.__dict__.setdefault("has_noise", False):
            noisy(self)
            return
        self.__dict__["has_noise"] = True
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.clone()

    return patch.object(NoisyOptimizer, "add_noise", add_noise)


def _everybody_drawn_locally() -> Defect:
    def everybody(rows: Any, sampling_rate: float, *arguments: Any) -> list[int]:
        return draw(rows, 1.0, *arguments)

    return patch.object(dp.training, "draw", everybody)


REAL = Build("real", "the code as it is shipped")
HALVED_NOISE = Build("halved noise", "every share of noise has half the standard deviation", _half_the_noise)
WEAKENED = (
    HALVED_NOISE,
    Build("doubled sensitivity", "patients are clipped to twice the norm that is accounted for", _twice_the_clip),
    Build("record-level clipping", "records are clipped and then added up by patient", _records_clipped_singly),
    Build("missing noise share", "one more node than may collude adds no noise", _no_noise, at_one_node=True),
)
UNSAMPLED = Build("nobody left out", "every patient takes part in every step", _everybody_drawn)
"""A defect that shows only where q < 1."""
UNCLIPPED = Build("clip off", "a node's update is as long as it came out", _update_as_it_is)
WEAKENED_LOCALLY = (
    Build("halved sigma", "local training is given half of the signed noise multiplier", _half_the_sigma),
    Build("a step without noise", "the first step of a round adds none", _a_step_without_noise),
    Build("doubled clip", "patients are clipped to twice the norm, with the noise as before", _twice_the_local_clip),
)
UNSAMPLED_LOCALLY = Build("nobody left out", "every patient takes part in every step", _everybody_drawn_locally)
