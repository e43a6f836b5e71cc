"""The interface of a privacy mode: every figure that depends on the mode. Its texts are in
`secfed.study.mechanisms.words`.

Code asks `study.mechanism` how a study is kept private, and never which mode it is in. `plan` makes all figures for
training. An error there would stay unnoticed: half the noise trains as well, and the report looks the same. So each
plan is one expression with every field by name, and `tests/secfed/study/test_plans.py` computes each field again from
the study's text.

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
        """Refuse a figure, table or strategy that has no effect in this mode, and one that is missing.

        Raises:
            ValueError: there is one.
        """

    def check_roster(self) -> None:
        """Refuse nominal numbers that are meaningless in this mode.

        Raises:
            ValueError: there is one.
        """

    def check_noise(self) -> None:
        """Check that the sampler can draw a node's noise.

        Raises:
            OutOfRange: it cannot.
        """

    def check_size(self, name: str, patients: Mapping[str, Sequence[object]]) -> None:
        """Check that a node has about as many units as the roster says: plans made for that number must suffice.

        Args:
            name: the node's name.
            patients: its records by patient.

        Raises:
            UserError: it has too few or too many.
        """
        if self.by_record and any(len(own) > 1 for own in patients.values()):
            raise UserError(
                f"the study protects single records, but {name} has patients with several: such a patient would "
                "spend more than the study says, and budgets protect patients",
                'Use a study with privacy.unit = "patient"; "record" is for data in which every record has its own '
                "patient id",
            )
        entry = self.study.roster[self.study.index_of(name)]
        found, (fewest, most) = sum(len(own) if self.by_record else 1 for own in patients.values()), entry.patients_band
        if not fewest <= found <= most:
            raise UserError(
                f"{name} has {found} {self.unit}s, and the study's roster says {entry.patients}; allowed: {fewest} to "
                f"{most}. This count is shown only here",
                "Use the data that the study was made for, or ask for a study with another rounded number",
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
            clip: C of the state from which the round starts, if it adapts; the study's C by default.
        """

    @abstractmethod
    def progress_steps(self, index: int) -> int:
        """How many steps of progress the node at this place reports in one round."""

    def upload(self, trained: NDArray[Any], index: int) -> NDArray[np.int64]:
        """The result of training, as the whole numbers that the node at this place uploads."""
        return trained

    @property
    def adaptive_clip(self) -> AdaptiveClip | None:
        """How the clipping norm adapts to the sums; None if it does not."""
        return None

    @property
    def indicator(self) -> int:
        """Grid steps in the element that says whether something was clipped; 0 if there is no such element."""
        return 0

    @property
    def elements_beside_gradient(self) -> int:
        """How many elements a node's vector has beside the trained parameters: 1 if the clipping norm adapts."""
        return int(self.adaptive_clip is not None)

    @property
    @abstractmethod
    def largest_input(self) -> int:
        """The largest absolute value that one element of a node's input can take, without noise."""

    @property
    def noise_tail(self) -> int:
        """A bound on every element of one node's noise; exceeded with probability at most 2^-40 in the whole study."""
        return 0

    @abstractmethod
    def mean_change(
        self, total: NDArray[np.int64], survivors: Sequence[int], clip: float | None = None
    ) -> NDArray[np.float64]:
        """D of the strategies: the direction that the survivors' sum gives, of shape (D,).

        Only operations that IEEE 754 fixes to the last bit are allowed (`secfed.rounds.strategies`).

        Args:
            total: the published sum, of shape (D,).
            survivors: U3; it gives the denominator, and no weights are sent.
            clip: C of the step, if it adapts; the study's C by default.
        """

    def noise_variance(self, survivors: Sequence[int], clip: float | None = None) -> float:
        """Phi: the public variance of the noise in one element of D; 0 if the sum has no noise of its own."""
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
        """The noise multiplier of a sum of this many survivors when c of them give their noise away."""
        return self.privacy.noise_multiplier

    def analysed(self) -> tuple[str, str]:
        """The mechanism that the accountant analyses, and what it releases."""
        event = self.event
        gaussian = f"Gaussian noise σ = {event.noise_multiplier:g}"
        return (
            f"add-or-remove one {self.unit}, Poisson-sampled Gaussian mechanism",
            f"{event.steps} × Poisson sampling at q = {event.sampling_rate:g} of {gaussian}",
        )
