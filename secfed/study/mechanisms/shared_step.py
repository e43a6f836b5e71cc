"""Distributed mode over patients or records: a round is one step of DP-SGD over the union of all sites."""

from __future__ import annotations

from functools import cached_property

from dp.delta_terms import DeltaTerms
from dp.events import Unit
from dp.step_plan import StepPlan, batches_needed
from secfed.study.algorithms import Algorithm, FedAvg, FedOptAdamBC, FedProx
from secfed.study.mechanisms.shared_noise import SharedNoise
from secfed.study.mechanisms.words import OVERFLOW, Row
from secfed.study.vouchers import Statement, Voucher


class SharedStep(SharedNoise):
    """The clipped gradients of drawn patients, or records, of all sites in one sum.

    D of the strategy is the negative mean gradient of Abadi et al. 2016, algorithm 1.
    """

    units = frozenset({Unit.PATIENT, Unit.RECORD})
    what, direction, turn = "gradient", -1.0, "step"

    def check_fits(self, algorithm: Algorithm) -> None:
        if isinstance(algorithm, FedAvg | FedProx):
            raise ValueError(
                f"{algorithm.strategy} averages local training, but in distributed mode a round is one step of all "
                'sites together: use a fedopt strategy (fedopt-sgd is plain SGD), mode = "local", or unit = '
                '"node" if each site is one unit of privacy'
            )
        if algorithm.local is not None:
            raise ValueError('[algorithm.local] has no effect in distributed mode, unless unit = "node"; leave it out')

    def plan(self, index: int, clip: float | None = None) -> StepPlan:
        privacy, batch = self.privacy, self.study.algorithm.physical_batch
        most = self.study.roster[index].patients_band[1]
        return StepPlan(
            sampling_rate=privacy.sampling_rate,
            clip=privacy.clip if clip is None else clip,
            grid=privacy.grid,
            most_records=privacy.records_per_patient,
            physical_batch=batch,
            batches=batches_needed(most, privacy.sampling_rate, privacy.records_per_patient, batch),
            noise_variance=self.share_variance,
            indicator=privacy.indicator,
        )

    def progress_steps(self, index: int) -> int:
        return self.plan(index).batches

    @cached_property
    def largest_input(self) -> int:
        """The most: as many patients as fit a step's batches, each a whole gradient long in one direction."""
        return max(self.plan(index).most_patients for index in range(len(self.study.roster))) * self.privacy.grid

    def parameter_rows(self) -> list[Row]:
        study = self.study
        return [
            *self.noise_rows(),
            (
                "Private steps",
                "T",
                f"{study.steps}",
                "one step of all sites together in a round, all accounted for",
            ),
            (
                "Records per drawn patient and step",
                "G",
                f"at most {self.privacy.records_per_patient}",
                "chosen at random among the patient's records, anew each time; added up and clipped once",
            ),
            self.batches_row({self.plan(index).batches for index in range(len(study.roster))}),
            self.grid_row(),
        ]

    def strategy_meaning(self) -> str:
        gradient = "the sum, divided by the public q N of its sites, is the gradient; works on published sums only"
        bias_corrected = isinstance(self.study.algorithm, FedOptAdamBC)
        return f"{gradient}, less the noise's public variance" if bias_corrected else gradient

    def delta_rows(self, terms: DeltaTerms) -> list[tuple[str, float]]:
        sampler, *others = super().delta_rows(terms)
        return [sampler, (OVERFLOW, terms.overflow), *others]

    def rests_on_code(self) -> list[Statement]:
        drawn = Statement(
            f"Every {self.unit} is drawn by an independent secret coin with the same chance at every site",
            Voucher.TESTED,
            f"the rate is in the signed study; coins are keyed by the {self.unit}; a test removes one and compares "
            "what all others contribute, bit for bit",
        )
        once = (
            "the sum over all its records is clipped once, rounded toward zero, and its norm checked in whole numbers"
        )
        return [drawn, *self.rests_on_clip(once), *self.rests_on_noise()]
