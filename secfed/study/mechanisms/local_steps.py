"""Local mode: several noised steps at each site, then one secure sum of their updates in fixed point.

Each site adds all the noise of its own training, so the promise holds against everybody else together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dp.delta_terms import DeltaTerms, LocalNoise
from dp.events import Unit
from dp.step_plan import LocalPlan, batches_needed
from protocols.encoding import FixedPoint
from secfed.study.algorithms import Algorithm, FedAvg, FedOptAdamBC, FedProx, LocalTraining
from secfed.study.mechanisms.base import Mechanism
from secfed.study.mechanisms.words import OVERFLOW, Row
from secfed.study.privacy import LocalPrivacy
from secfed.study.vouchers import RANDOMNESS, Statement, Voucher


class LocalSteps(Mechanism[LocalPrivacy]):
    """Private steps at each site by itself."""

    table = LocalPrivacy
    units = frozenset({Unit.PATIENT})

    def check_fits(self, algorithm: Algorithm) -> None:
        _local(algorithm)
        if isinstance(algorithm, FedOptAdamBC):
            raise ValueError(
                "fedopt-adambc subtracts the noise of a sum of gradients from its second moment, and local mode has no "
                "such noise: use fedopt-adam"
            )

    @property
    def steps_per_round(self) -> int:
        return _local(self.study.algorithm).steps

    @property
    def fixed_point(self) -> FixedPoint:
        """The encoding of updates.

        Raises:
            LocalError: floats cannot hold it.
        """
        bits = self.privacy.fraction_bits
        return FixedPoint(bits, int(self.privacy.bound * 2**bits))

    def plan(self, index: int, clip: float | None = None) -> LocalPlan:
        privacy, algorithm, entry = self.privacy, self.study.algorithm, self.study.roster[index]
        local, batch = _local(algorithm), algorithm.physical_batch
        return LocalPlan(
            steps=local.steps,
            sampling_rate=privacy.sampling_rate,
            nominal_patients=entry.patients,
            clip=privacy.clip,
            noise_multiplier=privacy.noise_multiplier,
            learning_rate=local.learning_rate,
            optimizer=local.optimizer,
            physical_batch=batch,
            batches=batches_needed(entry.patients_band[1], privacy.sampling_rate, 1, batch),
            proximal_mu=algorithm.mu if isinstance(algorithm, FedProx) else 0.0,
        )

    def progress_steps(self, index: int) -> int:
        return self.steps_per_round

    def upload(self, trained: NDArray[Any], index: int) -> NDArray[np.int64]:
        """(x_local - x) times the nominal weight, in fixed point."""
        return self.fixed_point.encode(trained, self.study.weights[index])

    @cached_property
    def largest_input(self) -> int:
        """The update is cut to its bound after the noise is added, so there is no more."""
        return max(self.study.weights) * self.fixed_point.limit

    def mean_change(
        self, total: NDArray[np.int64], survivors: Sequence[int], clip: float | None = None
    ) -> NDArray[np.float64]:
        """The weighted mean update."""
        return self.fixed_point.decode(total, sum(self.study.weights[node] for node in survivors))

    @property
    def noise(self) -> LocalNoise:
        return LocalNoise()

    @property
    def against_in_short(self) -> str:
        return "against everybody outside the patient's own site"

    @property
    def noise_in_short(self) -> str:
        return f"sigma = {self.privacy.noise_multiplier:g} C in every local step of every site"

    def parameter_rows(self) -> list[Row]:
        study, algorithm, point = self.study, self.study.algorithm, self.fixed_point
        local = _local(algorithm)
        return [
            (
                "Noise multiplier",
                "σ",
                f"{self.privacy.noise_multiplier:g}",
                "standard deviation of the noise each site adds to every sum of gradients, in units of C",
            ),
            (
                "Private steps",
                "T",
                f"{study.steps}",
                f"{algorithm.rounds} rounds of {local.steps} local steps, all of them accounted for",
            ),
            (
                "Records per drawn patient and step",
                "",
                "1",
                "chosen at random among the patient's records, anew each time",
            ),
            self.batches_row({self.plan(index).batches for index in range(len(study.roster))}),
            ("Optimiser", "", f"{local.optimizer}, {local.learning_rate:g}", "works on noised gradients only"),
            (
                "Grid",
                "",
                f"steps of 2^-{point.fraction_bits}",
                f"each element of an update is cut to ±{point.limit / 2**point.fraction_bits:g}, after the noise",
            ),
        ]

    def strategy_meaning(self) -> str:
        weighted = "updates are averaged, weighted by the nominal numbers of patients, which are public"
        if isinstance(self.study.algorithm, FedAvg):
            return weighted
        if isinstance(self.study.algorithm, FedProx):
            return f"{weighted}; the proximal term depends on no data, and is added after clipping and noise"
        return f"{weighted}; the optimiser works on the published sums only"

    def no_wrap(self) -> tuple[str, str]:
        weight, limit = max(self.study.weights), self.fixed_point.limit
        return (
            "The sum cannot wrap, whoever takes part",
            f"{len(self.study.roster)} sites × weight {weight} × element {limit}",
        )

    @property
    def sampler(self) -> str:
        return (
            "real-number Gaussian in double precision, from a cryptographic stream under a secret of its own; that "
            "rounding in the sampler reveals nothing is assumed, not proved"
        )

    def delta_rows(self, terms: DeltaTerms) -> list[tuple[str, float]]:
        return [(OVERFLOW, terms.overflow)]

    def against(self, durations: str) -> tuple[str, str]:
        return (
            "everybody outside the patient's own site: the public, the aggregator, and all other sites "
            f"together; {durations}",
            "Each site adds enough noise on its own, so that this does not depend on secure aggregation, nor on "
            "how any other party behaves. Secure aggregation hides each site's update on top of it.",
        )

    def rests_on_code(self) -> list[Statement]:
        return [
            Statement(
                "Every patient is drawn by an independent secret coin with the same chance, one random record each",
                Voucher.TESTED,
                "coins and record choice are keyed by the patient's id; tests remove a patient and compare the others",
            ),
            Statement(
                f"Nobody contributes a gradient longer than C = {self.privacy.clip:g}",
                Voucher.TESTED,
                "per-record gradients are clipped in float32; tests compare them with a loop over patients",
            ),
            Statement(
                "The noise is Gaussian and nobody can guess it",
                Voucher.ASSUMED,
                f"real-number Gaussian: assumed; {RANDOMNESS}",
            ),
        ]

    def most_moved(self, parties: int) -> str:
        return (
            f"One site can move every number by up to {parties} times as much as the largest honest site's update: no "
            "limit in practice."
        )


def _local(algorithm: Algorithm) -> LocalTraining:
    """The `[algorithm.local]` table, which this mode needs.

    Raises:
        ValueError: the study has none.
    """
    if algorithm.local is None:
        raise ValueError(
            'with mode = "local" every site trains by itself: add [algorithm.local] with steps and learning_rate'
        )
    return algorithm.local
