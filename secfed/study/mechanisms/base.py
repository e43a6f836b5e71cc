"""What a mode of privacy has to say of itself: every figure that depends on it, and every word
(`secfed.study.mechanisms.words`).

Whoever needs to know how a study is kept private asks `study.mechanism`, and never in which mode it is. Figures that
training gets are made in `plan`, the one place where they change hands: a figure that is lost there is lost without a
trace, because half the noise trains as well, and its report looks as ever. So each plan is made in one expression,
every field by name, and `tests/secfed/study/test_plans.py` computes each field from the study's text by itself.

No torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dp.delta_terms import Noise
from dp.events import NoisedSums
from dp.step_plan import LocalPlan, NodePlan, StepPlan
from secfed.errors import UserError
from secfed.study.algorithms import Algorithm
from secfed.study.mechanisms.words import Table, Words
from secfed.study.privacy import AdaptiveClip

Plan: TypeAlias = LocalPlan | StepPlan | NodePlan
"""What training gets. Its type says which training carries it out (`secfed.models.training`)."""


class Mechanism(Words[Table]):
    """How a study is kept private. One class for each mode."""

    # What fits together.

    @abstractmethod
    def check_fits(self, algorithm: Algorithm) -> None:
        """Refuse what has no effect here, and what is missing.

        Raises:
            ValueError: there is such a figure, table or strategy.
        """

    def check_roster(self) -> None:
        """Refuse nominal numbers that mean nothing here.

        Raises:
            ValueError: there is one.
        """

    def check_noise(self) -> None:
        """The sampler can draw a node's noise.

        Raises:
            OutOfRange: it cannot.
        """

    def check_size(self, name: str, patients: Mapping[str, Sequence[object]]) -> None:
        """A node has about as many units as the roster says: what is planned for the nominal number must suffice.

        Args:
            name: the node's.
            patients: its records by patient.

        Raises:
            UserError: it has fewer or more.
        """
        if self.by_record and any(len(own) > 1 for own in patients.values()):
            raise UserError(
                f"the study protects single records, and {name} has patients with several: what they would spend is "
                "more than the study says, and the budget is the patients'",
                'Have a study with privacy.unit = "patient" signed; "record" is for data in which every record has a '
                "patient id of its own",
            )
        entry = self.study.roster[self.study.index_of(name)]
        found, (fewest, most) = sum(len(own) if self.by_record else 1 for own in patients.values()), entry.patients_band
        if not fewest <= found <= most:
            raise UserError(
                f"{name} has {found} {self.unit}s, and the study's roster says {entry.patients}: from {fewest} to "
                f"{most} would do. This is told here and to nobody else",
                "Use the data that the study means, or have a study with another rounded number signed",
            )

    # What is done.

    @property
    def steps_per_round(self) -> int:
        """Noised sums in one round."""
        return 1

    @abstractmethod
    def plan(self, index: int, clip: float | None = None) -> Plan:
        """What the node at this place of the roster does in one round.

        Args:
            index: its place.
            clip: C of the state that the round starts from, where it adapts; the study's by default.
        """

    @abstractmethod
    def progress_steps(self, index: int) -> int:
        """How many steps of progress the node at this place reports in one round."""

    def upload(self, trained: NDArray[Any], index: int) -> NDArray[np.int64]:
        """What training gave, as the whole numbers that the node at this place uploads."""
        return trained

    @property
    def adaptive_clip(self) -> AdaptiveClip | None:
        """How the clipping norm follows the sums, if it does."""
        return None

    @property
    def indicator(self) -> int:
        """Steps of the grid in the element that says whether something was shortened; 0 where there is none."""
        return 0

    @property
    def elements_beside_gradient(self) -> int:
        """A node's vector is so much longer than the trained parameters: 1 where the clipping norm adapts."""
        return int(self.adaptive_clip is not None)

    @property
    @abstractmethod
    def largest_input(self) -> int:
        """The largest absolute value that one element of a node's input can take, without noise."""

    @property
    def noise_tail(self) -> int:
        """No element of one node's noise is larger, but with a probability of 2^-40 for the whole study."""
        return 0

    @abstractmethod
    def mean_change(
        self, total: NDArray[np.int64], survivors: Sequence[int], clip: float | None = None
    ) -> NDArray[np.float64]:
        """D of the strategies: the direction in which the survivors' patients want to go, of shape (D,).

        Only what IEEE 754 fixes to the last bit may occur (`secfed.rounds.strategies`).

        Args:
            total: the published sum, of shape (D,).
            survivors: U3; the denominator follows from it, and nothing about weights is sent.
            clip: C of the step, where it adapts; the study's by default.
        """

    def noise_variance(self, survivors: Sequence[int], clip: float | None = None) -> float:
        """Phi: the variance of the noise in one element of D, as far as the sum is noised; public."""
        return 0.0

    # What is accounted for.

    @property
    def event(self) -> NoisedSums:
        """The whole study's event, at its nominal noise and for all planned steps."""
        privacy = self.privacy
        return NoisedSums(privacy.sampling_rate, privacy.noise_multiplier, self.study.steps, unit=privacy.protects)

    @property
    @abstractmethod
    def noise(self) -> Noise:
        """How noise is made."""

    def noise_as_run(self, survivors: int) -> float:
        """The noise multiplier of a sum of so many, when c of them give theirs away."""
        return self.privacy.noise_multiplier

    def analysed(self) -> tuple[str, str]:
        """The mechanism that is accounted for, and what it releases."""
        event = self.event
        gaussian = f"Gaussian noise σ = {event.noise_multiplier:g}"
        return (
            f"add-or-remove one {self.unit}, Poisson-sampled Gaussian mechanism",
            f"{event.steps} × Poisson sampling at q = {event.sampling_rate:g} of {gaussian}",
        )
