"""A study's `[privacy]` table: what each patient is promised, and in which of two modes.

`distributed`, the default: a round is one step of DP-SGD over the union of all sites, or with `unit = "node"` an
average of the nodes' own training, where each node is one unit of privacy. Each node adds a share of the noise. The
promise holds as long as at most c of them collude, leak their noise, or fail to add it.
`local`: each site adds all the noise of its own training. The promise holds against everybody else together.

The noise multiplier is signed. Every site checks that it keeps the promise. No site computes its own, so no site adds
less noise because its accountant has another version.
"""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, model_validator

from dp.delta_terms import GRID
from dp.events import Unit
from dp.step_plan import gradient_grid
from secfed.study.sections import Section, refuse_without_effect


class PrivacyTable(Section):
    """Keys of every mode. Each mode's mechanism takes its own table (`secfed.study.mechanisms`)."""

    mode: str
    epsilon: float = Field(gt=0, le=100)
    delta: float = Field(gt=0, lt=1)
    noise_multiplier: float = Field(ge=1 / 16, le=4096)
    """sigma: standard deviation of the noise in units of C. In distributed mode it is nominal: the noise that remains
    with the fewest survivors when c of them give theirs away."""
    sampling_rate: float = Field(ge=1e-9, le=1)
    """q: the probability that a patient is drawn in a step, the same at every site."""
    clip: float = Field(gt=0, le=1e6)
    """C: the largest L2 norm of one patient's gradient, or of one node's update."""

    @model_validator(mode="before")
    @classmethod
    def _every_key_has_an_effect(cls, values: Any) -> Any:
        refuse_without_effect(values, cls, PrivacyTable.__subclasses__(), f"in {cls.model_fields['mode'].default} mode")
        return values

    @property
    @abstractmethod
    def protects(self) -> Unit:
        """Whose presence is hidden."""

    @property
    def exact_noise_multiplier(self) -> Fraction:
        """sigma exactly as the study writes it."""
        return Fraction(repr(self.noise_multiplier))


class LocalPrivacy(PrivacyTable):
    """Several noised steps at each site, then one secure sum of updates in fixed point."""

    mode: Literal["local"] = "local"
    bound: float = Field(default=0.25, gt=0, le=1024)
    """An update's elements are cut to [-bound, bound], after the noise."""
    fraction_bits: int = Field(default=18, ge=4, le=40)
    """They are sent as whole numbers, in steps of 2^-fraction_bits."""

    @property
    def protects(self) -> Unit:
        """Whose presence is hidden."""
        return Unit.PATIENT


class AdaptiveClip(Section):
    """The clipping norm adapts to the gradients, from noised sums alone (Andrew et al. 2021, algorithm 1).

    One more element of every gradient says whether it was clipped. The noised sum of these elements gives the fraction:
    C' = C exp(-learning_rate (fraction not clipped - quantile)).
    """

    quantile: float = Field(default=0.5, gt=0, lt=1)
    """gamma: the fraction of gradients that should stay unclipped."""
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    """eta_C: how fast the logarithm of C moves."""
    indicator: float = Field(default=0.1, gt=0, le=0.9)
    """kappa: the size of that element, in units of one vector's largest norm. The gradient gets the rest:
    sqrt(1 - kappa^2)."""


class DistributedPrivacy(PrivacyTable):
    """One noised sum of all sites together."""

    mode: Literal["distributed"] = "distributed"
    unit: Literal["patient", "record", "node"] = "patient"
    """The unit of privacy: a patient with all records, one record in data without patients, or a node with all its
    data, such as a household."""
    records_per_patient: int = Field(default=4, ge=1, le=1000)
    """G: the most records of a drawn patient in one step, chosen anew in each step."""
    grid: int = Field(default=GRID, ge=2, le=1 << 26)
    """Grid steps in the largest norm of one vector: after clipping, gradients are whole numbers. That norm is C, or
    with `adaptive_clip` C / sqrt(1 - kappa^2)."""
    adaptive_clip: AdaptiveClip | None = None
    """Whether `clip` is only the first C."""

    @model_validator(mode="before")
    @classmethod
    def _a_unit_may_fix_other_figures(cls, values: Any) -> Any:
        unit = values.get("unit") if isinstance(values, dict) else None
        if unit not in ("record", "node"):
            return values
        if "records_per_patient" in values:
            raise ValueError(f'records_per_patient has no effect with unit = "{unit}"; leave it out')
        values = {**values, "records_per_patient": 1}
        if unit == "node":
            values.setdefault("sampling_rate", 1.0)
            if values["sampling_rate"] != 1:
                raise ValueError(
                    'sampling_rate is 1 with unit = "node": a node cannot hide that it takes part, so that drawing '
                    "nodes by chance would protect none of them; leave it out"
                )
        return values

    @model_validator(mode="after")
    def _the_indicator_is_on_the_grid(self) -> DistributedPrivacy:
        if self.adaptive_clip is not None and not (self.indicator and self.gradient_grid):
            raise ValueError(f"a grid of {self.grid} steps is too coarse for an indicator of its own")
        return self

    def written(self) -> dict[str, Any]:
        """Without the keys that the unit fixes: they have no effect in a file."""
        fixed = {"patient": (), "record": ("records_per_patient",), "node": ("records_per_patient", "sampling_rate")}
        return {name: value for name, value in super().written().items() if name not in fixed[self.unit]}

    @property
    def protects(self) -> Unit:
        """Whose presence is hidden."""
        return Unit(self.unit)

    @property
    def indicator(self) -> int:
        """Grid steps in the element that says whether a gradient was clipped; 0 if there is no such element."""
        return 0 if self.adaptive_clip is None else int(Fraction(repr(self.adaptive_clip.indicator)) * self.grid)

    @property
    def gradient_grid(self) -> int:
        """Grid steps in C."""
        return gradient_grid(self.grid, self.indicator)


def describe(settings: AdaptiveClip, what: str = "gradient") -> str:
    """The rule in a few words, for people; `what` is clipped."""
    return f"follows the {settings.quantile:.12g} quantile of {what} norms, learning rate {settings.learning_rate:.12g}"
